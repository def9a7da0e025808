"""References to jobs in requests: by id, or as a task by its array and index."""

from typing import TypeAlias

from msgspec import Struct


class TaskId(Struct, frozen=True, gc=False):
    """A task by its array and its index there: ``<id>.<index>`` on the wire."""

    array: int
    index: int

    def __str__(self) -> str:
        return f"{self.array}.{self.index}"


JobRef: TypeAlias = int | TaskId
"""A job by its id, or a task by its array and index."""
