"""How a job is named: by its id, or as a task by its array and its index there."""

from typing import TypeAlias

from msgspec import Struct


class TaskId(Struct, frozen=True, gc=False):
    """A task by the array that it is of and its index there: ``<id>.<index>`` on the wire."""

    array: int
    index: int

    def __str__(self) -> str:
        return f"{self.array}.{self.index}"


JobRef: TypeAlias = int | TaskId
"""A job by its number, or a task by its array and its index there."""
