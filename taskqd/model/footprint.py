"""How much memory a job takes, in bytes: a bound that depends on nothing but what is known of the job.

Of pending jobs it is counted against the limits ``pending-bytes`` and ``pending-bytes-per-user`` (quotas.py),
of jobs that have ended against ``[retention] memory`` (expiry.py).
"""

from taskqd.model.job import Job
from taskqd.model.spec import DEFAULT_QUEUE, DEFAULT_SPEC, Spec

JOB_BYTES = 500
"""A job, and its places in the indexes."""
SPEC_BYTES = 600
"""A spec that no other job has; jobs without any option share theirs."""
TASK_BYTES = 500
"""One task of an array, which shares its command and its spec."""
ROOM_BYTES = 1300
"""A queue that has no other job, or amounts that no other job wants."""
ATTEMPT_BYTES = 700
"""What is known of one attempt."""

DEPENDENCY_BYTES = 32
"""One id that a job comes after: 8 bytes in its spec, 8 in the list of those that wait, and room to grow."""
ENTRY_BYTES = 150
"""One variable, resource, secret or condition: objects and a place in a table, whatever its name is."""


def text_bytes(text: str) -> int:
    """Return the most that a text takes: up to 4 bytes a character, and its UTF-8, where it is not ASCII.

    An eighth more is for what the allocator rounds up: large texts take whole pages.
    """
    if text.isascii():
        return len(text)
    size = 4 * len(text) + len(text.encode("utf-8", "surrogatepass"))
    return size + size // 8


def footprint(command: str, spec: Spec) -> int:
    """Return how many bytes a command and a spec take."""
    size = JOB_BYTES + (len(command) if command.isascii() else text_bytes(command))
    if spec is DEFAULT_SPEC or spec == DEFAULT_SPEC:
        return size
    size += SPEC_BYTES
    for name, value in spec.env.items():
        size += ENTRY_BYTES + len(name) + text_bytes(value)
    for name, content in spec.env_base64.items():
        size += ENTRY_BYTES + len(name) + len(content)
    for text in (spec.key, spec.cwd):
        size += text_bytes(text) if text else 0
    if spec.array is not None:
        size += TASK_BYTES * spec.array.count
    if spec.queue != DEFAULT_QUEUE or spec.needs or spec.slots != 1:
        size += ROOM_BYTES
    size += sum(ENTRY_BYTES + len(name) for name in spec.secrets)
    size += DEPENDENCY_BYTES * (len(spec.after) + len(spec.after_any) + len(spec.after_fail))
    return size + _changeable(spec)


def footprint_of(job: Job) -> int:
    """Return how many bytes a job takes; where it was changed, both specs share what SET does not change."""
    size = footprint(job.command, job.spec) + ATTEMPT_BYTES * (job.runs + job.task_runs)
    return size if job.asked is None else size + SPEC_BYTES + _changeable(job.asked)


def _changeable(spec: Spec) -> int:
    size = sum(ENTRY_BYTES + len(name) for name in spec.needs)
    size += ENTRY_BYTES * (len(spec.retry_on) + len(spec.no_retry_on))
    return size + (text_bytes(spec.label) if spec.label else 0)
