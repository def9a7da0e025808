"""Changes of mind about a job that has not started: hold it, release it, ask something else of it."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from taskqd.engine.admission import check_room
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks
from taskqd.errors import WrongState
from taskqd.model.actor import Actor
from taskqd.model.events import Changed, Held, JobEvent, Released
from taskqd.model.job import Job, Status


class JobCommands:
    """Each is told only once it is durable; ``fill`` is called when more may start by it.

    All raise NoSuchJob, Gone, WrongState and StoreFailed.
    """

    def __init__(self, recorder: EventWriter, turns: JobLocks, clock: Any, fill: Callable[[], None]) -> None:
        self._recorder = recorder
        self._queue_state = recorder.queue_state
        self._turns = turns
        self._clock = clock
        self._fill = fill

    async def hold(self, job_id: int, by: Actor) -> Job:
        """Keep a pending job from starting, and return it; one that is held stays so."""
        return await self._record(
            Held(id=job_id, at=0.0, by=by.name, origin=by.origin), lambda job: not job.is_held
        )

    async def release(self, job_id: int, by: Actor) -> Job:
        """Let a job start that is held or delayed, and return it; any other pending one stays as it is."""
        return await self._record(
            Released(id=job_id, at=0.0, by=by.name, origin=by.origin),
            lambda job: job.is_held or job.not_before is not None,
        )

    async def change(self, job_id: int, by: Actor, values: dict[str, Any]) -> Job:
        """Have fields of a pending job's spec be others, and return the job.

        A ``delay`` among them counts from now. Raises BadRequest where it could then never start.
        """
        job = self._queue_state.get(job_id)
        self._recorder.check()
        async with self._turns.of(job):
            job = self._pending(job_id, "SET")
            if job.array is not None:
                raise WrongState(
                    f"job {job_id} is a task of array {job.array}: SET {job.array} changes them all"
                )
            now = self._clock.now()
            is_delay = values.get("delay") is not None
            if is_delay:
                values = {**values, "at": now + values["delay"]}
            if "delay" in values or "at" in values:
                values = {"at": None, **values, "delay": None}
            spec = replace(job.spec, **values)
            check_room(self._queue_state, spec)
            await self._recorder.record(
                Changed(
                    id=job_id,
                    at=now,
                    by=by.name,
                    origin=by.origin,
                    command=job.command,
                    spec=spec,
                    is_delay=is_delay,
                )
            )
        self._fill()
        return job

    async def _record(self, event: JobEvent, is_new: Any) -> Job:
        job = self._queue_state.get(event.id)
        self._recorder.check()
        async with self._turns.of(job):
            job = self._pending(event.id, "HOLD" if isinstance(event, Held) else "RELEASE")
            pending = [task for task in self._queue_state.tasks(job) if task.status is Status.PENDING]
            if not any(map(is_new, [job, *pending])):
                return job
            await self._recorder.record(replace(event, at=self._clock.now()))
        self._fill()
        return job

    def _pending(self, job_id: int, verb: str) -> Job:
        """Return a job that has not started, or an array of which some task has not."""
        job = self._queue_state.get(job_id)
        is_pending = job.status is Status.PENDING or (
            job.tasks is not None and bool(job.tasks.counts.get(Status.PENDING))
        )
        if not is_pending:
            raise WrongState(f"job {job_id} is {job.status.value}; {verb} is for jobs that have not started")
        return job
