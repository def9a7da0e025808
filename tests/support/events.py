"""Short constructors of events for tests of pure packages. Job N is submitted at N seconds."""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from taskqd.model.events import (
    Cancelled,
    Changed,
    Configured,
    Continued,
    Ended,
    Event,
    Held,
    Paused,
    Released,
    Removed,
    Rescaled,
    Rescheduled,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Skipped,
    Started,
    Submitted,
    Suspended,
    Unscheduled,
)
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array, Spec
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState


def spec(**options: Any) -> Spec:
    return Spec(**options)


def submitted(job_id: int, schedule: int | None = None, **options: Any) -> Submitted:
    return Submitted(
        id=job_id, at=float(job_id), owner="ann", command="true", spec=spec(**options), schedule=schedule
    )


def array(job_id: int, count: int, at_once: int | None = None, **options: Any) -> Submitted:
    """Return the submission of an array with the indexes from 1 to ``count``."""
    return submitted(job_id, array=Array(1, count, at_once), **options)


def started(job_id: int, attempt: int = 1, at: float = 100.0) -> Started:
    return Started(id=job_id, at=at, attempt=attempt)


def ended(
    job_id: int,
    status: Status = Status.COMPLETED,
    retry_at: float | None = None,
    at: float = 200.0,
    ended_at: float | None = None,
) -> Ended:
    if status is Status.COMPLETED:
        return Ended(id=job_id, at=at, status=status, exit_code=0, ended_at=ended_at)
    failed = Ended(id=job_id, at=at, status=status, reason=Reason.EXIT, exit_code=3)
    return replace(failed, retry_at=retry_at, ended_at=ended_at)


def ran(job_id: int, status: Status = Status.COMPLETED) -> tuple[Event, ...]:
    return started(job_id), ended(job_id, status)


def cancelled(job_id: int, at: float = 300.0) -> Cancelled:
    return Cancelled(id=job_id, at=at, by="bob", signal=15)


def skipped(job_id: int, dependency: int) -> Skipped:
    return Skipped(id=job_id, at=300.0, dependency=dependency)


def suspended(job_id: int, at: float = 300.0) -> Suspended:
    return Suspended(id=job_id, at=at, by="bob")


def continued(job_id: int, at: float = 300.0) -> Continued:
    return Continued(id=job_id, at=at, by="bob")


def held(job_id: int) -> Held:
    return Held(id=job_id, at=300.0, by="bob")


def released(job_id: int) -> Released:
    return Released(id=job_id, at=300.0, by="bob")


def changed(job_id: int, *, is_delay: bool = False, **options: Any) -> Changed:
    return Changed(id=job_id, at=300.0, by="bob", command="true", spec=spec(**options), is_delay=is_delay)


def retried(job_id: int) -> Retried:
    return Retried(id=job_id, at=400.0, by="bob")


def removed(job_id: int) -> Removed:
    return Removed(id=job_id, at=500.0, by="bob")


def resized(queue: str, slots: int | None) -> Resized:
    return Resized(at=300.0, by="bob", queue=queue, slots=slots)


def rescaled(slots: int | None) -> Rescaled:
    return Rescaled(at=300.0, by="bob", slots=slots)


def configured(queue: str, setting: str, value: bool | str | None) -> Configured:
    return Configured(at=300.0, by="bob", queue=queue, setting=setting, value=value)


def paused(queue: str | None = None, schedule: int | None = None) -> Paused:
    return Paused(at=300.0, by="bob", queue=queue, schedule=schedule)


def resumed(queue: str | None = None, schedule: int | None = None) -> Resumed:
    return Resumed(at=300.0, by="bob", queue=queue, schedule=schedule)


def scheduled(number: int = 1, every: float = 60.0) -> Scheduled:
    return Scheduled(at=0.0, by="bob", schedule=number, command="true", every=every)


def rescheduled(number: int = 1, at: float = 100.0, **content: Any) -> Rescheduled:
    return Rescheduled(at=at, by="bob", schedule=number, command="false", **content)


def unscheduled(number: int = 1) -> Unscheduled:
    return Unscheduled(at=0.0, by="bob", schedule=number)


def fold(*events: Event, totals: CapacityTotals | None = None) -> QueueState:
    """Return the state after events; without ``totals`` there is no limit of slots."""
    queue_state = QueueState(totals) if totals else QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state


def next_jobs(queue_state: QueueState, now: float = 1000.0) -> list[int]:
    """Allocate capacity to all jobs that may start at ``now``, and return their ids in order."""
    job_ids: list[int] = []
    while (job := queue_state.next_job(now)) is not None:
        job_ids.append(job.id)
    return job_ids


def apply_all(queue_state: QueueState, events: Iterable[Event]) -> None:
    for event in events:
        queue_state.apply(event)
