"""The acts on jobs: each checks a job, and returns the change to record.

The same check is made for an act on one job and for an act on many (job_commands.py).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from msgspec.structs import replace

from taskqd.engine.admission import check_capacity
from taskqd.errors import BadRequest, WrongState
from taskqd.model.actor import Actor
from taskqd.model.events import (
    Cancelled,
    Changed,
    Continued,
    Held,
    JobEvent,
    Released,
    Removed,
    Retried,
    Suspended,
)
from taskqd.model.job import Job, Status
from taskqd.model.output_files import check_outputs
from taskqd.model.spec import Spec
from taskqd.model.submission import first_line_of
from taskqd.state.queue_state import QueueState
from taskqd.storage.interfaces import IClock


class Change(NamedTuple):
    """The change of one job that an act makes: its event, and what the event concerns further.

    ``ended`` is how many end by it without running: the job itself, or tasks of an array. ``to_end`` are the
    ids of those whose processes are to be ended by ``signal``, ``to_suspend`` and ``to_continue`` of those
    whose processes are to be stopped or continued. ``removed`` is the job if it is removed.
    """

    event: JobEvent
    ended: int = 0
    to_end: Sequence[int] = ()
    signal: int = 0
    removed: Job | None = None
    to_suspend: Sequence[int] = ()
    to_continue: Sequence[int] = ()


OnTasksEnded: TypeAlias = Callable[[Job, Status, int], None]
"""Called with an array, and the status and number of its tasks that have ended without running."""


class NewCommand(NamedTuple):
    """The new command of a job, or its new script with that as arguments; ``as_daemon`` is that of Spec."""

    command: str
    script: bytes | None = None
    as_daemon: bool = False

    def change(self, spec: Spec) -> Spec:
        """Return a spec with the script, if there is one, in the file that the spec does not name."""
        has_file = self.script is not None or spec.script is not None
        return replace(
            spec,
            script=None if self.script is None else len(self.script),
            script_line=None if self.script is None else first_line_of(self.script),
            script_file=1 - spec.script_file if has_file else spec.script_file,
            as_daemon=self.as_daemon,
        )


Act: TypeAlias = Callable[[Job], Change | None]
"""Returns the change of a job whose lock is held, None if the act changes nothing.

