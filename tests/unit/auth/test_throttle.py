"""Whoever fails too often: by host, and what the log gets to see of them."""

import pytest
from twisted.internet.task import Clock

from taskqd.auth.throttle import (
    MAX_FAILURES_OF_TOKEN,
    MOST_FAILURES,
    MOST_HOSTS,
    MOST_LINES,
    WINDOW,
    Throttle,
    host_of,
)
from tests.fakes.clocks import clock


class Gate:
    """A throttle, and those who fail at it."""

    def __init__(self) -> None:
        self.clock: Clock = clock()
        self.throttle = Throttle(self.clock)

    def fail(
        self,
        address: str = "10.0.0.5:1",
        times: int = 1,
        *,
        is_theirs: bool = True,
        token: str | None = None,
    ) -> None:
        for _ in range(times):
            self.throttle.begin(address, token)
            self.throttle.failed(address, "no", is_theirs=is_theirs, token=token)

    def is_refused(self, address: str = "10.0.0.5:1", token: str | None = None) -> bool:
        """Whether an AUTH is refused without being checked; one that is gets into the log."""
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


@pytest.fixture(name="gate")
def a_gate() -> Gate:
    return Gate()


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
def test_an_address_counts_for_its_host(address: str, host: str) -> None:
    assert host_of(address) == host


def test_ten_failures_within_a_minute_are_one_too_many_for_any_port_of_the_host(gate: Gate) -> None:
    gate.fail(times=MOST_FAILURES - 1)
    assert not gate.is_refused()
    gate.fail("10.0.0.5:2")
    assert gate.is_refused("10.0.0.5:3")
    assert not gate.is_refused("10.0.0.6:1")
    gate.clock.advance(WINDOW - 1)
    assert gate.refusal() == "too many AUTHs from 10.0.0.5 have failed; try again in 1 s"
    gate.clock.advance(1)
    assert not gate.is_refused()


def test_the_time_to_wait_is_that_until_the_oldest_failure_does_not_count(gate: Gate) -> None:
    gate.fail()
    gate.clock.advance(10.5)
    gate.fail(times=MOST_FAILURES - 1)
    assert gate.refusal().endswith("; try again in 50 s")
    gate.clock.advance(49.5)
    assert not gate.is_refused()
    gate.fail()
    assert gate.refusal().endswith("; try again in 11 s")


def test_refusals_make_nobody_wait_longer(gate: Gate) -> None:
    gate.fail(times=MOST_FAILURES)
    for _ in range(59):
        gate.pass_time(1)
        assert gate.is_refused()
    gate.pass_time(1)
    assert not gate.is_refused()


def test_what_is_under_way_counts_and_what_lets_in_does_not(gate: Gate) -> None:
    for _ in range(MOST_FAILURES):
        gate.throttle.begin("10.0.0.5:1")
    assert gate.is_refused()
    for _ in range(MOST_FAILURES):
        gate.throttle.passed("10.0.0.5:1")
    assert not gate.is_refused()
    gate.fail(times=MOST_FAILURES, is_theirs=False)
    assert not gate.is_refused()


# Tokens.


def test_a_known_token_from_a_host_that_failed_too_often_is_checked_and_others_are_not(
    gate: Gate,
) -> None:
    gate.fail(times=MOST_FAILURES)
    assert gate.is_refused()
    assert not gate.is_refused(token="aaaaaaaa")
    gate.throttle.begin("10.0.0.5:1", "aaaaaaaa")
    gate.throttle.passed("10.0.0.5:1", "aaaaaaaa")
    assert gate.is_refused()


def test_a_token_that_failed_three_times_from_such_a_host_is_refused_as_well(gate: Gate) -> None:
    gate.fail(times=MOST_FAILURES)
    gate.pass_time(30)
    gate.fail(times=MAX_FAILURES_OF_TOKEN, token="aaaaaaaa")
    assert gate.is_refused(token="aaaaaaaa")
    assert not gate.is_refused(token="bbbbbbbb"), "another token has its own count"
    assert not gate.is_refused("10.0.0.6:1", token="aaaaaaaa"), "and so has another host"
    gate.pass_time(59)
    assert not gate.is_refused("10.0.0.5:1", token="bbbbbbbb")
    gate.pass_time(1)
    assert not gate.is_refused(token="aaaaaaaa")


def test_checks_of_one_token_that_are_under_way_count(gate: Gate) -> None:
    gate.fail(times=MOST_FAILURES)
    for _ in range(MAX_FAILURES_OF_TOKEN):
        gate.throttle.begin("10.0.0.5:1", "aaaaaaaa")
    assert gate.is_refused(token="aaaaaaaa")


