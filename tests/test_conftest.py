"""``conftest.py``: a test that leaks, raises or hangs fails, a clean test passes."""

import signal
from pathlib import Path

import pytest

from tests.support import programs

pytest_plugins = ["pytester"]

LEAKING = """
import os
import sys
from twisted.internet import defer, protocol, reactor, task
from twisted.logger import Logger
from twisted.python.failure import Failure


def test_leaves_an_unhandled_error():
    defer.fail(ValueError("not handled"))


def test_leaves_an_unhandled_error_in_a_cycle():
    unhandled = defer.fail(ValueError("not handled"))
    unhandled.itself = unhandled


def test_logs_an_error():
    Logger().failure("oops", Failure(ValueError("logged")))


def test_leaves_a_delayed_call():
    reactor.callLater(3600, print)


def test_leaves_a_listening_port():
    reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")


async def test_leaves_a_process():
    started = reactor.spawnProcess(protocol.ProcessProtocol(), "sleep", ["sleep", "2"], childFDs={})
    await task.deferLater(reactor, 0, lambda: None)
"""

CLEAN = """
from twisted.internet import defer, protocol, reactor, task


async def test_is_awaited():
    await task.deferLater(reactor, 0.001, lambda: None)


async def test_closes_what_it_opened():
    port = reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")
    await port.stopListening()


def test_asked_for_the_closing():
    port = reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")
    port.stopListening()


def test_flushes_what_it_expected(logged_errors):
    defer.fail(ValueError("not handled"))
    [failure] = logged_errors.flush(ValueError)
    assert failure.getErrorMessage() == "not handled"
"""

FAILING = """
from twisted.internet import defer


async def test_raises():
    raise ValueError


async def test_waits_for_ever():
    await defer.Deferred()
"""


@pytest.fixture(autouse=True)
def _importable(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makeconftest(
        "from tests import conftest\nconftest.TEST_TIMEOUT = 0.1\nfrom tests.conftest import *"
    )


def test_leaking_test_fails_and_names_what_it_left(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LEAKING)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=6, errors=6)
    result.stdout.fnmatch_lines(
        [
            "an error was logged:*",
            "*ValueError: not handled*",
            "*ValueError: not handled*",
            "*oops*",
            "*ValueError: logged*",
            "a delayed call:*",
            "an open descriptor:*",
            "process *, running or not yet reaped",
        ]
    )


def test_clean_test_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CLEAN)
    pytester.runpytest_subprocess().assert_outcomes(passed=4)


SIGNALS = """
import signal
import subprocess
import sys

IGNORED = "from signal import *; print([n for n in (2, 3, 1) if getsignal(n) is SIG_IGN])"


def test_child_ignores_no_signal_and_pytest_still_ignores_them():
    shown = subprocess.run([sys.executable, "-c", IGNORED], capture_output=True, check=True)
    assert shown.stdout == b"[]\\n"
    signal.raise_signal(signal.SIGINT)
"""


def test_children_of_tests_ignore_no_signal_that_pytest_ignores(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(SIGNALS)
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        result = pytester.runpytest_subprocess()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    result.assert_outcomes(passed=1)


def test_async_test_fails_if_it_raises_or_hangs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["E * ValueError", "E *TimeoutError: (0.1, *"])


def test_missing_program_skips_a_test_and_fails_it_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.needs('telnet')\ndef test_it(): pass")
    pytester.makeini("[pytest]\nmarkers = needs(program)")
    monkeypatch.setenv("CI", "")
    monkeypatch.setenv("PATH", "/nonexistent")
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*needs telnet (on Debian: apt-get install inetutils-telnet)"])
    monkeypatch.setenv("CI", "true")
    pytester.runpytest_subprocess().assert_outcomes(errors=1)


PARTS = """
import pytest
from hypothesis import given, strategies as st

def test_example(): pass

@given(st.none())
def test_property(value): pass

@pytest.mark.covers
@given(st.none())
def test_property_that_covers(value): pass
"""


def test_each_test_is_in_one_of_the_parts_that_are_run_beside_each_other(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = covers\naddopts = --import-mode=importlib")
    for package in ("state", "engine"):
        place = pytester.path / "tests/unit" / package
        place.mkdir(parents=True)
        (place / "test_it.py").write_text(PARTS)
    covering = pytester.runpytest_subprocess("--part=covering", "-v")
    covering.assert_outcomes(passed=2, deselected=4)
    covering.stdout.fnmatch_lines(["*state*::test_example *", "*state*::test_property_that_covers *"])
    others = pytester.runpytest_subprocess("--part=others", "-v")
    others.assert_outcomes(passed=4, deselected=2)
    others.stdout.fnmatch_lines(["*engine*::test_property_that_covers *", "*state*::test_property *"])


def test_stand_in_for_imagemagick_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "convert"
    stand_in.write_text("#!/bin/sh\necho only a stand-in\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert not programs.is_there("convert")
    stand_in.write_text("#!/bin/sh\necho Version: ImageMagick 6\n")
    assert programs.is_there("convert")
