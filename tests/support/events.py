"""Events made short for the tests of what is pure: job 1 was submitted at 1.0, all else happens later."""

from collections.abc import Iterable
from typing import Any

from taskqd.model.events import (
    Cancelled,
    Changed,
    Ended,
    Event,
    Held,
    Paused,
    Released,
    Removed,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Skipped,
    Started,
    Submitted,
    Unscheduled,
)
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Array, Spec
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import QueueState


def spec(**asked: Any) -> Spec:
    return Spec(**asked)


def submitted(job_id: int, schedule: int | None = None, **asked: Any) -> Submitted:
    return Submitted(
        id=job_id, at=float(job_id), owner="ann", command="true", spec=spec(**asked), schedule=schedule
    )


def array(job_id: int, count: int, at_once: int | None = None, **asked: Any) -> Submitted:
    """Return the submission of an array with the indexes from 1 on."""
    return submitted(job_id, array=Array(1, count, at_once), **asked)


def started(job_id: int, attempt: int = 1, at: float = 100.0) -> Started:
    return Started(id=job_id, at=at, attempt=attempt)


def ended(
    job_id: int, status: Status = Status.COMPLETED, retry_at: float | None = None, at: float = 200.0
) -> Ended:
    if status is Status.COMPLETED:
        return Ended(id=job_id, at=at, status=status, exit_code=0)
    return Ended(id=job_id, at=at, status=status, reason=Reason.EXIT, exit_code=3, retry_at=retry_at)


def ran(job_id: int, status: Status = Status.COMPLETED) -> tuple[Event, ...]:
    return started(job_id), ended(job_id, status)


def cancelled(job_id: int, at: float = 300.0) -> Cancelled:
    return Cancelled(id=job_id, at=at, by="bob", signal=15)


def skipped(job_id: int, because: int) -> Skipped:
    return Skipped(id=job_id, at=300.0, dependency=because)


def held(job_id: int) -> Held:
    return Held(id=job_id, at=300.0, by="bob")


def released(job_id: int) -> Released:
    return Released(id=job_id, at=300.0, by="bob")


def changed(job_id: int, **asked: Any) -> Changed:
    return Changed(id=job_id, at=300.0, by="bob", command="true", spec=spec(**asked))


def retried(job_id: int) -> Retried:
    return Retried(id=job_id, at=400.0, by="bob")


def removed(job_id: int) -> Removed:
    return Removed(id=job_id, at=500.0, by="bob")


def resized(queue: str, slots: int | None) -> Resized:
    return Resized(at=300.0, by="bob", queue=queue, slots=slots)


def paused(queue: str | None = None, schedule: int | None = None) -> Paused:
    return Paused(at=300.0, by="bob", queue=queue, schedule=schedule)


def resumed(queue: str | None = None, schedule: int | None = None) -> Resumed:
    return Resumed(at=300.0, by="bob", queue=queue, schedule=schedule)


def scheduled(number: int = 1, every: float = 60.0) -> Scheduled:
    return Scheduled(at=0.0, by="bob", schedule=number, command="true", every=every)


def unscheduled(number: int = 1) -> Unscheduled:
    return Unscheduled(at=0.0, by="bob", schedule=number)


def fold(*events: Event, limits: CapacityTotals | None = None) -> QueueState:
    """Return the backlog to which all that has happened, with as many slots as are wanted unless told."""
    queue_state = QueueState(limits) if limits else QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state


def line(queue_state: QueueState, now: float = 1000.0) -> list[int]:
    """Take all that may start at ``now``, and return their ids in the order in which they came."""
    taken: list[int] = []
    while (job := queue_state.next_job(now)) is not None:
        taken.append(job.id)
    return taken


def apply_all(queue_state: QueueState, events: Iterable[Event]) -> None:
    for event in events:
        queue_state.apply(event)
