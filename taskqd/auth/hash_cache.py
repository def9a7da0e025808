"""Checks tokens against their slow hashes: one hash at a time, in a thread, and once for equal requests.

A token that matched is remembered while its entry is unchanged, so the next connection with it costs
microseconds. Not the token is kept, but its HMAC with a key that only this process has.
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

MAX_QUEUED_CHECKS = 50
"""Checks that may be queued; the last of them waits for one or two seconds."""
BUSY = "too many tokens are being checked; try again in 2 s"


class Busy(UnauthorizedLogin):
    """Too many checks are queued."""


class _Check(NamedTuple):
    """A token to check against an entry, as the HMAC of its text."""

    entry: Entry
    digest: bytes


class HashCache:
    """Checks tokens. `in_thread` calls a function in another thread and returns a Deferred of its result."""

    _log = Logger()

    def __init__(self, in_thread: Callable[..., "Deferred[Any]"], key: bytes) -> None:
        self._in_thread = in_thread
        self._key = key
        self._matched: dict[str, _Check] = {}  # entry id -> the check that succeeded
        self._waiters: dict[_Check, list[Deferred[bool]]] = {}
        self._queue: deque[tuple[_Check, str]] = deque()
        self._is_busy = False

    @property
    def waiting_count(self) -> int:
        """The number of different checks that are queued or in progress."""
        return len(self._waiters)

    def is_cheap(self, entry: Entry, text: str) -> bool:
        """Whether a check needs no slow hash, or only one that is being computed already."""
        check = self._make_check(entry, text)
        return self._has_matched(check) or check in self._waiters

    def check(self, entry: Entry, text: str) -> "Deferred[bool]":
        """Fire with whether a token matches an entry; fails with Busy. May be cancelled."""
        check = self._make_check(entry, text)
        if self._has_matched(check):
            return succeed(True)
        if check not in self._waiters:
            if len(self._queue) >= MAX_QUEUED_CHECKS:
                return fail(Busy(BUSY))
            self._waiters[check] = []
            self._queue.append((check, text))
        waiters = self._waiters[check]
        waiter: Deferred[bool] = Deferred(waiters.remove)
        waiters.append(waiter)
        self._start_next()
        return waiter

    def forget_all_but(self, entries: dict[str, Entry]) -> None:
        """Forget the tokens of all entries but these."""
        self._matched = {name: check for name, check in self._matched.items() if name in entries}

    def _make_check(self, entry: Entry, text: str) -> _Check:
        return _Check(entry, hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256"))

    def _has_matched(self, check: _Check) -> bool:
        """Whether a token has matched the entry before, and the entry has not changed since."""
        matched = self._matched.get(check.entry.id)
        return (
            matched is not None
            and matched.entry == check.entry
            and hmac.compare_digest(matched.digest, check.digest)
        )

    def _start_next(self) -> None:
        """Start the next check that has waiters, unless one is in progress."""
        while self._queue and not self._is_busy:
            check, text = self._queue.popleft()
            if not self._waiters[check]:
                del self._waiters[check]
                continue
            self._is_busy = True
            self._in_thread(tokens.matches, check.entry, text).addBoth(self._on_checked, check)

    def _on_checked(self, result: Any, check: _Check) -> None:
        self._is_busy = False
        if result is True:
            self._matched[check.entry.id] = check
        waiters = self._waiters.pop(check)
        if isinstance(result, Failure) and not waiters:
            self._log.failure("a token could not be checked; its client has disconnected", result)
        while waiters:  # a callback may cancel other waiters
            waiters.pop(0).callback(result)
        self._start_next()