Raises WrongState if the act is not possible for the job, and BadRequest if the job could then never start.
"""


def checked(act: Act, check: Callable[[Job], None]) -> Act:
    """Return an act that changes only the jobs that pass a check, which raises the error otherwise."""

    def act_if_allowed(job: Job) -> Change | None:
        change = act(job)
        if change is not None:
            check(job)
        return change

    return act_if_allowed


class Acts:
    """Makes the acts of users.

    ``runner_obstacle(job_id)`` returns why the runner of a running job cannot suspend it, None if it can.
    """

    def __init__(
        self,
        queue_state: QueueState,
        clock: IClock,
        runner_obstacle: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        self._queue_state = queue_state
        self._clock = clock
        self._runner_obstacle = runner_obstacle

    # Jobs that have not ended.

    def cancel(self, by: Actor, signal: int) -> Act:
        """Cancel a job; a running one is sent ``signal``, one that is being cancelled is left alone."""

        def act(job: Job) -> Change | None:
            pending = job.count_of(Status.PENDING)
            running = [part.id for part in self._signallable(job)]
            check_can_be_cancelled(job)
            if not pending and not running:
                return None
            event = Cancelled(id=job.id, at=self._clock.now(), by=by.name, origin=by.origin, signal=signal)
            return Change(event, pending, running, signal)

        return act

    def hold(self, by: Actor) -> Act:
        """Keep a pending job from starting."""

        def act(job: Job) -> Change | None:
            if not self._is_any_pending("hold", job, lambda each: not each.is_held):
                return None
            return Change(Held(id=job.id, at=self._clock.now(), by=by.name, origin=by.origin))

        return act

    def release(self, by: Actor) -> Act:
        """Let a job start that is held or delayed; any other pending job is left alone."""

        def act(job: Job) -> Change | None:
            if not self._is_any_pending("release", job, lambda each: each.is_held or _is_delayed(each)):
                return None
            return Change(Released(id=job.id, at=self._clock.now(), by=by.name, origin=by.origin))

        return act

    def change(
        self, by: Actor, values: dict[str, Any], command: str = "set", new: NewCommand | None = None
    ) -> Callable[[Job], Change]:
        """Change fields of a pending job's spec; a ``delay`` counts from now.

        ``command`` is what the user calls, for an error. ``new`` replaces what the job executes; the digest
        of its blocks stays.
        """

        def act(job: Job) -> Change:
            self._is_any_pending(command, job, lambda _: True)
            if job.array is not None:
                raise WrongState(
                    f"job {job.id} cannot be changed: it is a task of array {job.array}; "
                    f"`taskq {command} {job.array}` changes all tasks"
                )
            if new is not None:
                _check_is_unstarted(job)
            now = self._clock.now()
            spec = _changed_spec(job.spec, values, now)
            spec = spec if new is None else new.change(spec)
            check_outputs(spec)
            check_capacity(self._queue_state, spec)
            if spec.interactive and spec.retries:
                raise BadRequest(
                    f"job {job.id} is interactive and can have no retries: what was sent to the first "
                    "attempt is not sent to the next one"
                )
            event = Changed(
                id=job.id,
                at=now,
                by=by.name,
                origin=by.origin,
                command=job.command if new is None else new.command,
                spec=spec,
                is_delay=values.get("delay") is not None,
            )
            return Change(event)

        return act

    def _is_any_pending(self, command: str, job: Job, has_effect: Callable[[Job], bool]) -> bool:
        """Whether an act has an effect on a pending job, or on a pending task of an array.

        Raises WrongState if nothing of the job is pending.
        """
        if not job.count_of(Status.PENDING):
            raise WrongState(
                f"job {job.id} is {job.status.value}; "
                f"`taskq {command}` is only for jobs that have not started"
            )
        return has_effect(job) or any(map(has_effect, self._queue_state.pending_states(job)))

    # Jobs that run.

    def suspend(self, by: Actor) -> Act:
        """Stop the processes of a running job, or of an array's running tasks, of which no other starts then.

        A job that is suspended already is left alone.
        """

        def act(job: Job) -> Change | None:
            running = self._signallable(job)
            _check_can_be_suspended(job, running)
            if (job.tasks is None or job.suspended_at is not None) and all(map(_is_suspended, running)):
                return None
            for part in running:
                obstacle = self._runner_obstacle(part.id)
                if obstacle is not None:
                    raise WrongState(f"job {part.id} cannot be suspended: {obstacle}")
            event = Suspended(id=job.id, at=self._clock.now(), by=by.name, origin=by.origin)
            return Change(event, to_suspend=[part.id for part in running])

        return act

    def continue_(self, by: Actor) -> Act:
        """Let a suspended job go on, or an array; one that runs and is not suspended is left alone."""

        def act(job: Job) -> Change | None:
            suspended = [part.id for part in self._signallable(job) if _is_suspended(part)]
            if not suspended and job.suspended_at is None:
                _check_runs(job, "continue", _advice_to_continue(job, self._queue_state.array_of(job)))
                return None
            event = Continued(id=job.id, at=self._clock.now(), by=by.name, origin=by.origin)
            return Change(event, to_continue=suspended)

        return act

    def _signallable(self, job: Job) -> list[Job]:
        """Return a running job, or the running tasks of an array, without those that are being cancelled."""
        parts = (job,) if job.tasks is None else self._queue_state.running(job)
        return [part for part in parts if _can_be_signalled(part)]

    # Jobs that have ended.

    def retry(self, by: Actor) -> Act:
        """Make a job that has ended PENDING again."""

        def act(job: Job) -> Change:
            _check_has_ended(job)
            return Change(Retried(id=job.id, at=self._clock.now(), by=by.name, origin=by.origin))

        return act

    def remove(self, by: Actor) -> Act:
        """Remove a job that has ended."""

        def act(job: Job) -> Change:
            if job.array is not None:
                raise WrongState(
                    f"job {job.id} cannot be removed: it is a task of array {job.array}; "
                    f"`taskq remove {job.array}` removes all tasks"
                )
            _check_has_ended(job)
            reason = self._queue_state.reason_to_keep(job.id)
            if reason is not None:
                raise WrongState(f"job {job.id} cannot be removed: {reason}")
            event = Removed(id=job.id, at=self._clock.now(), by=by.name, origin=by.origin)
            return Change(event, removed=job)

        return act


def _can_be_signalled(job: Job) -> bool:
    return job.status is Status.RUNNING and job.cancelling is None


def _is_suspended(job: Job) -> bool:
    return job.suspended_at is not None


def _check_runs(job: Job, command: str, advice: str) -> None:
    """Raise WrongState if a job, or an array, does not run."""
    if job.status is not Status.RUNNING:
        raise WrongState(
            f"job {job.id} is {job.status.value}; `taskq {command}` is only for jobs that run{advice}"
        )


def _check_can_be_suspended(job: Job, running: Sequence[Job]) -> None:
    """Raise WrongState if a job does not run or is being cancelled; ``running`` are its parts that run on."""
    if job.suspended_at is not None:
        return
    is_pending = job.status is Status.PENDING
    _check_runs(job, "suspend", f"; `taskq hold {job.id}` keeps it from starting" if is_pending else "")
    if not running and not job.count_of(Status.PENDING):
        raise WrongState(f"job {job.id} cannot be suspended: it is being cancelled")


def _advice_to_continue(job: Job, array: Job) -> str:
    """Return what lets a pending job go on."""
    if job.status is not Status.PENDING:
        return ""
    if array.suspended_at is not None:
        return f"; `taskq continue {array.id}` lets its array go on"
    return f"; `taskq release {job.id}` lets it start" if job.is_held else ""


def check_can_be_cancelled(job: Job) -> None:
    """Raise WrongState if a job has ended otherwise than by a cancel."""
    if job.status.is_final and job.status is not Status.CANCELLED:
        raise WrongState(
            f"job {job.id} has already ended: it is {job.status.value}; `taskq retry {job.id}` runs it again"
        )


def _check_has_ended(job: Job) -> None:
    if not job.status.is_final:
        raise WrongState(
            f"job {job.id} has not ended: it is {job.status.value}; `taskq cancel {job.id}` ends it"
        )


def _check_is_unstarted(job: Job) -> None:
    """Raise WrongState for an array of which a task is not pending: all of its tasks run one command."""
    if job.tasks is not None and (others := job.tasks.count - job.count_of(Status.PENDING)):
        raise WrongState(
            f"the command of array {job.id} cannot be changed: {others} of its {job.tasks.count} tasks have "
            "started or ended; cancel it, and submit another array for the tasks that are left"
        )


def _is_delayed(job: Job) -> bool:
    return job.not_before is not None


def _changed_spec(spec: Spec, values: dict[str, Any], now: float) -> Spec:
    """Return a spec with fields changed; a delay becomes a time, and replaces the previous time."""
    if values.get("delay") is not None:
        values = {**values, "at": now + values["delay"]}
    if "delay" in values or "at" in values:
        values = {"at": None, **values, "delay": None}
    return replace(spec, **values)
