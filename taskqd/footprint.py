"""How much memory a pending job takes, in bytes: a bound that depends on nothing but what was submitted.

It is counted against the limits ``pending-bytes`` and ``pending-bytes-per-user`` (quotas.py). What every job
takes, whatever it asks for, is bounded by the number of jobs.
"""

from taskqd.job import PLAIN, Job, Spec

DEPENDENCY_BYTES = 32
"""One id that a job comes after: 8 bytes in its spec, 8 in the list of those that wait, and room to grow."""
ENTRY_BYTES = 150
"""One variable, resource, secret or condition: objects and a place in a table, whatever its name is."""


def text_bytes(text: str) -> int:
    """Return the most that a text takes: up to 4 bytes a character, and its UTF-8, where it is not ASCII."""
    if text.isascii():
        return len(text)
    return 4 * len(text) + len(text.encode("utf-8", "surrogatepass"))


def footprint(command: str, spec: Spec) -> int:
    """Return how many bytes a command and a spec take."""
    size = len(command) if command.isascii() else text_bytes(command)
    if spec is PLAIN:
        return size
    for name, value in spec.env.items():
        size += ENTRY_BYTES + len(name) + text_bytes(value)
    for name, content in spec.env_base64.items():
        size += ENTRY_BYTES + len(name) + len(content)
    for text in (spec.key, spec.cwd):
        size += text_bytes(text) if text else 0
    size += sum(ENTRY_BYTES + len(name) for name in spec.secrets)
    size += DEPENDENCY_BYTES * (len(spec.after) + len(spec.after_any) + len(spec.after_fail))
    return size + _changeable(spec)


def footprint_of(job: Job) -> int:
    """Return how many bytes a job takes; where it was changed, both specs share what SET does not change."""
    size = footprint(job.command, job.spec)
    return size if job.asked is None else size + _changeable(job.asked)


def _changeable(spec: Spec) -> int:
    size = sum(ENTRY_BYTES + len(name) for name in spec.needs)
    size += ENTRY_BYTES * (len(spec.retry_on) + len(spec.no_retry_on))
    return size + (text_bytes(spec.label) if spec.label else 0)
