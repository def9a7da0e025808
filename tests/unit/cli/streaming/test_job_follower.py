"""Following one job across retries and restarts of the daemon."""

from collections.abc import Iterator

import pytest

from taskqd.cli.streaming.job_follower import JobFollower
from taskqd.client import Client, Unreachable, reconnect
from tests.fakes.daemon import Request, data, job
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.streaming.samples import DONE, LOST, cut


@pytest.fixture(autouse=True)
def no_retry_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without delay."""
    monkeypatch.setattr(reconnect, "MIN_RETRY_INTERVAL", 0.0)


@pytest.mark.parametrize("words", [("7",), ("7", "8")])
def test_follow_continues_at_its_offsets_after_a_restart(
    serve: Serve, call: Call, words: tuple[str, ...]
) -> None:
    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(int(request.line.split(" ")[1]), attempts=1)
        if request.line == "FOLLOW 7":
            return cut(data("stdout", 0, b"abc\n"), data("stderr", 0, b"E"))
        if request.line == "FOLLOW 7 --stdout=4 --stderr=1":
            return data("stdout", 4, b"def\n") + DONE
        return DONE

    daemon = serve(answer)
    outcome = call("follow", *words)
    assert outcome.code == 0
    assert outcome.stdout.replace(b"7| ", b"") == b"abc\ndef\n"
    assert LOST in outcome.stderr
    assert daemon.lines.count("FOLLOW 7 --stdout=4 --stderr=1") == 1


def test_follow_starts_over_if_the_job_was_retried_meanwhile(serve: Serve, call: Call) -> None:
    attempts = iter([1, 2, 2])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        is_first = len([line for line in daemon.lines if line.startswith("FOLLOW")]) == 1
        return cut(data("stdout", 0, b"old\n")) if is_first else data("stdout", 0, b"new\n") + DONE

    daemon = serve(answer)
    outcome = call("follow", "7")
    assert outcome.stdout == b"old\nnew\n"
    assert "job 7 is running again; its output starts from the beginning" in outcome.stderr
    assert daemon.lines.count("FOLLOW 7") == 2


@pytest.mark.parametrize(
    "shown,offset",
    [([0, 1, 1], 3), ([0, 2, 2], 0), ([0, 1, 2], 0)],
)
def test_follow_continues_only_if_the_attempt_is_certain(serve: Serve, shown: list[int], offset: int) -> None:
    """``shown`` has the attempts at the first connection, at the first byte, and after the reconnect."""
    attempts = iter([*shown, shown[-1]])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        is_first = len([line for line in daemon.lines if line.startswith("FOLLOW")]) == 1
        return cut(data("stdout", 0, b"abc")) if is_first else DONE

    daemon = serve(answer)
    list(JobFollower(7, lambda: Client(daemon.address, reconnect=0)).items())
    assert daemon.lines[-2] == ("FOLLOW 7" + (f" --stdout={offset}" if offset else ""))


def test_piece_at_offset_0_starts_a_later_attempt(serve: Serve) -> None:
    attempts = iter([1, 2, 2, 2])

    def answer(request: Request) -> "bytes | Iterator[bytes]":
        if request.verb == "SHOW":
            return job(7, attempts=next(attempts))
        if request.line == "FOLLOW 7":
            return cut(data("stdout", 0, b"abcd"), data("stderr", 0, b"E"), data("stdout", 0, b"ab"))
        return DONE

    daemon = serve(answer)
    list(JobFollower(7, lambda: Client(daemon.address, reconnect=0)).items())
    assert daemon.lines[-2] == "FOLLOW 7 --stdout=2"


def test_reconnect_gives_up_after_the_timeout() -> None:
    def connect() -> Client:
        raise Unreachable("refused")

    times = iter(range(0, 10_000, 100))
    pauses: list[float] = []
    with pytest.raises(Unreachable, match="refused; gave up after 300 s"):
        reconnect.reconnect(connect, 300.0, pauses.append, lambda: float(next(times)))
    assert len(pauses) == 3
    assert max(pauses) <= reconnect.MAX_RETRY_INTERVAL
