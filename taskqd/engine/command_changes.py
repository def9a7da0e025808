"""Changes what a pending job executes: its command, or its script.

A script is kept in one of two files of its job, whose number is in the spec. A new one is durable in the
other file before the event that names it, and the old one is removed after it. So a crash in between leaves
the job with one of them, and the next start removes the other.
"""

from collections.abc import Callable
from typing import Any, cast

from msgspec.structs import replace
from twisted.logger import Logger

from taskqd.engine.acts import Acts, NewCommand
from taskqd.engine.event_writer import EventWriter
from taskqd.engine.locks import JobLocks
from taskqd.errors import StoreFailed
from taskqd.model.actor import Actor
from taskqd.model.events import Changed
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.storage.interfaces import ISpool


class CommandChanges:
    """Changes the commands and scripts of jobs; ``on_change`` is called when one may be able to start."""

    _log = Logger()

    def __init__(
        self,
        event_writer: EventWriter,
        locks: JobLocks,
        spool: ISpool,
        acts: Acts,
        on_change: Callable[[], None],
    ) -> None:
        self._event_writer = event_writer
        self._queue_state = event_writer.queue_state
        self._locks = locks
        self._spool = spool
        self._acts = acts
        self._on_change = on_change

    async def change(self, job_id: int, by: Actor, values: dict[str, Any], new: NewCommand) -> Job:
        """Change what a pending job executes, and fields of its spec; return it when that is recorded.

        Raises NoSuchJob, Gone, WrongState, BadRequest and StoreFailed; the job is unchanged then. Of an array
        all tasks must be pending. The job does not start meanwhile, as its lock is held.
        """
        job = self._queue_state.get(job_id)
        self._event_writer.check_writable()
        async with self._locks.of(job):
            job = self._queue_state.get(job_id)  # it may have been removed while this waited for the lock
            job = await self._record(job, lambda job: _change(self._acts, job, by, values, new), new.script)
        self._on_change()
        return job

    async def _record(self, job: Job, make_event: Callable[[Job], Changed], script: bytes | None) -> Job:
        """Store the new script, record the event that is made then, and remove the old script."""
        before, event = job.spec, make_event(job)
        after = event.spec
        if after.script_file == before.script_file:  # there is no script before or after it
            return await self._event_writer.record(event)
        blocks = await self._store(job, after, script)
        event = make_event(job)  # at the time of now
        try:
            job = await self._event_writer.record(replace(event, spec=replace(event.spec, blocks=blocks)))
        except StoreFailed:
            await self._remove(job.id, after)
            raise
        await self._remove(job.id, before)
        return job

    async def _store(self, job: Job, spec: Spec, script: bytes | None) -> str | None:
        """Make a script durable in the file that a spec names; return the digest of the job's blocks."""
        try:
            return await self._spool.replace_script(job.id, spec.script_file, script, spec.stdin is not None)
        except OSError as why:
            await self._remove(job.id, spec)
            raise StoreFailed(f"the script of job {job.id} cannot be replaced: {why}") from None

    async def _remove(self, job_id: int, spec: Spec) -> None:
        """Remove the script of a spec, if it has one; what remains is removed at the next start."""
        if spec.script is None:
            return
        try:
            await self._spool.remove_script(job_id, spec.script_file)
        except OSError as why:
            self._log.warn("a script of job {id} is left for the next start: {why}", id=job_id, why=why)


def _change(acts: Acts, job: Job, by: Actor, values: dict[str, Any], new: NewCommand) -> Changed:
    return cast("Changed", acts.change(by, values, new=new)(job).event)
