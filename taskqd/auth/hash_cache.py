"""The slow hashes of tokens: one at a time, in a thread, and only once for what many ask at the same time.

What was found right is remembered for as long as its entry stays as it is: not the token, but its keyed hash
under a key that this process alone has. So the next connection with the same token costs microseconds.
"""

import hmac
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.auth import tokens
from taskqd.auth.tokens import Entry

MOST_WAITING = 50
"""So many hashes may wait for their turn: it comes within a second or two."""
BUSY = "too many tokens are being checked; try again in 2 s"


class Busy(UnauthorizedLogin):
    """Too many hashes wait for their turn."""


class _Question(NamedTuple):
    """A token that is to be checked with an entry, by its keyed hash."""

    entry: Entry
    mark: bytes


class Hashes:
    """Checks tokens; ``in_thread`` calls a function in another thread, and returns its result later."""

    _log = Logger()

    def __init__(self, in_thread: Callable[..., "Deferred[Any]"], key: bytes) -> None:
        self._in_thread = in_thread
        self._key = key
        self._known: dict[str, _Question] = {}
        self._asking: dict[_Question, list[Deferred[bool]]] = {}
        self._waiting: deque[tuple[_Question, str]] = deque()
        self._is_busy = False

    def is_cheap(self, entry: Entry, text: str) -> bool:
        """Whether a check would cost no slow hash more than is being made already."""
        question = self._question(entry, text)
        return self._is_known(question) or question in self._asking

    def check(self, entry: Entry, text: str) -> "Deferred[bool]":
        """Fire with whether a token is that of an entry; fails with Busy. May be cancelled."""
        question = self._question(entry, text)
        if self._is_known(question):
            return succeed(True)
        if question not in self._asking:
            if len(self._waiting) >= MOST_WAITING:
                return fail(Busy(BUSY))
            self._asking[question] = []
            self._waiting.append((question, text))
        askers = self._asking[question]
        answer: Deferred[bool] = Deferred(askers.remove)
        askers.append(answer)
        self._next()
        return answer

    def forget(self, entries: dict[str, Entry]) -> None:
        """Forget what was found of all entries but these."""
        self._known = {name: known for name, known in self._known.items() if name in entries}

    def _question(self, entry: Entry, text: str) -> _Question:
        return _Question(entry, hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256"))

    def _is_known(self, question: _Question) -> bool:
        """Whether a token was found to be that of the entry before, and the entry has not changed since."""
        known = self._known.get(question.entry.id)
        return (
            known is not None
            and known.entry == question.entry
            and hmac.compare_digest(known.mark, question.mark)
        )

    def _next(self) -> None:
        """Begin with the next hash that somebody still waits for, unless one is being made."""
        while self._waiting and not self._is_busy:
            question, text = self._waiting.popleft()
            if not self._asking[question]:
                del self._asking[question]
                continue
            self._is_busy = True
            self._in_thread(tokens.is_right, question.entry, text).addBoth(self._answered, question)

    def _answered(self, result: Any, question: _Question) -> None:
        self._is_busy = False
        if result is True:
            self._known[question.entry.id] = question
        askers = self._asking.pop(question)
        if isinstance(result, Failure) and not askers:
            self._log.failure("a token that nobody waits for could not be checked", result)
        while askers:  # each may cancel others
            askers.pop(0).callback(result)
        self._next()
