"""Fixtures of all tests: leaks fail a test, `async def` tests are awaited, missing programs skip a test."""

import functools
import gc
import inspect
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from twisted.internet import reactor  # pytest-twisted has installed it
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import STDLibLogObserver, globalLogBeginner, globalLogPublisher

from taskqd.storage.journal import commit_thread
from tests.support import programs
from tests.support.leaks import LeakWatch

TEST_TIMEOUT = 60.0
"""Seconds after which an `async def` test fails."""

# The duration of an example means nothing on a busy machine. CI tries the same examples each time, so that
# only a change can make it fail; elsewhere the examples differ each time.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("patient")


PURE_PACKAGES = tuple(f"tests/unit/{name}/" for name in ("model", "protocol", "config", "state"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        choices=("covering", "others"),
        help="run the tests that cover the pure packages, or all others; bin/test runs one beside the other",
    )


def _is_covering(item: pytest.Function) -> bool:
    """Whether a test runs for coverage: one with hypothesis, which takes thrice as long then, if needed."""
    if not item.nodeid.startswith(PURE_PACKAGES):
        return False
    is_property = hasattr(item.obj, "hypothesis") or item.get_closest_marker("hypothesis") is not None
    return not is_property or item.get_closest_marker("covers") is not None


def pytest_configure() -> None:
    # Log to the standard library's logging, so that pytest shows with a failure what Twisted logged before.
    globalLogBeginner.beginLoggingTo([STDLibLogObserver()], discardBuffer=True, redirectStandardIO=False)


def pytest_collection_finish() -> None:
    # Each test ends with a garbage collection, which need not scan the objects that exist already.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            _await_in_the_reactor(item)
    part = config.getoption("part")
    if part is not None:
        parts: dict[str, list[pytest.Item]] = {"covering": [], "others": []}
        for item in items:
            is_covering = isinstance(item, pytest.Function) and _is_covering(item)
            parts["covering" if is_covering else "others"].append(item)
        items[:] = parts.pop(part)
        [deselected] = parts.values()
        config.hook.pytest_deselected(items=deselected)


def _await_in_the_reactor(item: pytest.Function) -> None:
    """Await an `async def` test in the reactor, without a decorator, and with a timeout."""
    hypothesis = getattr(item.obj, "hypothesis", None)
    test = hypothesis.inner_test if hypothesis else item.obj
    if not inspect.iscoroutinefunction(test):
        return
    bounded = pytest_twisted.ensureDeferred(_bounded(test))
    if hypothesis:
        hypothesis.inner_test = bounded
    else:
        item.obj = bounded


def _bounded(test: Callable[..., Coroutine[Deferred[Any], Any, object]]) -> Callable[..., object]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> object:
        return await Deferred.fromCoroutine(test(*args, **kwargs)).addTimeout(TEST_TIMEOUT, reactor)

    return bounded


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [program for marker in item.iter_markers("needs") for program in marker.args]
    absent = [program for program in needed if not programs.is_there(program)]
    if absent:
        packages = " ".join(programs.PACKAGES[program] for program in absent)
        text = f"needs {' '.join(absent)} (on Debian: apt-get install {packages})"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)


@pytest.fixture(name="reactor", scope="session")
def the_reactor() -> Any:
    """Return the real reactor; tests of rules use ``twisted.internet.task.Clock`` instead."""
    return reactor


@pytest.fixture(autouse=True, scope="session")
def default_signals() -> Iterator[None]:
    """Restore signals that pytest was started to ignore (``nohup … &``), for the children of tests.

    A child process inherits that a signal is ignored, but not a handler.
    """
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def patient_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reactor wait for the journal's commit thread, even on a slow machine."""
    monkeypatch.setattr(commit_thread, "MAX_WAIT", 10.0)


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LeakWatch]:
    """Fail a test that leaves an unhandled error, a delayed call, an open descriptor or a process behind.

    A test that expects Twisted to log an error asks for this fixture and flushes it::

        def test_handler_error_is_logged(logged_errors):
            ...
            [failure] = logged_errors.flush(ZeroDivisionError)
    """

    def turn() -> None:
        pytest_twisted.blockon(deferLater(reactor, 0, lambda: None))

    watch = LeakWatch(reactor, globalLogPublisher, turn)
    watch.begin()
    yield watch
    left = watch.end()
    # Objects that survive the test must not be collected later: if a harness was left during a start, the
    # collection would close the start's coroutine, whose `finally` starts the next job.
    gc.freeze()
    if left:
        pytest.fail("the test left behind:\n" + "\n".join(left), pytrace=False)
