"""Throttles failed AUTHs per host, and limits how many of them are logged.

The first failure of a host is logged at once, later ones once per minute as a count. The log gets a limited
number of such lines per minute, and one line for all further failures. IPv6 hosts are grouped by /64, which
belongs to one customer.
"""

import ipaddress
import math
from collections import deque
from contextlib import suppress

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskqd.errors import AuthFailed

WINDOW = 60.0
"""Seconds over which failures are counted, and log lines are collected."""
MAX_FAILURES = 10
"""AUTHs of one host that may fail, or be in progress, within WINDOW; more are refused without a check."""
MAX_FAILURES_OF_TOKEN = 3
"""AUTHs with the id of one known token that may still fail within WINDOW when a host is at its limit."""
MAX_HOSTS = 1000
"""Hosts whose failures are known; beyond it, the one without a failure for the longest time is forgotten."""
MAX_LOG_LINES = 30
"""Log lines about failed AUTHs within WINDOW, besides the one for all further failures."""
_IPV6_PREFIX = 64
_LOCAL = "this machine"


def host_of(address: str) -> str:
    """Return the host, IPv6 network or local machine for which an address (`10.0.0.5:4242`) is counted."""
    if address.startswith("pid "):
        return _LOCAL
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    with suppress(ValueError):
        parsed = ipaddress.ip_address(host)
        mapped = getattr(parsed, "ipv4_mapped", None)
        if parsed.version == 4 or mapped:
            return str(mapped or parsed)
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return host or address


class _Attempts:
    """The times of up to `limit` AUTHs that failed within WINDOW, and the number of those in progress."""

    __slots__ = ("failures", "in_progress")

    def __init__(self, limit: int) -> None:
        self.failures: deque[float] = deque(maxlen=limit)
        self.in_progress = 0

    def count(self, now: float) -> int:
        """Return how many failed within WINDOW or are in progress."""
        while self.failures and now - self.failures[0] >= WINDOW:
            self.failures.popleft()
        return len(self.failures) + self.in_progress


class _Host(_Attempts):
    """The AUTHs of a host; `tokens` has those with a known token's id, by this id."""

    __slots__ = ("logged_at", "tokens", "unlogged")

    def __init__(self) -> None:
        super().__init__(MAX_FAILURES)
        self.tokens: dict[str, _Attempts] = {}
        self.unlogged = 0
        self.logged_at = -math.inf

    def count_of(self, token: str, now: float) -> int:
        """Return how many AUTHs with a token's id failed within WINDOW or are in progress."""
        attempts = self.tokens.get(token)
        return 0 if attempts is None else attempts.count(now)

    def forget_old_tokens(self, now: float) -> None:
        """Forget the tokens without AUTHs within WINDOW."""
        for token in [token for token, attempts in self.tokens.items() if not attempts.count(now)]:
            del self.tokens[token]


