"""What a request is let do before its handler sees it: by role, by owner, by quota. One place for all verbs.

Lists are not looked at here: LIST, WATCH and SCHEDULES leave out what somebody may not see
(``Authorizer.visible_jobs``).
"""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from taskqd.auth.principal import Principal
from taskqd.auth.rate_limit import Buckets
from taskqd.config.limits import BURST, UNBOUNDED, Limits, PendingLimit
from taskqd.config.settings import ON_END_QUEUE
from taskqd.errors import Forbidden, QueueFull, TaskqError, TooLarge
from taskqd.model import roles
from taskqd.model.footprint import footprint, footprint_of
from taskqd.model.job import Job, Status
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.model.roles import Permission, Role
from taskqd.model.schedule import Schedule
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.model.submission import Submission
from taskqd.protocol.requests import Cancellation, Change, Follow, Listing, Pause, Retrial, Slice, Wait, Watch
from taskqd.state.pending_quota import Pending, check_pending, pending_in_all, pending_of
from taskqd.state.queue_state import QueueState

LARGEST_CHARACTER = 4
"""A character is at most so many bytes of UTF-8."""

MAX_SCHEDULES_BYTES = 16 * 1024**2
"""Bytes of memory that the schedules of one user may take, as ``footprint`` counts them."""

CheckRun = Callable[[Principal, Spec], Spec]
"""Returns a spec as it is to be run; raises Forbidden where no job of theirs could be (run_as.py)."""


