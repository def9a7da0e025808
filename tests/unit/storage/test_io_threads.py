"""Blocking calls are made in threads, if the machine can start them."""

import threading
from typing import Any

import pytest
from twisted.python.threadpool import ThreadPool

from taskqd.storage.io_threads import IOThreads
from tests.fakes.deferreds import result_of


async def test_call_is_made_in_the_reactor_thread_if_no_thread_can_be_started(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    threads = IOThreads(reactor)
    threads.start()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            assert result_of(threads.run(threading.get_ident)) == threading.get_ident()
    assert caplog.text.count("no thread can be started") == 1
    assert await threads.run(threading.get_ident) != threading.get_ident()
    threads.stop()


async def test_other_error_of_the_pool_is_raised(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("a bug")

    threads = IOThreads(reactor)
    monkeypatch.setattr(ThreadPool, "callInThreadWithCallback", refuse)
    with pytest.raises(RuntimeError, match="a bug"):
        threads.run(str.upper, "never")
