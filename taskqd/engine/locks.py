"""Turns: whoever decides about a thing holds its turn until the decision is true, and the next one waits."""

from collections import deque
from collections.abc import Hashable, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from taskqd.model.job import Job

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")


class KeyedLock(Generic[Name]):
    """A lock for each name, taken in the order in which it was asked for; a free one costs one dict entry."""

    def __init__(self) -> None:
        self._waiting: dict[Name, deque[Deferred[None]]] = {}
        self._ended: deque[Name] = deque()
        self._is_passing_on = False

    def is_taken(self, name: Name) -> bool:
        """Whether somebody holds the turn."""
        return name in self._waiting

    async def take(self, name: Name) -> None:
        """Return when the turn is the caller's, who must give it back."""
        if name not in self._waiting:
            self._waiting[name] = deque()
            return
        turn: Deferred[None] = Deferred()
        self._waiting[name].append(turn)
        await turn

    def give_back(self, name: Name) -> None:
        """End the caller's turn and let the next one have it.

        Who gives it back at once, in his turn that this began, does so when this is done: however many wait,
        they come one after the other, and not each within the one before.
        """
        self._ended.append(name)
        if self._is_passing_on:
            return
        self._is_passing_on = True
        try:
            while self._ended:
                self._pass_on(self._ended.popleft())
        finally:
            self._is_passing_on = False

    def _pass_on(self, name: Name) -> None:
        waiting = self._waiting[name]
        if waiting:
            waiting.popleft().callback(None)
        else:
            del self._waiting[name]


class JobLocks:
    """The turns of jobs, where an array's is that of all its tasks.

    Whoever decides about a task comes by its array's turn, and so waits for a decision about the whole;
    whoever decides about the whole keeps that turn, and waits for the tasks about which something is just
    being decided.
    """

    def __init__(self) -> None:
        self._turns: KeyedLock[int] = KeyedLock()

    def of(self, job: Job) -> "JobTurn":
        """Return what holds a job's turn for an ``async with``, with an array's those of all its tasks."""
        return JobTurn(self._turns, job)


class JobTurn:
    """One turn, from ``async with`` to its end; giving it back waits for nothing."""

    __slots__ = ("_held", "_job", "_turns")

    def __init__(self, turns: KeyedLock[int], job: Job) -> None:
        self._turns = turns
        self._job = job
        self._held: list[int] = []

    async def __aenter__(self) -> None:
        job, turns = self._job, self._turns
        if job.array is not None:
            await turns.take(job.array)
            await turns.take(job.id)
            turns.give_back(job.array)
            self._held.append(job.id)
            return
        await turns.take(job.id)
        self._held.append(job.id)
        for task in job.tasks.ids if job.tasks else ():
            if turns.is_taken(task):
                await turns.take(task)
                self._held.append(task)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job_id in self._held:
            self._turns.give_back(job_id)


async def gather_results(deferreds: Iterable["Deferred[Value]"]) -> list[Value | Failure]:
    """Return what each has fired with once all have: its result, or its Failure."""
    results: list[Any] = await DeferredList(deferreds, consumeErrors=True)
    return [result for _, result in results]
