"""Whoever fails too often waits: failed AUTHs by the host that they come from, and what the log says of them.

A host is told of at once, and then once a minute with a count; the log gets so many lines a minute at most,
and one for all that is beyond. An IPv6 host is its /64, which is one customer's.
"""

import ipaddress
import math
from collections import deque
from contextlib import suppress
from typing import Any

from twisted.logger import Logger

from taskqd.errors import AuthFailed

MAX_FAILURES_OF_TOKEN = 3
"""Where a host has failed too often, this many AUTHs that claim one known token may still fail from there."""
WINDOW = 60.0
"""Failures are counted, and lines gathered, over so many seconds."""
MOST_FAILURES = 10
"""So many AUTHs of a host may fail, or be under way, within the window; others are refused unseen."""
MOST_HOSTS = 1000
"""Of so many hosts it is known that they failed; of more, the one that has been quiet longest is forgotten.
"""
MOST_LINES = 30
"""The log gets so many lines about failed AUTHs within a window, and one about all others."""
_NETWORK = 64
_HERE = "this machine"


def host_of(address: str) -> str:
    """Return whom an address (``10.0.0.5:4242``) counts for: a host, an IPv6 network, this machine."""
    if address.startswith("pid "):
        return _HERE
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    with suppress(ValueError):
        found = ipaddress.ip_address(host)
        mapped = getattr(found, "ipv4_mapped", None)
        if found.version == 4 or mapped:
            return str(mapped or found)
        return str(ipaddress.ip_network((found, _NETWORK), strict=False))
    return host or address


class _Attempts:
    """AUTHs that failed within the window, up to ``most`` of them, and those under way."""

    __slots__ = ("failures", "under_way")

    def __init__(self, most: int) -> None:
        self.failures: deque[float] = deque(maxlen=most)
        self.under_way = 0

    def count(self, now: float) -> int:
        """Return how many failed within the window or are under way."""
        while self.failures and now - self.failures[0] >= WINDOW:
            self.failures.popleft()
        return len(self.failures) + self.under_way


class _Host(_Attempts):
    """What is known of a host; ``tokens`` has the AUTHs that claimed a token which there is, by its id."""

    __slots__ = ("tokens", "told_at", "untold")

    def __init__(self) -> None:
        super().__init__(MOST_FAILURES)
        self.tokens: dict[str, _Attempts] = {}
        self.untold = 0
        self.told_at = -math.inf

    def count_of(self, token: str, now: float) -> int:
        """Return how many AUTHs that claimed a token failed within the window or are under way."""
        attempts = self.tokens.get(token)
        return 0 if attempts is None else attempts.count(now)

    def forget_tokens(self, now: float) -> None:
        """Forget the tokens of which nothing counts any more."""
        for token in [token for token, attempts in self.tokens.items() if not attempts.count(now)]:
            del self.tokens[token]


