"""Recovers from the last run: replays the journal, and ends the processes that a crash left running."""

import gc
from collections.abc import Collection, Iterable

from msgspec.structs import replace
from twisted.logger import Logger

from taskqd.daemon.clocks import Clocks
from taskqd.daemon.heap import trim_heap
from taskqd.engine import clock_jumps
from taskqd.engine.suspects import newest_start
from taskqd.errors import JournalDamaged, StartRefused
from taskqd.execution import proc
from taskqd.execution.attempt_ends import RUNNER_KILLED, SUSPECTED
from taskqd.execution.messages import AttemptKey, Ended
from taskqd.execution.notes import Notes, read_notes
from taskqd.execution.proc import Process, parse_mark
from taskqd.execution.run import Outcome
from taskqd.execution.runner_directory import RunnerDirectory
from taskqd.execution.runner_executor import settled_outcome
from taskqd.model.job import Job, Status
from taskqd.model.transitions import attempt_of
from taskqd.state.capacity import CapacityTotals
from taskqd.state.errors import InvalidTransition
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import InThread
from taskqd.storage.journal.journal import Journal

KILL_TIMEOUT = 5.0
"""Seconds that a start waits for each process that a crash left running and that was killed."""
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
        trim_heap()  # of the segments' content, glibc would keep up to 32 MiB
        queue_state.last_id = max(queue_state.last_id, self._journal.next_id - 1)
        return queue_state

    def _apply_events(self, queue_state: QueueState) -> None:
        at = 0.0
        for batch in self._journal.replay():
            try:
                queue_state.apply_replayed(batch)
            except InvalidTransition as why:
                where = self._journal.segments.locate(why.position or batch[0][1])
                raise JournalDamaged(
                    f"{where} cannot be right: {why}. Nothing was changed; restore the file from a copy, or "
                    "see docs/operations.md for what can be done."
                ) from None
            at = batch[-1][0].at
        self._clocks.resume(self._journal.last_opened, self._boot, at, at - queue_state.ahead)

    def record_clock_jump(self, queue_state: QueueState) -> None:
        """Record it if the time of day was set while no daemon ran."""
        if self._clocks.ahead != queue_state.ahead:
            self._log.warn("{jump}", jump=clock_jumps.describe_jump(self._clocks.ahead - queue_state.ahead))
            clocked = clock_jumps.make_record(self._clocks)
            self._journal.append_now([clocked])
            queue_state.apply(clocked)

    def outcomes(self, queue_state: QueueState, runners: RunnerDirectory) -> dict[int, Outcome]:
        """Return what became of the attempts whose runners are dead, by job; raises OSError."""
        names = set(runners.names())
        notes: dict[str, tuple[bool, dict[AttemptKey, Ended]]] = {}
        found: dict[int, Outcome] = {}
        running = queue_state.running()
        newest = newest_start(queue_state.jobs.objects()) if running else None
        for job in running:
            attempt = attempt_of(job)
            name = attempt.runner
            if name in names and runners.is_alive(name):
                continue
            if name not in notes:
                read = read_notes(runners.notes_path(name)) if name in names else Notes()
                notes[name] = read.is_gone, {ended.key: ended for ended in read.ends}
            is_gone, ends = notes[name]
            key = AttemptKey(job.id, attempt.number, attempt.word)
            outcome = settled_outcome(ends.get(key), is_unstarted=is_gone)
            if outcome.is_lost:
                outcome = replace(outcome, detail=self._cause_of_interruption(name, job.id == newest))
            found[job.id] = outcome
        return found

    def end_leftovers(self, queue_state: QueueState, runners: RunnerDirectory) -> None:
        """Kill the processes of attempts whose runners are dead, before any other job starts."""
        if self._journal.is_copy:
            return  # they belong to the original
        try:
            is_same_boot = self._journal.last_boot == self._boot
            found = self._leftovers(proc.scan(since=0), queue_state, runners, is_same_boot)
        except OSError as why:
            raise StartRefused(
                f"the processes in /proc cannot be read: {why}; the daemon must end those of its last run: "
                "mount /proc, and let it read that"
            ) from None
        self._log_survivors(proc.kill_all(found, KILL_TIMEOUT))

    async def sweep(self, queue_state: QueueState, runners: RunnerDirectory, in_thread: InThread) -> None:
        """Kill the processes of attempts whose runners are dead, while the reactor runs; raises OSError."""
        table = await in_thread(proc.scan, 0)
        found = self._leftovers(table, queue_state, runners, is_same_boot=True)
        self._log_survivors(await in_thread(proc.kill_all, found, KILL_TIMEOUT))

    def _leftovers(
        self, table: list[Process], queue_state: QueueState, runners: RunnerDirectory, is_same_boot: bool
    ) -> list[Process]:
        alive = frozenset(filter(runners.is_alive, runners.names()))
        return leftovers(table, self._journal.name, queue_state, is_same_boot, alive)

    def _log_survivors(self, processes: Iterable[Process]) -> None:
        for process in processes:
            self._log.error(
                "process {pid} of an interrupted job does not end though it was killed; look at it with `ps`",
                pid=process.pid,
            )

    @property
    def is_rebooted(self) -> bool:
        """Whether the machine was restarted since the last run."""
        return self._journal.last_boot != self._boot

    def _cause_of_interruption(self, runner: str, is_newest: bool) -> str:
        """Return the detail for attempts of a dead runner, which has no name before format 6."""
        if self._journal.is_copy:
            return COPIED
        if self.is_rebooted:
            return REBOOTED
        if not runner:
            return KILLED
        return SUSPECTED if is_newest else RUNNER_KILLED


