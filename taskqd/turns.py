"""Turns: whoever decides about a thing holds its turn until the decision is true, and the next one waits."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

Name = TypeVar("Name", bound=Hashable)


class Turns(Generic[Name]):
    """A lock for each name, taken in the order in which it was asked for; a free one costs one dict entry."""

    def __init__(self) -> None:
        self._waiting: dict[Name, list[Deferred[None]]] = {}

    async def take(self, name: Name) -> None:
        """Return when the turn is the caller's, who must give it back."""
        if name not in self._waiting:
            self._waiting[name] = []
            return
        turn: Deferred[None] = Deferred()
        self._waiting[name].append(turn)
        await turn

    def give_back(self, name: Name) -> None:
        """End the caller's turn and let the next one have it."""
        waiting = self._waiting[name]
        if waiting:
            waiting.pop(0).callback(None)
        else:
            del self._waiting[name]
