"""Recovers from the last run: replays the journal, and ends the processes that a crash left running."""

import gc

from twisted.logger import Logger

from taskqd.daemon.clocks import Clocks
from taskqd.engine import clock_jumps
from taskqd.errors import JournalDamaged, StartRefused
from taskqd.execution import proc
from taskqd.execution.proc import Process, parse_mark
from taskqd.model.events import Event
from taskqd.model.job import Status
from taskqd.state.capacity import CapacityTotals
from taskqd.state.queue_state import InvalidTransition, QueueState
from taskqd.storage.journal.journal import Journal

KILL_TIMEOUT = 5.0
"""Seconds that a start waits for each process that a crash left running and that was killed."""
GC_THRESHOLD = 5_000
"""Number of new objects after which Python collects garbage; its default is 700."""
KILLED = "the daemon was killed while it ran"
REBOOTED = "the machine was restarted while it ran"
COPIED = "this is a copy or was moved: the daemon that ran it had the state directory elsewhere"
"""The details of attempts that a crash interrupted."""


class Recovery:
    """Restores the state that the last daemon left. Its methods are called in the order of this class."""

    _log = Logger()

    def __init__(self, journal: Journal, clocks: Clocks, boot: str) -> None:
        self._journal = journal
        self._clocks = clocks
        self._boot = boot

    def replay(self, totals: CapacityTotals) -> QueueState:
        """Return the state that the journal's events make, and continue the clocks from its last event."""
        queue_state = QueueState(totals, is_open=False)
        gc.disable()  # everything that is made here stays
        try:
            self._apply_events(queue_state)
            queue_state.open()
        finally:
            gc.enable()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        queue_state.last_id = max(queue_state.last_id, self._journal.next_id - 1)
        return queue_state

    def _apply_events(self, queue_state: QueueState) -> None:
        event: Event | None = None
        for event, position in self._journal.replay():
            try:
                queue_state.apply(event, position)
            except InvalidTransition as why:
                where = self._journal.segments.locate(position)
                raise JournalDamaged(
                    f"{where} cannot be right: {why}. Nothing was changed; restore the file from a copy, or "
                    "see docs/operations.md for what can be done."
                ) from None
        at = 0.0 if event is None else event.at
        self._clocks.resume(self._journal.last_opened, self._boot, at, at - queue_state.ahead)

    def record_clock_jump(self, queue_state: QueueState) -> None:
        """Record it if the time of day was set while no daemon ran."""
        if self._clocks.ahead != queue_state.ahead:
            self._log.warn("{jump}", jump=clock_jumps.describe_jump(self._clocks.ahead - queue_state.ahead))
            clocked = clock_jumps.make_record(self._clocks)
            self._journal.append_now([clocked])
            queue_state.apply(clocked)

    def end_leftovers(self, queue_state: QueueState) -> None:
        """Kill the processes that a crash left running, before any other job starts."""
        if self._journal.is_copy:
            return  # they belong to the original
        try:
            table = proc.scan(since=0)
        except OSError as why:
            raise StartRefused(
                f"the processes in /proc cannot be read: {why}; the daemon must end those of its last run: "
                "mount /proc, and let it read that"
            ) from None
        found = leftovers(table, self._journal.name, queue_state, self._journal.last_boot == self._boot)
        for process in proc.kill_all(found, KILL_TIMEOUT):
            self._log.error(
                "process {pid} of an interrupted job does not end though it was killed; look at it with `ps`",
                pid=process.pid,
            )

    def cause_of_interruption(self) -> str:
        """Return the detail for attempts that ran when the last daemon ended."""
        if self._journal.is_copy:
            return COPIED
        return KILLED if self._journal.last_boot == self._boot else REBOOTED


def leftovers(
    table: list[Process], journal_name: str, queue_state: QueueState, is_same_boot: bool
) -> list[Process]:
    """Return the processes that must end before any other job starts.

    For an interrupted job these are all that have its mark, and all of its session. For a job that has ended,
    these are the ones still in its session. A session is recognized by its leader, if the start time is the
    same, or by a member that has the mark; its number alone may have been reused. A process that has the mark
    of a removed job is left alone: it has left the job's session, or the job could not have been removed.
    """
    marks = {process: parse_mark(process.mark, journal_name) for process in table}
    sessions = {
        process.session
        for process, attempt in marks.items()
        if attempt and process.session == _pid(queue_state, attempt.id)
    }
    if is_same_boot:
        attempts = (job.attempt for job in queue_state.running())
        leaders = {(attempt.pid, attempt.pid_started) for attempt in attempts if attempt is not None}
        sessions |= {process.pid for process in table if process.identity in leaders}
    return [
        process
        for process, attempt in marks.items()
        if process.session in sessions or (attempt is not None and _is_interrupted(queue_state, attempt.id))
    ]


def attempts_of(queue_state: QueueState, job_id: int) -> int | None:
    """Return the number of attempts of a job, None if the job is not known."""
    job = queue_state.jobs.get(job_id)
    return None if job is None else job.attempts


def _pid(queue_state: QueueState, job_id: int) -> int | None:
    """Return the pid of a job's latest attempt, None if it is not known."""
    job = queue_state.jobs.get(job_id)
    return None if job is None or job.attempt is None else job.attempt.pid


def _is_interrupted(queue_state: QueueState, job_id: int) -> bool:
    """Whether a job ran when the daemon was killed, or the journal has lost its start or the job itself."""
    job = queue_state.jobs.get(job_id)
    if job is None:
        return job_id > queue_state.last_id
    return job.attempt is None or job.status is Status.RUNNING
