"""The limits of what clients submit and change: sizes, priority, rate, pending jobs and schedules."""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime

from taskqd.auth.principal import Principal
from taskqd.auth.rate_limit import RateLimiter
from taskqd.config.limits import BURST, UNBOUNDED, Limits, PendingLimit
from taskqd.errors import Forbidden, QueueFull, TooLarge
from taskqd.model.footprint import GROUP_BYTES, footprint, footprint_of, text_bytes
from taskqd.model.job import Job, Status
from taskqd.model.roles import Role
from taskqd.model.spec import DEFAULT_SPEC, Spec
from taskqd.state.pending_quota import Pending, check_pending, pending_in_all, pending_of
from taskqd.state.queue_state import QueueState

MAX_CHARACTER_SIZE = 4
"""Bytes of one character in UTF-8."""
NOTHING_PENDING = Pending()
MAX_SCHEDULES_BYTES = 16 * 1024**2
"""Bytes of memory that the schedules of one user may take, as `footprint` counts them."""
MAX_SCHEDULES_BLOCKS = 256 * 1024**2
"""Bytes of scripts and stdins that the schedules of one user may keep on disk."""


class SubmissionLimits:
    """Checks the configured `limits`; each check raises if its limit is exceeded.

    Rates, priority, schedules and the pending jobs of one user are not limited for admins.
    """

    def __init__(self, queue_state: QueueState, limits: Limits, clock: IReactorTime) -> None:
        self.limits = limits
        self._queue_state = queue_state
        self._clock = clock
        self._footprints: dict[int, tuple[str, Spec, int]] = {}  # of schedules, by number, and what has them
        self._short_command = limits.command // MAX_CHARACTER_SIZE  # any of so few characters is accepted
        rate = limits.submissions
        self._rate_limiter = None if rate is None else RateLimiter(rate, max(1.0, BURST * rate))
        self._act_limiter = None if limits.acts is None else RateLimiter(limits.acts, limits.acts)

    # Sizes.

    def check_command(self, command: str) -> None:
        """Raise TooLarge for a command with too many bytes."""
        if (size := len(command.encode())) > self.limits.command:
            raise TooLarge(
                f"the command has {size} bytes, the limit is {self.limits.command}; send it as a --script"
            )

    def check_commands(self, commands: list[str]) -> None:
        """Raise TooLarge if one of some commands has too many bytes."""
        if max(map(len, commands)) > self._short_command:
            for command in commands:
                self.check_command(command)

    def check_sizes(self, spec: Spec, secret_size: int) -> None:
        """Raise TooLarge for a large environment, which includes the secrets, or label."""
        limit, size = self.limits.environment, secret_size
        if spec.env or spec.env_base64:
            size += sum(len(name) + len(value.encode()) for name, value in spec.env.items())
            size += sum(len(name) + len(value) for name, value in spec.env_base64.items())
        if size > limit:
            raise TooLarge(
                f"the environment has {size} bytes, the limit is {limit}; pass fewer variables, or a file"
            )
        if spec.label is not None or spec.unless is not None:
            self._check_label(spec.label)
            self._check_label(spec.unless)

    def check_blocks(self, spec: Spec) -> None:
        """Raise TooLarge for a large script or stdin."""
        for size in filter(None, (spec.script, spec.stdin)):
            if size > self.limits.block:
                raise TooLarge(
                    f"a block of {size} bytes is refused, the limit is {self.limits.block}; "
                    "let the job read a file"
                )

    def check_changes(self, values: dict[str, Any]) -> None:
        """Raise TooLarge for a SET to values that SUBMIT would refuse."""
        self._check_label(values.get("label"))
        self.check_output(values.get("max_output", 0))

    def _check_label(self, label: str | None) -> None:
        limit = self.limits.label
        if label is not None and len(label) > limit:
            raise TooLarge(
                f"the label has {len(label)} characters, the limit is {limit}; choose a shorter one"
            )

    def limit_output(self, spec: Spec) -> Spec:
        """Return a spec whose default `max_output` is within the limit; raises TooLarge for a larger one."""
        limit = self.limits.output
        if limit is not None and spec.max_output > limit and spec.max_output == DEFAULT_SPEC.max_output:
            spec = replace(spec, max_output=limit)
        self.check_output(spec.max_output)
        return spec

    def check_output(self, size: int) -> None:
        """Raise TooLarge if a job may not print that many bytes."""
        limit = self.limits.output
        if limit is not None and size > limit:
            raise TooLarge(f"--max-output={size} is refused, the limit is {limit} bytes; choose a lower one")

    # Priority and rate.

    def limit_priority(self, spec: Spec) -> Spec:
        """Return a spec whose default priority is within the limit; raises Forbidden for a higher one."""
        limit = self.limits.priority
        if limit is not None and spec.priority > limit and spec.priority == DEFAULT_SPEC.priority:
            spec = replace(spec, priority=limit)
        self.check_priority(spec.priority)
        return spec

    def check_priority(self, priority: int) -> None:
        """Raise Forbidden for a priority that only admins may use."""
        limit = self.limits.priority
        if limit is not None and priority > limit:
            raise Forbidden(
                f"permission denied: priority {priority} needs the role admin; choose one up to {limit}"
            )

    def has_rate_limit(self, principal: Principal) -> bool:
        """Whether a client's submissions are limited in rate."""
        return self._rate_limiter is not None and principal.role is not Role.ADMIN

    def check_rate(self, principal: Principal, count: int = 1) -> None:
        """Count submissions or changes; raises QueueFull if the client makes them too fast."""
        if self._rate_limiter is None or principal.role is Role.ADMIN:
            return
        wait = self._rate_limiter.consume(principal.name, self._clock.seconds(), count)
        if wait:
            raise QueueFull(
                f"you submit or change more than {self.limits.submissions:g} jobs per second; "
                f"retry in {wait:.3f} s"
            )

    def available_rate(self, name: str) -> float:
        """Return how many submissions or changes a user may make at once now."""
        limiter = self._rate_limiter
        return float("inf") if limiter is None else limiter.available(name, self._clock.seconds())

    def delay_of_acts(self, principal: Principal, count: int) -> float:
        """Count jobs that an act on many is about to change, and return 0.

        Return the seconds to wait, without counting them, if the client changes too many per second.
        """
        if self._act_limiter is None or principal.role is Role.ADMIN:
            return 0.0
        return self._act_limiter.consume(principal.name, self._clock.seconds(), count)

    # Pending jobs.

    def max_pending(self, principal: Principal) -> PendingLimit:
        """Return how many jobs of a client may be pending."""
        return UNBOUNDED if principal.role is Role.ADMIN else self.limits.pending_limit_per_user

    def check_retry(self, principal: Principal, job: Job, also: Pending = NOTHING_PENDING) -> Pending:
        """Raise QueueFull if an ended job, or the tasks of an array, cannot become pending again.

        ``also`` is what becomes pending with it. Return that and the job together.
        """
        if not job.status.is_final:
            return also  # RETRY is refused for another reason
        count = 1
        if job.tasks is not None:
            count = job.tasks.count - job.tasks.counts.get(Status.COMPLETED, 0) or job.tasks.count
        whole = self._queue_state.array_of(job)
        size = footprint_of(whole) if whole.status.is_final else 0
        if size and not self._queue_state.has_group(job.owner, whole.spec):
            size += GROUP_BYTES
        return self._check_pending(principal, job, Pending(also.jobs + count, also.bytes + size))

    def check_growth(
        self,
        principal: Principal,
        job: Job,
        values: dict[str, Any],
        also: Pending = NOTHING_PENDING,
        command: str | None = None,
    ) -> Pending:
        """Raise QueueFull if a SET makes a pending job too large for the memory of pending jobs.

        ``command`` is the new one, None if it stays. ``also`` is by how much others grow with it. Return that
        and the growth of the job together.
        """
        command = job.command if command is None else command
        spec = replace(job.spec, **values)
        growth = footprint(command, spec) - footprint(job.command, job.spec)
        if not self._queue_state.has_group(job.owner, spec):
            growth += GROUP_BYTES
        if job.spec.key is not None and job.original_command == job.command != command:
            growth += text_bytes(job.command)  # of the submission, which is kept beside the new one
        if growth <= 0:
            return also
        return self._check_pending(principal, job, Pending(0, also.bytes + growth))

    def _check_pending(self, principal: Principal, job: Job, more: Pending) -> Pending:
        check_pending(pending_in_all(self._queue_state), more, self.limits.pending_limit)
        check_pending(pending_of(self._queue_state, job.owner), more, self.max_pending(principal), job.owner)
        return more

    # Schedules.

    def check_schedules(
        self, principal: Principal, command: str, spec: Spec, replaced: int | None = None
    ) -> None:
        """Raise QueueFull if a user has too many schedules, or too large ones, to add another.

        It takes the place of the schedule with the number ``replaced``, if that is given.
        """
        schedules, limit = self._queue_state.schedules.by_id, self.limits.schedules_per_user
        own = [schedule for schedule in schedules.values() if schedule.owner == principal.name]
        if limit is not None and len(own) >= limit and replaced is None:
            raise QueueFull(f"you have {len(own)} schedules, the limit is {limit}; UNSCHEDULE one of them")
        footprints, size = self._footprints, _schedule_footprint(command, spec)
        for number in [number for number in footprints if number not in schedules]:
            del footprints[number]
        used = 0
        for schedule in own:
            known = footprints.get(schedule.id)
            if known is None or known[0] is not schedule.command or known[1] is not schedule.spec:
                measured = _schedule_footprint(schedule.command, schedule.spec)
                footprints[schedule.id] = known = schedule.command, schedule.spec, measured
            used += 0 if schedule.id == replaced else known[2]
        if used + size > MAX_SCHEDULES_BYTES:
            raise QueueFull(
                f"your {len(own)} schedules take {used} bytes of memory and this one takes {size}, the limit "
                f"is {MAX_SCHEDULES_BYTES}; UNSCHEDULE one of them"
            )
        kept = sum(_block_bytes(schedule.spec) for schedule in own if schedule.id != replaced)
        if _block_bytes(spec) and kept + _block_bytes(spec) > MAX_SCHEDULES_BLOCKS:
            raise QueueFull(
                f"the scripts and stdins of your schedules have {kept} bytes and those of this one "
                f"{_block_bytes(spec)}, the limit is {MAX_SCHEDULES_BLOCKS}; let its command read a file"
            )


def count_changes(jobs: Iterable[Job]) -> int:
    """Return the number of jobs that a change of these jobs affects: of an array, its tasks."""
    return sum(1 if job.tasks is None else job.tasks.count for job in jobs)


def _block_bytes(spec: Spec) -> int:
    return (spec.script or 0) + (spec.stdin or 0)


def _schedule_footprint(command: str, spec: Spec) -> int:
    """Return the bytes of memory of a schedule; it has no tasks itself."""
    return footprint(command, replace(spec, array=None))
