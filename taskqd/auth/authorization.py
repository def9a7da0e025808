"""Authorizes requests before their handlers see them: by role, owner, queue of the token, and limits.

LIST, WATCH and SCHEDULES are not refused; they leave out what a client may not see (`narrow`).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime

from taskqd.auth.principal import Principal
from taskqd.auth.submission_limits import NOTHING_PENDING, SubmissionLimits, count_changes
from taskqd.config.limits import Limits, PendingLimit
from taskqd.config.settings import ON_END_QUEUE
from taskqd.errors import Forbidden, Gone, NoSuchJob, TaskqError
from taskqd.model import roles
from taskqd.model.job import Job
from taskqd.model.job_filter import JobFilter
from taskqd.model.roles import Permission, Role
from taskqd.model.schedule import Schedule
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.model.submission import (
    Refusal,
    RescheduleRequest,
    ScheduleRequest,
    SimilarSubmissions,
    Submission,
)
from taskqd.protocol.act_requests import RetryRequest, SetRequest
from taskqd.protocol.output_requests import OutputRequest
from taskqd.protocol.requests import PauseRequest
from taskqd.protocol.verbs import VERBS
from taskqd.state.queue_state import QueueState

CheckRun = Callable[[Principal, Spec], Spec]
"""Returns a spec as it will be run; raises Forbidden if no job of this user can be run (run_as.py)."""


class Authorizer:
    """Decides what a client may do. `check_run` checks as which user its jobs would run."""

    def __init__(
        self, queue_state: QueueState, limits: Limits, clock: IReactorTime, check_run: CheckRun
    ) -> None:
        self.limits = limits
        self.submission_limits = SubmissionLimits(queue_state, limits, clock)
        self._queue_state = queue_state
        self._check_run = check_run

    # Requests.

    def authorize(self, principal: Principal, verb: str, argument: Any) -> None:
        """Check a request; SUBMIT and SCHEDULE are checked further by the methods below.

        Raises Forbidden, NoSuchJob or Gone for the jobs that it names, and TooLarge or QueueFull if it
        exceeds a limit.
        """
        permission = VERBS[verb].permission
        roles.check_verb(verb, permission, principal.role)
        is_admin = principal.role is Role.ADMIN
        if permission is Permission.OWN or (not is_admin and permission is not Permission.SUBMIT):
            self._check_subjects(principal, verb, argument)
        if verb == "SET":
            self.submission_limits.check_changes(argument.values)
        if isinstance(argument, OutputRequest) and argument.stream == "script":
            self._check_reads_script(principal, self._queue_state.get(argument.job))
        elif isinstance(argument, RetryRequest):
            self.submission_limits.check_retry(principal, self._queue_state.get(argument.job))
        elif isinstance(argument, SetRequest):
            job = self._queue_state.get(argument.job)
            if argument.changes_execution:
                self._check_execution(principal, job)
                self.submission_limits.check_command(argument.command or "")
            self.submission_limits.check_growth(
                principal, job, argument.values, command=argument.new_command(job.command)
            )
        if not is_admin and permission is Permission.MODIFY:
            self._check_change_rate(principal, verb, argument)

    def _check_subjects(self, principal: Principal, verb: str, argument: Any) -> None:
        """Check that a client may use a verb on the jobs and schedules of a request.

        An admin is checked only for a verb that is for owners.
        """
        for ref in argument.jobs:
            self._check_job(principal, verb, self._queue_state.get(ref))
        if verb in ("PAUSE", "RESUME"):
            self._check_pause(principal, verb, argument)
        elif verb == "UNSCHEDULE":
            self._check_schedule(principal, verb, argument.schedule)
        elif verb == "SET":
            self._check_new_values(principal, argument.values)

    def _check_change_rate(self, principal: Principal, verb: str, argument: Any) -> None:
        """Count a change as one change of each job and task, but not one that will be refused.

        A change with `--cascade` is counted once all of its jobs are known (`charge`).
        """
        if getattr(argument, "is_cascade", False):
            return
        jobs = [self._queue_state.get(ref) for ref in argument.jobs]
        changeable = [job for job in jobs if job.status.is_final is VERBS[verb].is_for_ended]
        if changeable or not jobs:
            self.submission_limits.check_rate(principal, count_changes(changeable) or 1)

    def portion_check(
        self, principal: Principal, verb: str, values: dict[str, Any] | None = None
    ) -> Callable[[Job], None]:
        """Return a check of the jobs of one portion of an act on many; it counts those that it lets pass.

        ``values`` are those of a SET. It raises QueueFull for a job that exceeds a limit of pending jobs.
        """
        limits, also = self.submission_limits, NOTHING_PENDING

        def check(job: Job) -> None:
            nonlocal also
            if values is not None:
                also = limits.check_growth(principal, job, values, also)
            elif verb == "RETRY":
                also = limits.check_retry(principal, job, also)

        return check

    def charge(self, principal: Principal, count: int) -> None:
        """Count a change of several jobs as one of each; raises QueueFull above the client's rate."""
        self.submission_limits.check_rate(principal, count)

    # Submissions.

    def check_before_blocks(self, principal: Principal, verb: str, argument: Any) -> None:
        """Raise Forbidden or TooLarge if a submission will be refused whatever its blocks contain."""
        roles.check_verb(verb, VERBS[verb].permission, principal.role)
        if isinstance(argument, Submission | ScheduleRequest):
            self.submission_limits.check_blocks(argument.spec)
        elif isinstance(argument, RescheduleRequest):
            self.submission_limits.check_blocks(argument.change(DEFAULT_SPEC))
        elif isinstance(argument, SetRequest):
            self.submission_limits.check_blocks(replace(DEFAULT_SPEC, script=argument.values.get("script")))
            with suppress(
                NoSuchJob, Gone
            ):  # an earlier request of the connection may be about to make the job
                self._check_execution(principal, self._queue_state.get(argument.job))

    def authorize_schedule(
        self, principal: Principal, command: str, spec: Spec, secret_size: int = 0
    ) -> Spec:
        """Return the accepted spec of the submissions of a schedule (see `authorize_submission`)."""
        if principal.role is not Role.ADMIN:
            self.submission_limits.check_schedules(principal, command, spec)
        return self.authorize_submission(principal, command, spec, secret_size)

    def authorize_schedule_change(self, principal: Principal, request: RescheduleRequest) -> None:
        """Raise Forbidden or NoSuchJob if a client may not change a schedule, or what its jobs execute.

        They run as their owner, so an admin who could change that would be any user.
        """
        if principal.role is not Role.ADMIN:
            self._check_schedule(principal, "SCHEDULE", request.schedule)
        owner = self._queue_state.schedules.get(request.schedule).owner
        if request.changes_execution and principal.name != owner:
            raise Forbidden(
                f"permission denied: schedule {request.schedule} belongs to {owner}, who alone may change "
                "its command, --env, --cwd, --umask, --script, --stdin and --secret; change its other "
                "options, or UNSCHEDULE it"
            )

    def authorize_changed_schedule(
        self, principal: Principal, schedule: Schedule, command: str, spec: Spec, secret_size: int
    ) -> Spec:
        """Return the accepted spec of a changed schedule, whose jobs still run as those of its owner.

        The user is determined again: that root itself made the schedule does not authorize a later change.
        """
        if principal.role is not Role.ADMIN:
            self.submission_limits.check_schedules(principal, command, spec, schedule.id)
        owner = principal._replace(name=schedule.owner)
        return self.authorize_submission(owner, command, replace(spec, as_daemon=False), secret_size)

    def authorize_execution(self, principal: Principal, job: Job) -> bool:
        """Return the `as_daemon` of a job whose owner changes what it executes.

        The user is determined again: that root itself submitted the job does not authorize a later change.
        Raises Forbidden if no job of this user can be run.
        """
        return self._check_run(principal, replace(job.spec, as_daemon=False)).as_daemon

    def _check_execution(self, principal: Principal, job: Job) -> None:
        """Raise Forbidden unless a client owns a job: it runs as its owner, so an admin would be any user."""
        if principal.name != job.owner:
            raise Forbidden(
                f"permission denied: job {job.id} belongs to {job.owner}, who alone may change its --command "
                "and --script; change its other options, or CANCEL it"
            )

    def _check_reads_script(self, principal: Principal, job: Job) -> None:
        """Raise Forbidden unless a client owns a job: a script is input, which others do not see."""
        if principal.name != job.owner:
            raise Forbidden(
                f"permission denied: job {job.id} belongs to {job.owner}, who alone may read its script"
            )

    def authorize_run(self, principal: Principal, number: int) -> None:
        """Raise Forbidden or NoSuchJob if a client may not run a schedule, QueueFull above its rate."""
        if principal.role is not Role.ADMIN:
            self._check_schedule(principal, "SCHEDULE", number)
        self.submission_limits.check_rate(principal)

    def authorize_submission(
        self, principal: Principal, command: str, spec: Spec, secret_size: int = 0
    ) -> Spec:
        """Return the accepted spec, with its defaults within the limits.

        `secret_size` is the number of bytes of the secrets. Raises Forbidden, NoSuchJob or Gone for the jobs
        that it depends on, and TooLarge or QueueFull if it exceeds a limit.
        """
        self.submission_limits.check_command(command)
        spec = self._apply_defaults(principal, spec, secret_size)
        self.submission_limits.check_rate(principal)
        return spec

    def authorize_submissions(
        self, principal: Principal, submissions: Iterable[SimilarSubmissions]
    ) -> list[SimilarSubmissions | Refusal]:
        """Return the accepted submissions, and the errors that `authorize_submission` raises for the others.

        Similar ones are checked in one step; one by one if some are refused, or if their rate is limited.
        """
        limits = self.submission_limits
        has_rate_limit = limits.has_rate_limit(principal)
        accepted: list[SimilarSubmissions | Refusal] = []
        for similar in submissions:
            spec, commands = similar
            if has_rate_limit and len(commands) > 1:
                accepted += self.authorize_submissions(principal, similar.each())
                continue
            try:
                limits.check_commands(commands)
                accepted_spec = self._apply_defaults(principal, spec, 0)
                if has_rate_limit:
                    limits.check_rate(principal)
            except TaskqError as error:
                if len(commands) == 1:
                    accepted.append(Refusal(error))
                else:
                    accepted += self.authorize_submissions(principal, similar.each())
            else:
                is_same = accepted_spec is spec
                accepted.append(similar if is_same else SimilarSubmissions(accepted_spec, commands))
        return accepted

    def _apply_defaults(self, principal: Principal, spec: Spec, secret_size: int) -> Spec:
        """Return a spec whose defaults are within the limits; raises as `authorize_submission` does."""
        self.submission_limits.check_sizes(spec, secret_size)
        spec = self.submission_limits.limit_output(spec)
        spec = self._check_run(principal, spec)
        if principal.role is not Role.ADMIN:
            spec = self.submission_limits.limit_priority(spec)
            self._check_new_queue(principal, spec.queue)
            for ref in (*spec.after, *spec.after_any, *spec.after_fail):
                self._check_job(principal, "SUBMIT", self._queue_state.get(ref))
        return spec

    def max_pending(self, principal: Principal) -> PendingLimit:
        """Return how many jobs of a client may be pending."""
        return self.submission_limits.max_pending(principal)

    def authorize_shutdown(self, is_local: bool) -> None:
        """Raise Forbidden if an admin may not stop the daemon over the connection of the request."""
        if not (is_local or self.limits.remote_control):
            raise Forbidden(
                "permission denied: SHUTDOWN is allowed only over the daemon's UNIX socket; run `taskq "
                "shutdown` on its machine, or set remote-control = true in [limits] of its settings"
            )

    # Visibility.

    def narrow(self, principal: Principal, wanted: JobFilter) -> JobFilter | None:
        """Return a filter without the jobs that a client may not see, None if it may see none of them."""
        owner, queue = self.visible_owner(principal), principal.queue
        if owner is not None and wanted.owner not in (None, owner):
            return None
        if queue is not None and wanted.queue not in (None, queue):
            return None
        return replace(wanted, owner=owner or wanted.owner, queue=queue or wanted.queue)

    def visible_owner(self, principal: Principal) -> str | None:
        """Return the only owner whose jobs a client may see, None if it may see those of all owners."""
        return None if roles.sees_all(principal.role) else principal.name

    def can_see_schedule(self, principal: Principal, schedule: Schedule) -> bool:
        """Whether a client may see a schedule."""
        is_visible = roles.sees_all(principal.role) or schedule.owner == principal.name
        return is_visible and principal.queue in (None, schedule.spec.queue)

    # Jobs, queues and schedules.

    def authorize_dependent(self, principal: Principal, job: Job) -> None:
        """Raise Forbidden if a client may not cancel a job that depends on the job to cancel."""
        if principal.role is not Role.ADMIN:
            self._check_job(principal, "CANCEL", job, ", which comes after it,")

    def authorize_skipped(self, principal: Principal, job: Job) -> None:
        """Raise Forbidden if a client may not retry a job that was skipped because of the job to retry."""
        if principal.role is not Role.ADMIN:
            self._check_job(principal, "RETRY", job, ", which was skipped because of it,")

    def _check_job(self, principal: Principal, verb: str, job: Job, relation: str = "") -> None:
        """Raise Forbidden for a job of another user, or of another queue than the token's."""
        name, permission = f"job {job.id}{relation}", VERBS[verb].permission
        roles.check_owner(verb, permission, principal.role, principal.name, job.owner, name)
        self._check_queue(principal, job.spec.queue, f"{name} is in queue {job.spec.queue}")

    def _check_queue(self, principal: Principal, queue: str, reason: str) -> None:
        if principal.queue not in (None, queue):
            raise Forbidden(
                f"permission denied: {reason}, and your token is valid only for queue {principal.queue}"
            )

    def _check_new_queue(self, principal: Principal, queue: str) -> None:
        self._check_queue(principal, queue, f"{queue} is another queue")
        if queue == ON_END_QUEUE:
            raise Forbidden(
                f"permission denied: queue {queue} is for the daemon's on_end command; choose another queue"
            )

    def _check_new_values(self, principal: Principal, values: dict[str, Any]) -> None:
        if "priority" in values:
            self.submission_limits.check_priority(values["priority"])
        if "queue" in values:
            self._check_new_queue(principal, values["queue"])

    def _check_pause(self, principal: Principal, verb: str, request: PauseRequest) -> None:
        if request.schedule is None:
            raise Forbidden(
                f"permission denied: {verb} of a queue or of all queues needs the role admin; you may {verb} "
                "your own schedules"
            )
        self._check_schedule(principal, verb, request.schedule)

    def _check_schedule(self, principal: Principal, verb: str, number: int) -> None:
        schedule = self._queue_state.schedules.get(number)
        name, permission, queue = f"schedule {number}", VERBS[verb].permission, schedule.spec.queue
        roles.check_owner(verb, permission, principal.role, principal.name, schedule.owner, name)
        self._check_queue(principal, queue, f"{name} submits to queue {queue}")