def test_tokens_of_which_nothing_counts_any_more_are_forgotten(gate: Gate) -> None:
    gate.fail(token="aaaaaaaa")
    gate.pass_time(30)
    gate.fail(token="bbbbbbbb")
    gate.pass_time(40)
    (host,) = gate.throttle._hosts.values()
    assert list(host.tokens) == ["bbbbbbbb"]


# The log.


def test_a_host_is_told_of_at_once_and_then_once_a_minute(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.fail("10.0.0.5:1", times=3)
    gate.fail("10.0.0.6:1")
    assert caplog.messages == [f"an AUTH from 10.0.0.{host}:1 failed: no" for host in (5, 6)]
    caplog.clear()
    gate.pass_time(30)
    gate.fail("10.0.0.5:2", times=MOST_FAILURES)
    assert gate.is_refused("10.0.0.5:2")
    gate.pass_time(29)
    assert caplog.messages == []
    gate.pass_time(1)
    assert caplog.messages == ["13 more AUTHs from 10.0.0.5 failed"]
    gate.fail("10.0.0.5:3")
    gate.pass_time(59)
    assert len(caplog.messages) == 1
    gate.pass_time(1)
    assert caplog.messages[1:] == ["1 more AUTHs from 10.0.0.5 failed"]
    gate.pass_time(300)
    gate.fail("10.0.0.5:4")
    assert caplog.messages[2:] == ["an AUTH from 10.0.0.5:4 failed: no"]


def test_what_is_due_is_told_before_the_next_failure_where_no_sweep_came_between(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.fail(times=2)
    gate.clock.advance(WINDOW)
    gate.fail()
    assert caplog.messages == [
        "an AUTH from 10.0.0.5:1 failed: no",
        "1 more AUTHs from 10.0.0.5 failed",
    ]
    gate.pass_time(WINDOW)
    assert caplog.messages[2:] == ["1 more AUTHs from 10.0.0.5 failed"]


def test_at_the_end_all_is_told(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    gate.fail(times=3)
    gate.fail("10.0.0.6:1")
    caplog.clear()
    gate.throttle.flush()
    assert caplog.messages == ["2 more AUTHs from 10.0.0.5 failed"]


def test_however_many_hosts_fail_the_log_gets_so_many_lines_a_minute(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = [f"10.0.{number // 250}.{number % 250}:1" for number in range(500)]
    for host in hosts:
        gate.fail(host)
    assert len(caplog.messages) == MOST_LINES
    caplog.clear()
    gate.pass_time(WINDOW)
    assert caplog.messages == [f"{500 - MOST_LINES} more AUTHs from other hosts failed"]
    caplog.clear()
    for host in hosts:
        gate.fail(host, times=3)
    gate.pass_time(10 * WINDOW)
    told = sum(int(line.split()[0]) if line[0].isdigit() else 1 for line in caplog.messages)
    assert told == 1500
    assert len(caplog.messages) <= 3 * (MOST_LINES + 1)


# The table.


def test_the_table_is_bounded_and_forgets_whoever_has_been_quiet_longest(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.throttle.begin("10.9.9.9:1")
    gate.fail("10.0.0.5:1", times=MOST_FAILURES)
    for number in range(MOST_HOSTS - 2):
        gate.fail(f"10.1.{number // 250}.{number % 250}:1")
    assert gate.is_refused()
    gate.fail()  # heard of again
    gate.fail("10.2.0.1:1")
    assert gate.is_refused()
    for number in range(MOST_HOSTS):
        gate.fail(f"10.3.{number // 250}.{number % 250}:1")
    assert not gate.is_refused()
    assert len(gate.throttle._hosts) == MOST_HOSTS
    gate.throttle.passed("10.9.9.9:1")  # it was never forgotten
    gate.pass_time(10 * WINDOW)
    assert gate.throttle._hosts == {}
    told = sum(int(line.split()[0]) if line[0].isdigit() else 1 for line in caplog.messages)
    assert told == MOST_FAILURES + 1 + MOST_HOSTS - 2 + 1 + MOST_HOSTS + 2  # two were refused, and noted


def test_with_all_under_way_none_is_forgotten(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.auth.throttle.MOST_HOSTS", 2)
    for number in range(3):
        gate.throttle.begin(f"10.0.0.{number}:1")
    for number in range(3):
        gate.throttle.passed(f"10.0.0.{number}:1")
    gate.pass_time(1)
    assert gate.throttle._hosts == {}
