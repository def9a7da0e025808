"""An upper bound of the memory that a job takes, in bytes, which depends only on the job itself.

It counts against the limits ``pending-bytes`` and ``pending-bytes-per-user`` while a job is pending, and
against ``[retention] memory`` when it has ended. A group of the ready queue is counted once for all pending
jobs of an owner that share it (``group_of``).
"""

from collections.abc import Sequence

from taskqd.model.job import NO_EXTRAS, Job
from taskqd.model.spec import DEFAULT_QUEUE, DEFAULT_SPEC, NamedDependencies, Spec

JOB_BYTES = 500
"""A job and its entries in the indexes."""
SPEC_BYTES = 600
"""A spec that no other job shares; jobs without options share one."""
TASK_BYTES = 500
"""A task, which shares the command and the spec of its array."""
NAMED_BYTES = 300
"""Dependencies that were named by labels or keys, without these."""
GROUP_BYTES = 2500
"""A group of the ready queue, and its queue. Pending jobs with the same queue, slots and needs share one."""
QUEUE_BYTES = 1300
"""A queue that has no other job."""
ATTEMPT_BYTES = 700
"""An attempt."""

DEPENDENCY_BYTES = 32
"""A dependency: 8 bytes in the spec, 8 in the list of waiting jobs, and what lists allocate in advance."""
ENVIRONMENT_BYTES = 400
"""The hash of an inherited environment that no other job has, and the counts of its jobs."""
ENTRY_BYTES = 150
"""A variable, resource, secret or condition without its name: objects and an entry in a table."""

Group = tuple[str, int, frozenset[tuple[str, int]]]
"""The queue, the slots and the needs of jobs that share a group of the ready queue."""


def text_bytes(text: str) -> int:
    """Return an upper bound for a text: if not ASCII, 4 bytes per character, and its UTF-8, which is cached.

    An eighth more is for the allocator, which rounds large texts up to whole pages.
    """
    if text.isascii():
        return len(text)
    size = 4 * len(text) + len(text.encode("utf-8", "surrogatepass"))
    return size + size // 8


def group_of(spec: Spec) -> Group | None:
    """Return the group of the ready queue that a job needs, None for the one that is always there."""
    if spec is DEFAULT_SPEC or (spec.queue == DEFAULT_QUEUE and spec.slots == 1 and not spec.needs):
        return None
    return spec.queue, spec.slots, frozenset(spec.needs.items())


def footprint(command: str, spec: Spec) -> int:
    """Return an upper bound in bytes for a command and a spec, without their group."""
    return JOB_BYTES + text_bytes(command) + _spec_bytes(spec)


def footprint_of_all(commands: Sequence[str], spec: Spec) -> int:
    """Return the sum of the footprints of several commands with one spec."""
    are_ascii = "".join(commands).isascii()
    texts = sum(map(len if are_ascii else text_bytes, commands))
    return (JOB_BYTES + _spec_bytes(spec)) * len(commands) + texts


def _spec_bytes(spec: Spec) -> int:
    if spec is DEFAULT_SPEC or spec == DEFAULT_SPEC:
        return 0
    size = SPEC_BYTES
    for name, value in spec.env.items():
        size += ENTRY_BYTES + len(name) + text_bytes(value)
    for name, content in spec.env_base64.items():
        size += ENTRY_BYTES + len(name) + len(content)
    for text in (spec.key, spec.cwd, spec.unless, spec.stdout, spec.stderr):
        size += text_bytes(text) if text else 0
    if spec.named is not None:
        size += _named_bytes(spec.named)
    if spec.array is not None:
        size += TASK_BYTES * spec.array.count
        size += 0 if spec.array.at_once is None else GROUP_BYTES  # its tasks have a group for themselves
    size += sum(ENTRY_BYTES + len(name) for name in spec.secrets)
    size += 0 if spec.environment is None else ENVIRONMENT_BYTES
    size += DEPENDENCY_BYTES * (len(spec.after) + len(spec.after_any) + len(spec.after_fail))
    return size + _changeable(spec)


def _named_bytes(named: NamedDependencies) -> int:
    keys = (*named.after_key, *named.after_any_key, *named.after_fail_key)
    labels = filter(None, (named.after_label, named.after_any_label, named.after_fail_label))
    return NAMED_BYTES + sum(ENTRY_BYTES + len(key) for key in keys) + sum(map(text_bytes, labels))


def footprint_of(job: Job) -> int:
    """Return an upper bound in bytes for a job, without its group.

    Its two specs, if it was changed, share large fields.
    """
    if job.extras is NO_EXTRAS:
        return footprint(job.command, job.spec) + (ATTEMPT_BYTES if job.last_attempt is not None else 0)
    size = footprint(job.command, job.spec) + ATTEMPT_BYTES * (job.runs + job.task_runs)
    if job.original_command != job.command:
        size += text_bytes(job.original_command)
    return size if job.spec_before_change is None else size + SPEC_BYTES + _changeable(job.spec_before_change)


def footprint_of_kept(job: Job) -> int:
    """Return an upper bound in bytes for a job that has ended, and for its queue if it may be the last."""
    return footprint_of(job) + (0 if job.spec.queue == DEFAULT_QUEUE else QUEUE_BYTES)


def footprint_of_ended(jobs: Sequence[Job]) -> int:
    """Return the sum, with their queues, for jobs that have ended with their first attempt."""
    commands = [job.command for job in jobs if job.spec is DEFAULT_SPEC]
    size = footprint_of_all(commands, DEFAULT_SPEC) + ATTEMPT_BYTES * len(commands)
    return size + sum([footprint_of_kept(job) for job in jobs if job.spec is not DEFAULT_SPEC])


def _changeable(spec: Spec) -> int:
    size = sum(ENTRY_BYTES + len(name) for name in spec.needs)
    size += ENTRY_BYTES * (len(spec.retry_on) + len(spec.no_retry_on))
    return size + sum(text_bytes(text) for text in (spec.script_line, spec.label) if text)