class Throttle:
    """Counts; ``sweep`` has to be called now and then, for the lines that are due."""

    _log = Logger()

    def __init__(self, clock: Any) -> None:
        self._seconds = clock.seconds
        self._hosts: dict[str, _Host] = {}
        self._lines = 0
        self._lines_since = -math.inf
        self._beyond = 0

    def refusal(self, address: str) -> AuthFailed | None:
        """Return how an AUTH is refused where too many from there have failed, None where they have not."""
        name, now = host_of(address), self._seconds()
        host = self._hosts.get(name)
        if host is None or host.count(now) < MOST_FAILURES:
            return None
        wait = math.ceil(host.failures[0] + WINDOW - now) if host.failures else 1
        return AuthFailed(f"too many AUTHs from {name} have failed; try again in {wait} s")

    def may_try(self, address: str, token: str | None) -> bool:
        """Whether an AUTH that claims a token may be checked though too many from there have failed.

        ``token`` is the id of a token that there is, None for everything else.
        """
        if token is None:
            return False
        host = self._hosts.get(host_of(address))
        return host is None or host.count_of(token, self._seconds()) < MAX_FAILURES_OF_TOKEN

    def refused(self, address: str) -> None:
        """Log an AUTH that was refused without being checked."""
        name = host_of(address)
        self._note(name, self._hosts[name], address, "too many have")

    def begin(self, address: str, token: str | None = None) -> None:
        """Count an AUTH that is under way, which one of the next two has to follow."""
        host = self._host(host_of(address))
        host.under_way += 1
        if token is not None:
            host.tokens.setdefault(token, _Attempts(MAX_FAILURES_OF_TOKEN)).under_way += 1

    def passed(self, address: str, token: str | None = None) -> None:
        """Count an AUTH that has let somebody in."""
        for attempts in self._attempts(address, token):
            attempts.under_way -= 1

    def failed(self, address: str, why: str, *, is_theirs: bool = True, token: str | None = None) -> None:
        """Count and log an AUTH that has failed; unless it ``is_theirs``, it is not held against the host."""
        for attempts in self._attempts(address, token):
            attempts.under_way -= 1
            if is_theirs:
                attempts.failures.append(self._seconds())
        name = host_of(address)
        self._note(name, self._hosts[name], address, why)

    def _attempts(self, address: str, token: str | None) -> list[_Attempts]:
        host = self._hosts[host_of(address)]
        return [host] if token is None else [host, host.tokens[token]]

    def sweep(self) -> None:
        """Write the lines that are due, and forget who has been quiet for a while."""
        now = self._seconds()
        for name, host in list(self._hosts.items()):
            host.forget_tokens(now)
            if now - host.told_at < WINDOW:
                continue
            if host.untold:
                self._gathered(name, host, now)
            elif not host.count(now):
                del self._hosts[name]
        if self._beyond and now - self._lines_since >= WINDOW:
            self._turn_over(now)

    def flush(self) -> None:
        """Write all that has not been told, before a stop."""
        for name, host in self._hosts.items():
            if host.untold:
                self._gathered(name, host, self._seconds())
        self._turn_over(self._seconds())

    def _host(self, name: str) -> _Host:
        """Return a host, which is now the one that was heard of last."""
        host = self._hosts.pop(name, None)
        if host is None:
            host = _Host()
            if len(self._hosts) >= MOST_HOSTS:
                self._forget_one()
        self._hosts[name] = host
        return host

    def _forget_one(self) -> None:
        """Forget the host that has been quiet longest; none while all have AUTHs under way."""
        for name, host in self._hosts.items():
            if not host.under_way:
                self._beyond += host.untold
                del self._hosts[name]
                return

    def _note(self, name: str, host: _Host, address: str, why: str) -> None:
        now = self._seconds()
        if now - host.told_at >= WINDOW and host.untold:
            self._gathered(name, host, now)
        if now - host.told_at < WINDOW:
            host.untold += 1
            return
        host.told_at = now
        if self._may_write(1, now):
            self._log.warn("an AUTH from {address} failed: {why}", address=address, why=why)

    def _gathered(self, name: str, host: _Host, now: float) -> None:
        count, host.untold, host.told_at = host.untold, 0, now
        if self._may_write(count, now):
            self._log.warn("{count} more AUTHs from {host} failed", count=count, host=name)

    def _may_write(self, count: int, now: float) -> bool:
        """Whether there is a line left for ``count`` failures; they are kept for the one line otherwise."""
        if now - self._lines_since >= WINDOW:
            self._turn_over(now)
        self._lines += 1
        if self._lines > MOST_LINES:
            self._beyond += count
        return self._lines <= MOST_LINES

    def _turn_over(self, now: float) -> None:
        """Begin a window of lines, with the one about all that was beyond the last."""
        if self._beyond:
            self._log.warn("{count} more AUTHs from other hosts failed", count=self._beyond)
        self._lines, self._lines_since, self._beyond = 0, now, 0
