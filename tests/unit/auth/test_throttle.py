"""The throttle of failed AUTHs, and its log lines."""

import pytest
from twisted.internet.task import Clock

from taskqd.auth.throttle import (
    MAX_FAILURES,
    MAX_FAILURES_OF_TOKEN,
    MAX_HOSTS,
    MAX_LOG_LINES,
    WINDOW,
    Throttle,
    host_of,
)
from tests.fakes.clocks import clock


class Throttled:
    """A throttle, and AUTHs that fail."""

    def __init__(self) -> None:
        self.clock: Clock = clock()
        self.throttle = Throttle(self.clock)

    def fail(
        self,
        address: str = "10.0.0.5:1",
        times: int = 1,
        *,
        counts: bool = True,
        token: str | None = None,
    ) -> None:
        for _ in range(times):
            self.throttle.started(address, token)
            self.throttle.failed(address, "no", counts=counts, token=token)

    def is_refused(self, address: str = "10.0.0.5:1", token: str | None = None) -> bool:
        """Whether an AUTH is refused without a check; a refusal is logged."""
        is_refused = self.throttle.refusal(address) is not None and not self.throttle.may_try(address, token)
        if is_refused:
            self.throttle.refused(address)
        return is_refused

    def refusal(self) -> str:
        return str(self.throttle.refusal("10.0.0.5:1"))

    def pass_time(self, seconds: float) -> None:
        """Let time pass with a sweep each second, as the daemon does."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.throttle.sweep()


@pytest.fixture(name="auths")
def some_auths() -> Throttled:
    return Throttled()


@pytest.mark.parametrize(
    "address, host",
    [
        ("10.0.0.5:4242", "10.0.0.5"),
        ("2001:db8:1:2:3:4:5:6:4242", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff::1]:4242", "2001:db8:1:2::/64"),
        ("::1:4242", "::/64"),
        ("fe80::1%eth0:4242", "fe80::/64"),
        ("::ffff:10.0.0.5:4242", "10.0.0.5"),
        ("unix", "unix"),
        ("pid 17", "this machine"),
        ("proxy:17", "proxy"),
        (":17", ":17"),
    ],
)
def test_host_of_returns_host_network_or_machine(address: str, host: str) -> None:
    assert host_of(address) == host


def test_throttle_refuses_host_after_ten_failures(auths: Throttled) -> None:
    auths.fail(times=MAX_FAILURES - 1)
    assert not auths.is_refused()
    auths.fail("10.0.0.5:2")
    assert auths.is_refused("10.0.0.5:3")
    assert not auths.is_refused("10.0.0.6:1")
    auths.clock.advance(WINDOW - 1)
    assert auths.refusal() == "too many failed AUTHs from 10.0.0.5; try again in 1 s"
    auths.clock.advance(1)
    assert not auths.is_refused()


def test_throttle_wait_ends_when_the_oldest_failure_expires(auths: Throttled) -> None:
    auths.fail()
    auths.clock.advance(10.5)
    auths.fail(times=MAX_FAILURES - 1)
    assert auths.refusal().endswith("; try again in 50 s")
    auths.clock.advance(49.5)
    assert not auths.is_refused()
    auths.fail()
    assert auths.refusal().endswith("; try again in 11 s")


def test_throttle_refusals_do_not_extend_the_wait(auths: Throttled) -> None:
    auths.fail(times=MAX_FAILURES)
    for _ in range(59):
        auths.pass_time(1)
        assert auths.is_refused()
    auths.pass_time(1)
    assert not auths.is_refused()


def test_throttle_counts_auths_in_progress_but_not_successes(auths: Throttled) -> None:
    for _ in range(MAX_FAILURES):
        auths.throttle.started("10.0.0.5:1")
    assert auths.is_refused()
    for _ in range(MAX_FAILURES):
        auths.throttle.succeeded("10.0.0.5:1")
    assert not auths.is_refused()
    auths.fail(times=MAX_FAILURES, counts=False)
    assert not auths.is_refused()


# Tokens.


def test_throttle_lets_known_token_of_refused_host_try(
    auths: Throttled,
) -> None:
    auths.fail(times=MAX_FAILURES)
    assert auths.is_refused()
    assert not auths.is_refused(token="aaaaaaaa")
    auths.throttle.started("10.0.0.5:1", "aaaaaaaa")
    auths.throttle.succeeded("10.0.0.5:1", "aaaaaaaa")
    assert auths.is_refused()


def test_throttle_refuses_known_token_after_three_failures(auths: Throttled) -> None:
    auths.fail(times=MAX_FAILURES)
    auths.pass_time(30)
    auths.fail(times=MAX_FAILURES_OF_TOKEN, token="aaaaaaaa")
    assert auths.is_refused(token="aaaaaaaa")
    assert not auths.is_refused(token="bbbbbbbb"), "other tokens are counted separately"
    assert not auths.is_refused("10.0.0.6:1", token="aaaaaaaa"), "and so are other hosts"
    auths.pass_time(59)
    assert not auths.is_refused("10.0.0.5:1", token="bbbbbbbb")
    auths.pass_time(1)
    assert not auths.is_refused(token="aaaaaaaa")


def test_throttle_counts_checks_of_a_token_in_progress(auths: Throttled) -> None:
    auths.fail(times=MAX_FAILURES)
    for _ in range(MAX_FAILURES_OF_TOKEN):
        auths.throttle.started("10.0.0.5:1", "aaaaaaaa")
    assert auths.is_refused(token="aaaaaaaa")


def test_throttle_forgets_tokens_without_recent_failures(auths: Throttled) -> None:
    auths.fail(token="aaaaaaaa")
    auths.pass_time(30)
    auths.fail(token="bbbbbbbb")
    auths.pass_time(40)
    (host,) = auths.throttle._hosts.values()
    assert list(host.tokens) == ["bbbbbbbb"]


# The log.


def test_throttle_logs_host_at_once_then_once_per_minute(
    auths: Throttled, caplog: pytest.LogCaptureFixture
) -> None:
    auths.fail("10.0.0.5:1", times=3)
    auths.fail("10.0.0.6:1")
    assert caplog.messages == [f"AUTH from 10.0.0.{host}:1 failed: no" for host in (5, 6)]
    caplog.clear()
    auths.pass_time(30)
    auths.fail("10.0.0.5:2", times=MAX_FAILURES)
    assert auths.is_refused("10.0.0.5:2")
    auths.pass_time(29)
    assert caplog.messages == []
    auths.pass_time(1)
    assert caplog.messages == ["13 more AUTHs from 10.0.0.5 failed"]
    auths.fail("10.0.0.5:3")
    auths.pass_time(59)
    assert len(caplog.messages) == 1
    auths.pass_time(1)
    assert caplog.messages[1:] == ["1 more AUTHs from 10.0.0.5 failed"]
    auths.pass_time(300)
    auths.fail("10.0.0.5:4")
    assert caplog.messages[2:] == ["AUTH from 10.0.0.5:4 failed: no"]


def test_throttle_logs_due_count_before_the_next_failure(
    auths: Throttled, caplog: pytest.LogCaptureFixture
) -> None:
    auths.fail(times=2)
    auths.clock.advance(WINDOW)
    auths.fail()
    assert caplog.messages == [
        "AUTH from 10.0.0.5:1 failed: no",
        "1 more AUTHs from 10.0.0.5 failed",
    ]
    auths.pass_time(WINDOW)
    assert caplog.messages[2:] == ["1 more AUTHs from 10.0.0.5 failed"]


def test_throttle_flush_logs_all_failures(auths: Throttled, caplog: pytest.LogCaptureFixture) -> None:
    auths.fail(times=3)
    auths.fail("10.0.0.6:1")
    caplog.clear()
    auths.throttle.flush()
    assert caplog.messages == ["2 more AUTHs from 10.0.0.5 failed"]


def test_throttle_limits_log_lines_per_minute(auths: Throttled, caplog: pytest.LogCaptureFixture) -> None:
    hosts = [f"10.0.{number // 250}.{number % 250}:1" for number in range(500)]
    for host in hosts:
        auths.fail(host)
    assert len(caplog.messages) == MAX_LOG_LINES
    caplog.clear()
    auths.pass_time(WINDOW)
    assert caplog.messages == [f"{500 - MAX_LOG_LINES} more AUTHs from other hosts failed"]
    caplog.clear()
    for host in hosts:
        auths.fail(host, times=3)
    auths.pass_time(10 * WINDOW)
    logged = sum(int(line.split()[0]) if line[0].isdigit() else 1 for line in caplog.messages)
    assert logged == 1500
    assert len(caplog.messages) <= 3 * (MAX_LOG_LINES + 1)


# The table of hosts.


def test_throttle_forgets_the_least_recent_host(auths: Throttled, caplog: pytest.LogCaptureFixture) -> None:
    auths.throttle.started("10.9.9.9:1")
    auths.fail("10.0.0.5:1", times=MAX_FAILURES)
    for number in range(MAX_HOSTS - 2):
        auths.fail(f"10.1.{number // 250}.{number % 250}:1")
    assert auths.is_refused()
    auths.fail()  # the most recent host again
    auths.fail("10.2.0.1:1")
    assert auths.is_refused()
    for number in range(MAX_HOSTS):
        auths.fail(f"10.3.{number // 250}.{number % 250}:1")
    assert not auths.is_refused()
    assert len(auths.throttle._hosts) == MAX_HOSTS
    auths.throttle.succeeded("10.9.9.9:1")  # it was not forgotten
    auths.pass_time(10 * WINDOW)
    assert auths.throttle._hosts == {}
    logged = sum(int(line.split()[0]) if line[0].isdigit() else 1 for line in caplog.messages)
    assert logged == MAX_FAILURES + 1 + MAX_HOSTS - 2 + 1 + MAX_HOSTS + 2  # two were refused and logged


def test_throttle_keeps_hosts_in_progress(auths: Throttled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.auth.throttle.MAX_HOSTS", 2)
    for number in range(3):
        auths.throttle.started(f"10.0.0.{number}:1")
    for number in range(3):
        auths.throttle.succeeded(f"10.0.0.{number}:1")
    auths.pass_time(1)
    assert auths.throttle._hosts == {}