class Throttle:
    """Counts AUTHs. `sweep` must be called regularly; it writes the log lines that are due.

    Each AUTH is announced with `started`, and then reported with either `succeeded` or `failed`.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._seconds = clock.seconds
        self._hosts: dict[str, _Host] = {}
        self._lines = 0
        self._lines_since = -math.inf
        self._unlogged = 0  # beyond MAX_LOG_LINES

    def refusal(self, address: str) -> AuthFailed | None:
        """Return the error for an AUTH of a host with too many failures, None for any other host."""
        name, now = host_of(address), self._seconds()
        host = self._hosts.get(name)
        if host is None or host.count(now) < MAX_FAILURES:
            return None
        wait = math.ceil(host.failures[0] + WINDOW - now) if host.failures else 1
        return AuthFailed(f"too many failed AUTHs from {name}; try again in {wait} s")

    def may_try(self, address: str, token: str | None) -> bool:
        """Whether an AUTH may be checked although its host has too many failures.

        `token` is the id of a known token in the AUTH, None for any other AUTH.
        """
        if token is None:
            return False
        host = self._hosts.get(host_of(address))
        return host is None or host.count_of(token, self._seconds()) < MAX_FAILURES_OF_TOKEN

    def refused(self, address: str) -> None:
        """Log an AUTH that was refused without a check."""
        name = host_of(address)
        self._log_failure(name, self._hosts[name], address, "too many have failed before")

    def started(self, address: str, token: str | None = None) -> None:
        """Count an AUTH that is being checked; `succeeded` or `failed` must follow."""
        host = self._get_host(host_of(address))
        host.in_progress += 1
        if token is not None:
            host.tokens.setdefault(token, _Attempts(MAX_FAILURES_OF_TOKEN)).in_progress += 1

    def succeeded(self, address: str, token: str | None = None) -> None:
        """Report that a started AUTH has succeeded."""
        for attempts in self._attempts(address, token):
            attempts.in_progress -= 1

    def failed(self, address: str, why: str, *, counts: bool = True, token: str | None = None) -> None:
        """Report and log that a started AUTH has failed; it `counts` unless the server is the cause."""
        for attempts in self._attempts(address, token):
            attempts.in_progress -= 1
            if counts:
                attempts.failures.append(self._seconds())
        name = host_of(address)
        self._log_failure(name, self._hosts[name], address, why)

    def _attempts(self, address: str, token: str | None) -> list[_Attempts]:
        host = self._hosts[host_of(address)]
        return [host] if token is None else [host, host.tokens[token]]

    def sweep(self) -> None:
        """Write the log lines that are due, and forget the hosts without recent failures."""
        now = self._seconds()
        for name, host in list(self._hosts.items()):
            host.forget_old_tokens(now)
            if now - host.logged_at < WINDOW:
                continue
            if host.unlogged:
                self._log_count(name, host, now)
            elif not host.count(now):
                del self._hosts[name]
        if self._unlogged and now - self._lines_since >= WINDOW:
            self._start_window(now)

    def flush(self) -> None:
        """Log all failures that were not logged yet."""
        for name, host in self._hosts.items():
            if host.unlogged:
                self._log_count(name, host, self._seconds())
        self._start_window(self._seconds())

    def _get_host(self, name: str) -> _Host:
        """Return a host, and make it the most recent one."""
        host = self._hosts.pop(name, None)
        if host is None:
            host = _Host()
            if len(self._hosts) >= MAX_HOSTS:
                self._forget_oldest_host()
        self._hosts[name] = host
        return host

    def _forget_oldest_host(self) -> None:
        """Forget the least recent host without AUTHs in progress, if there is one."""
        for name, host in self._hosts.items():
            if not host.in_progress:
                self._unlogged += host.unlogged
                del self._hosts[name]
                return

    def _log_failure(self, name: str, host: _Host, address: str, why: str) -> None:
        now = self._seconds()
        if now - host.logged_at >= WINDOW and host.unlogged:
            self._log_count(name, host, now)
        if now - host.logged_at < WINDOW:
            host.unlogged += 1
            return
        host.logged_at = now
        if self._may_log(1, now):
            self._log.warn("AUTH from {address} failed: {why}", address=address, why=why)

    def _log_count(self, name: str, host: _Host, now: float) -> None:
        count, host.unlogged, host.logged_at = host.unlogged, 0, now
        if self._may_log(count, now):
            self._log.warn("{count} more AUTHs from {host} failed", count=count, host=name)

    def _may_log(self, count: int, now: float) -> bool:
        """Whether a line may be written about `count` failures; otherwise they are added to the last line."""
        if now - self._lines_since >= WINDOW:
            self._start_window(now)
        self._lines += 1
        if self._lines > MAX_LOG_LINES:
            self._unlogged += count
        return self._lines <= MAX_LOG_LINES

    def _start_window(self, now: float) -> None:
        """Start a window of log lines, after a line for the failures beyond the previous window's limit."""
        if self._unlogged:
            self._log.warn("{count} more AUTHs from other hosts failed", count=self._unlogged)
        self._lines, self._lines_since, self._unlogged = 0, now, 0