class Authorizer:
    """Refuses what must not be; ``check_run`` looks at as whom a job would run."""

    def __init__(self, queue_state: QueueState, quotas: Limits, clock: Any, check_run: CheckRun) -> None:
        self._queue_state = queue_state
        self.quotas = quotas
        self._clock = clock
        self._check_run = check_run
        self._footprints: dict[int, int] = {}
        rate = quotas.submissions
        self._buckets = None if rate is None else Buckets(rate, max(1.0, BURST * rate))

    def check(self, who: Principal, verb: str, argument: Any) -> None:
        """Raise Forbidden if ``who`` may not ask for this, NoSuchJob and Gone of jobs that are not there.

        Raises also TooLarge and QueueFull, of what SUBMIT would not take either.
        """
        roles.check_verb(verb, who.role)
        if who.role is not Role.ADMIN:
            self._check_theirs(who, verb, argument)
        if verb == "RETRY":
            self._check_pending(who, self._queue_state.get(_retried(argument)))
        elif verb == "SET":
            self._check_values(argument.values)
            self._check_growth(who, self._queue_state.get(argument.id), argument.values)
        if who.role is not Role.ADMIN and roles.PERMISSIONS[verb] is Permission.MODIFY:
            self._check_acts(who, verb, argument)

    def _check_theirs(self, who: Principal, verb: str, argument: Any) -> None:
        """Raise what ``check`` raises of somebody who is no admin, for what a request is about."""
        for ref in _refs(verb, argument):
            self._check_job(who, verb, self._queue_state.get(ref))
        if verb in ("PAUSE", "RESUME"):
            self._check_pause(who, verb, argument)
        elif verb == "UNSCHEDULE":
            self._check_schedule(who, verb, argument)
        elif verb == "SET":
            self._check_change(who, argument.values)

    def expect(self, who: Principal, verb: str, argument: Any) -> None:
        """Raise what can be told of a submission before its blocks are there: Forbidden, and TooLarge."""
        roles.check_verb(verb, who.role)
        if isinstance(argument, Submission):
            for size in filter(None, (argument.spec.script, argument.spec.stdin)):
                if size > self.quotas.block:
                    raise TooLarge(
                        f"a block of {size} bytes is more than the {self.quotas.block} that one may have"
                    )

    def authorize_schedule(self, who: Principal, command: str, spec: Spec) -> Spec:
        """Return the spec of a schedule's submissions as it is accepted (see `authorize_submission`)."""
        if who.role is not Role.ADMIN:
            self._check_schedules(who, _kept_bytes(command, spec))
        return self.authorize_submission(who, command, spec)

    def _check_schedules(self, who: Principal, size: int) -> None:
        """Refuse one schedule too many of somebody's, or of ``size`` bytes where those have too many."""
        schedules, most = self._queue_state.schedules.by_id, self.quotas.schedules_per_user
        theirs = [schedule for schedule in schedules.values() if schedule.owner == who.name]
        if most is not None and len(theirs) >= most:
            raise QueueFull(f"you have {most} schedules, which is the most; UNSCHEDULE one of them")
        known = self._footprints
        for number in [number for number in known if number not in schedules]:
            del known[number]
        for schedule in theirs:
            if schedule.id not in known:
                known[schedule.id] = _kept_bytes(schedule.command, schedule.spec)
        taken = sum(known[schedule.id] for schedule in theirs)
        if taken + size > MAX_SCHEDULES_BYTES:
            raise QueueFull(
                f"your {len(theirs)} schedules take {taken} bytes of memory, and this one {size}: that is "
                f"more than the {MAX_SCHEDULES_BYTES} that one user may have; UNSCHEDULE one of them"
            )

    def authorize_submission(self, who: Principal, command: str, spec: Spec, secret: int = 0) -> Spec:
        """Return what is accepted of a submission: the spec, within the limits of who takes the defaults.

        ``secret`` is how many bytes its secrets take.
        Raises what ``check`` raises of the jobs that it comes after, and TooLarge and QueueFull.
        """
        self._check_command(command)
        spec = self._apply_defaults(who, spec, secret)
        self._check_rate(who)
        return spec

    def authorize_submissions(
        self, who: Principal, orders: Iterable[Submission]
    ) -> list[Submission | TaskqError]:
        """Return each submission as it is accepted, or the error that `authorize_submission` raises for it.

        Consecutive submissions with the same spec are checked once.
        """
        admitted: list[Submission | TaskqError] = []
        asked = within = None
        short, is_rated = self.quotas.command // LARGEST_CHARACTER, self._is_rated(who)
        for order in orders:
            command, spec = order
            try:
                if len(command) > short:
                    self._check_command(command)
                if within is None or spec is not asked:
                    within, asked = self._apply_defaults(who, spec, 0), spec
                if is_rated:
                    self._check_rate(who)
            except TaskqError as why:
                admitted.append(why)
            else:
                admitted.append(order if within is spec else Submission(command, within))
        return admitted

    def _apply_defaults(self, who: Principal, spec: Spec, secret: int) -> Spec:
        """Return a spec whose defaults are within the limits; raises as `authorize_submission` does."""
        self._check_sizes(spec, secret)
        most = self.quotas.output
        if most is not None and spec.max_output > most and spec.max_output == DEFAULT_SPEC.max_output:
            spec = replace(spec, max_output=most)
        self._check_output(spec.max_output)
        spec = self._check_run(who, spec)
        if who.role is not Role.ADMIN:
            most = self.quotas.priority
            if most is not None and spec.priority > most and spec.priority == DEFAULT_SPEC.priority:
                spec = replace(spec, priority=most)
            self._check_priority(spec.priority)
            self._check_new_queue(who, spec.queue)
            for ref in (*spec.after, *spec.after_any, *spec.after_fail):
                self._check_job(who, "SUBMIT", self._queue_state.get(ref))
        return spec

    def visible_jobs(self, who: Principal) -> Callable[[Job], bool]:
        """Return what tells whether ``who`` may see a job."""
        owner, queue = self.visible_owner(who), who.queue
        return lambda job: (
            (owner is None or job.owner == owner) and (queue is None or job.spec.queue == queue)
        )

    def visible_owner(self, who: Principal) -> str | None:
        """Return whose jobs ``who`` may see, None for everybody's."""
        return None if roles.sees_all(who.role) else who.name

    def can_see_schedule(self, who: Principal, schedule: Schedule) -> bool:
        """Whether ``who`` may see a schedule."""
        is_theirs = roles.sees_all(who.role) or schedule.owner == who.name
        return is_theirs and who.queue in (None, schedule.spec.queue)

    def most_pending(self, who: Principal) -> PendingLimit:
        """Return how much of theirs may be pending."""
        return UNBOUNDED if who.role is Role.ADMIN else self.quotas.most_pending_per_user

    def _check_job(self, who: Principal, verb: str, job: Job, what: str = "") -> None:
        """Refuse a job that is not theirs, or not of their token's queue; ``what`` says more of it."""
        name = f"job {job.id}{what}"
        roles.check_owner(verb, who.role, who.name, job.owner, name)
        self._check_queue(who, job.spec.queue, f"{name} is in the queue {job.spec.queue}")

    def _check_queue(self, who: Principal, queue: str, what: str) -> None:
        """Refuse a queue that is not the one of a token, ``what`` says of what."""
        if who.queue not in (None, queue):
            raise Forbidden(f"{what}, and your token is for the queue {who.queue} alone")

    def _check_new_queue(self, who: Principal, queue: str) -> None:
        self._check_queue(who, queue, f"the queue {queue} is another one")
        if queue == ON_END_QUEUE:
            raise Forbidden(
                f"the queue {queue} is for what the operator has run at the end of jobs; name another"
            )

    def _check_pause(self, who: Principal, verb: str, asked: Pause) -> None:
        if asked.schedule is None:
            raise Forbidden(
                f"{verb} of a queue or of all is for admins; your own schedules you may {verb.lower()}"
            )
        self._check_schedule(who, verb, asked.schedule)

    def _check_schedule(self, who: Principal, verb: str, number: int) -> None:
        schedule = self._queue_state.schedules.get(number)
        roles.check_owner(verb, who.role, who.name, schedule.owner, f"schedule {number}")
        self._check_queue(
            who, schedule.spec.queue, f"schedule {number} is for the queue {schedule.spec.queue}"
        )

    def check_after(self, who: Principal, job: Job) -> None:
        """Refuse to cancel a job with one that it comes after, where ``who`` may not cancel it."""
        if who.role is not Role.ADMIN:
            self._check_job(who, "CANCEL", job, ", which comes after it,")

    def check_skipped(self, who: Principal, job: Job) -> None:
        """Refuse to retry a job with one because of which it was skipped, where ``who`` may not retry it."""
        if who.role is not Role.ADMIN:
            self._check_job(who, "RETRY", job, ", which was skipped because of it,")

    def check_retry(self, who: Principal, job: Job) -> None:
        """Refuse to make one job more pending where there is no room for it."""
        self._check_pending(who, job)

    def charge(self, who: Principal, jobs: Iterable[Job]) -> None:
        """Count an act on several jobs as one on each; raises QueueFull if ``who`` acts too fast."""
        self._check_rate(who, sum(map(_acts_on, jobs)))

    def _check_change(self, who: Principal, values: dict[str, Any]) -> None:
        if "priority" in values:
            self._check_priority(values["priority"])
        if "queue" in values:
            self._check_new_queue(who, values["queue"])

    def _check_values(self, values: dict[str, Any]) -> None:
        """Refuse a SET to what a SUBMIT may not have, whoever asks."""
        self._check_label(values.get("label"))
        self._check_output(values.get("max_output", 0))

    def _check_pending(self, who: Principal, job: Job) -> None:
        """Refuse to make a job pending again where there is no room for it, or for its tasks."""
        if not job.status.is_final:
            return  # which is refused for that
        count = 1
        if job.tasks is not None:
            count = job.tasks.count - job.tasks.counts.get(Status.COMPLETED, 0) or job.tasks.count
        whole = self._queue_state.array_of(job)
        size = footprint_of(whole) if whole.status.is_final else 0
        self._check_more(who, job, Pending(count, size))

    def _check_growth(self, who: Principal, job: Job, values: dict[str, Any]) -> None:
        """Refuse a SET by which a pending job would take more memory than there is left for."""
        growth = footprint(job.command, replace(job.spec, **values)) - footprint(job.command, job.spec)
        if growth > 0:
            self._check_more(who, job, Pending(0, growth))

    def _check_more(self, who: Principal, job: Job, more: Pending) -> None:
        check_pending(pending_in_all(self._queue_state), more, self.quotas.most_pending)
        check_pending(pending_of(self._queue_state, job.owner), more, self.most_pending(who), job.owner)

    def _check_acts(self, who: Principal, verb: str, argument: Any) -> None:
        """Count an act as one on each of the jobs and tasks that it is about; one that is refused is none.

        One with a cascade is counted when it is known which jobs there are (``charge``).
        """
        if isinstance(argument, Retrial) or (isinstance(argument, Cancellation) and argument.is_cascade):
            return
        jobs = [self._queue_state.get(ref) for ref in _refs(verb, argument)]
        able = [job for job in jobs if job.status.is_final is (verb in ("RETRY", "REMOVE"))]
        if able or not jobs:
            self._check_rate(who, sum(map(_acts_on, able)) or 1)

    def _check_priority(self, priority: int) -> None:
        most = self.quotas.priority
        if most is not None and priority > most:
            raise Forbidden(
                f"a priority above {most} is for admins, and {priority} is; lower ones are free to all"
            )

    def _check_command(self, command: str) -> None:
        most = self.quotas.command
        if (size := len(command.encode())) > most:
            raise TooLarge(f"the command has {size} bytes, and may have {most}; send it as a --script")

    def _check_sizes(self, spec: Spec, secret: int) -> None:
        quotas, size = self.quotas, secret
        if spec.env or spec.env_base64:
            size += sum(len(name) + len(value.encode()) for name, value in spec.env.items())
            size += sum(len(name) + len(value) for name, value in spec.env_base64.items())
        if size > quotas.environment:
            raise TooLarge(f"the environment has {size} bytes, and may have {quotas.environment}")
        self._check_label(spec.label)

    def _check_label(self, label: str | None) -> None:
        most = self.quotas.label
        if label is not None and len(label) > most:
            raise TooLarge(f"the label has {len(label)} characters, and may have {most}")

    def _check_output(self, size: int) -> None:
        most = self.quotas.output
        if most is not None and size > most:
            raise TooLarge(f"--max-output={size} is more than the {most} bytes that a job may print")

    def _is_rated(self, who: Principal) -> bool:
        """Whether there is a limit to how fast somebody may submit."""
        return self._buckets is not None and who.role is not Role.ADMIN

    def _check_rate(self, who: Principal, count: int = 1) -> None:
        """Refuse what comes too fast, unless it is an admin's."""
        if self._buckets is None or not self._is_rated(who):
            return
        wait = self._buckets.take(who.name, self._clock.seconds(), count)
        if wait:
            raise QueueFull(
                f"you submit or change more than {self.quotas.submissions:g} jobs a second; "
                f"retry in {wait:.3f} s"
            )


def _kept_bytes(command: str, spec: Spec) -> int:
    """Return how many bytes of memory a schedule takes: it has no tasks itself."""
    return footprint(command, replace(spec, array=None))


def _acts_on(job: Job) -> int:
    """Return on how many jobs one acts that acts on a job: of an array, the tasks."""
    return 1 if job.tasks is None else job.tasks.count


def _retried(argument: JobRef | Retrial) -> JobRef:
    return argument.id if isinstance(argument, Retrial) else argument


def _refs(verb: str, argument: Any) -> Iterable[JobRef]:
    """Return the jobs that a request names, other than a SUBMIT."""
    match argument:
        case int() | TaskId():
            return () if verb == "UNSCHEDULE" else (argument,)
        case Cancellation() | Change() | Follow() | Retrial() | Slice():
            return (argument.id,)
        case Wait():
            return argument.ids
        case Watch() | Listing():
            named = argument.job if isinstance(argument, Watch) else argument.array
            return () if named is None else (named,)
        case _:
            return ()