def leftovers(
    table: list[Process],
    journal_name: str,
    queue_state: QueueState,
    is_same_boot: bool,
    alive: Collection[str] = frozenset(),
) -> list[Process]:
    """Return the processes that must end before any other job starts; ``alive`` are the runners that live.

    For an interrupted job these are all that have its mark, and all of its session. For a job that has ended,
    these are the ones still in its session, unless a runner lives, which ends them. A session is recognized
    by its leader, if the start time is the same, or by a member that has the mark; its number alone may have
    been reused. A process that has the mark of a removed job is left alone: it has left the job's session, or
    the job could not have been removed.
    """
    marks = {process: parse_mark(process.mark, journal_name) for process in table}
    sessions = {
        process.session
        for process, attempt in marks.items()
        if attempt and process.session == _ended_session(queue_state, attempt.id, alive)
    }
    if is_same_boot:
        attempts = [job.attempt for job in queue_state.running() if not _is_in_care(job, alive)]
        leaders = {(attempt.pid, attempt.pid_started) for attempt in attempts if attempt is not None}
        sessions |= {process.pid for process in table if process.identity in leaders}
    return [
        process
        for process, attempt in marks.items()
        if process.session in sessions
        or (attempt is not None and _is_interrupted(queue_state, attempt.id, alive))
    ]


def attempts_of(queue_state: QueueState, job_id: int) -> int | None:
    """Return the number of attempts of a job, None if the job is not known."""
    job = queue_state.jobs.get(job_id)
    return None if job is None else job.attempts


def script_file_of(queue_state: QueueState, job_id: int) -> int | None:
    """Return the number of the file with the script of a job, None if it has no script."""
    job = queue_state.jobs.get(job_id)
    return None if job is None or job.spec.script is None else job.spec.script_file


def _is_in_care(job: Job, alive: Collection[str]) -> bool:
    """Whether the runner of a job's latest attempt lives."""
    return job.attempt is not None and job.attempt.runner in alive


def _ended_session(queue_state: QueueState, job_id: int, alive: Collection[str]) -> int | None:
    """Return the pid of a job's latest attempt, None if it is not known or a runner has it in its care."""
    job = queue_state.jobs.get(job_id)
    if job is None or job.attempt is None or _is_in_care(job, alive):
        return None
    return job.attempt.pid if job.status is Status.RUNNING or not alive else None


def _is_interrupted(queue_state: QueueState, job_id: int, alive: Collection[str]) -> bool:
    """Whether a job ran when its runner was killed, or the journal has lost its start or the job itself."""
    job = queue_state.jobs.get(job_id)
    if job is None:
        return job_id > queue_state.last_id and not alive
    if job.attempt is None:
        return not alive
    return job.status is Status.RUNNING and not _is_in_care(job, alive)
