"""How a request names a job: ``<id>``, or ``<id>.<index>`` for a task of an array (docs/protocol.md §2)."""

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model.job_ref import JobRef, TaskId

_MOST_DIGITS = 18


def parse_id(text: str) -> int:
    """Return a job number. Raises BadRequest, or NoSuchJob for a number that no job can have reached."""
    digits = text.lstrip("0")
    if not text.isascii() or not digits.isdigit():
        raise BadRequest(f"expected a job's id, a whole number from 1, not {text[:40]!r}")
    if len(digits) > _MOST_DIGITS:
        raise NoSuchJob(f"there is no job {digits[:40]}")
    return int(digits)


def parse_ref(text: str) -> JobRef:
    """Return a job number, or a task by its array and index. Raises as ``parse_id`` does."""
    array, dot, index = text.partition(".")
    if not dot:
        return parse_id(text)
    if not array.isascii() or not array.lstrip("0").isdigit() or not index.isascii() or not index.isdigit():
        raise BadRequest(f"expected a job's id such as 7, or 7.3 for a task of an array, not {text[:40]!r}")
    if len(index.lstrip("0")) > _MOST_DIGITS:
        raise NoSuchJob(f"there is no task {text[:40]}")
    return TaskId(parse_id(array), int(index.lstrip("0") or "0"))
