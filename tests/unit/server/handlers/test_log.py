"""LOG sends both streams of a job in the order of its index, in pages or as they appear."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from taskqd.errors import Gone, StoreFailed, WrongState
from taskqd.execution.run import Outcome
from taskqd.model.events import Output
from taskqd.server.handlers import merged_log
from taskqd.server.handlers.output import FLUSH_TIMEOUT
from tests.fakes.client import FakeClient
from tests.fakes.clocks import START
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import Harness
from tests.fakes.processes import FAILED
from tests.support.requests import ask, opened, refusal

Sent = tuple[str, int, bytes]
MS = int(START * 1000)
READS = [
    ("stdout", b"one\n"),
    ("stderr", b"2%\r"),
    ("stdout", b"two\nthree"),
    ("stderr", b"4%\n"),
    ("stdout", b"\n"),
]
MERGED = b"one\n2%\rtwo\nthree4%\n\n"


def index_of(reads: list[tuple[str, bytes]], step: int = 10) -> bytes:
    """Return an index with an entry for each read, ten milliseconds apart."""
    lines = [b"%d " % (step if number else MS) for number in range(len(reads))]
    for number, (stream, data) in enumerate(reads):
        lines[number] += b"%d 0\n" % len(data) if stream == "stdout" else b"0 %d\n" % len(data)
    return b"".join(lines)


def joined(reads: list[tuple[str, bytes]], stream: str) -> bytes:
    return b"".join(data for name, data in reads if name == stream)


def ended(reads: list[tuple[str, bytes]], order: bytes | None = None, is_inline: bool = False) -> Harness:
    """Return a harness whose job 1 has printed these reads and ended; ``order`` is their index."""
    harness = opened()
    harness.submit()
    out, err = joined(reads, "stdout"), joined(reads, "stderr")
    if is_inline:
        text = None if order is None else order.decode()
        outcome = Outcome(
            reason=None, exit_code=0, stdout=Output.inline(out), stderr=Output.inline(err), order=text
        )
    else:
        outcome = Outcome(reason=None, exit_code=0, stdout=Output(len(out)), stderr=Output(len(err)))
        harness.spool.leftovers[1, 1] = out, err
        if order is not None:
            harness.spool.orders[1, 1] = order
    harness.finish(1, outcome)
    return harness


def blocks(sent: bytes) -> tuple[list[list[str]], list[Sent], str]:
    """Return the words behind each DATA, the pieces, and the last line."""
    words, pieces = [], []
    while sent.startswith(b"DATA "):
        line, _, sent = sent.partition(b"\r\n")
        _, stream, offset, length, *rest = line.decode().split(" ")
        pieces.append((stream, int(offset), sent[: int(length)]))
        words.append(rest)
        sent = sent[int(length) + 2 :]
    return words, pieces, sent.decode()


def log(harness: Harness, options: str = "", client: FakeClient | None = None) -> tuple[list[Sent], str]:
    """Return the pieces of LOG, and its last line."""
    client = client or FakeClient()
    replied = ask(harness, f"LOG 1 {options}".rstrip(), client)
    harness.settle()
    return blocks(client.sent + result_of(replied))[1:]


def text(pieces: list[Sent]) -> bytes:
    return b"".join(data for _, _, data in pieces)


# The order.


@pytest.mark.parametrize("is_inline", [True, False])
def test_log_has_both_streams_in_the_order_of_the_index(is_inline: bool) -> None:
    harness = ended(READS, index_of(READS), is_inline)
    pieces, end = log(harness)
    assert [(stream, data) for stream, _, data in pieces] == READS
    assert [offset for _, offset, _ in pieces] == [0, 0, 4, 3, 13]
    assert end == f"END {len(MERGED)} 0 0 14 6\r\n"


def test_log_has_the_time_of_each_piece() -> None:
    harness, client = ended(READS[:2], index_of(READS[:2])), FakeClient()
    replied = result_of(ask(harness, "LOG 1", client))
    assert blocks(client.sent + replied)[0] == [["2023-11-14T22:13:20.000Z"], ["2023-11-14T22:13:20.010Z"]]


def test_log_without_an_index_has_stdout_before_stderr_and_says_so() -> None:
    harness, client = ended(READS), FakeClient()
    words, pieces, _ = blocks(client.sent + result_of(ask(harness, "LOG 1", client)))
    assert [(stream, data) for stream, _, data in pieces] == [
        ("stdout", joined(READS, "stdout")),
        ("stderr", joined(READS, "stderr")),
    ]
    assert words == [["-", "unordered"]] * 2


def test_log_of_one_stream_is_ordered_without_an_index() -> None:
    harness, client = ended(READS[:1], is_inline=True), FakeClient()
    words, pieces, _ = blocks(client.sent + result_of(ask(harness, "LOG 1", client)))
    assert pieces == [("stdout", 0, b"one\n")]
    assert words == [["2023-11-14T22:13:20.000Z"]], "it ended within 0.1 s"


def test_log_of_one_stream_in_a_file_has_the_time_of_its_last_write() -> None:
    harness, client = ended(READS[:1]), FakeClient()
    harness.spool.written_at = START + 7
    assert blocks(client.sent + result_of(ask(harness, "LOG 1", client)))[0] == [["2023-11-14T22:13:27.000Z"]]


@pytest.mark.parametrize("torn", [b"", b"10 0", b"10 0 3\n10", b"x y z\n9 9 9\n"])
def test_log_of_a_killed_runner_ends_with_what_the_index_lacks(torn: bytes) -> None:
    harness, client = ended(READS, index_of(READS[:1]) + torn), FakeClient()
    words, pieces, _ = blocks(client.sent + result_of(ask(harness, "LOG 1", client)))
    by_stream = {
        name: b"".join(data for stream, _, data in pieces if stream == name) for name in ("stdout", "stderr")
    }
    assert by_stream == {name: joined(READS, name) for name in by_stream}
    assert pieces[0] == ("stdout", 0, b"one\n")
    assert words[0] != words[-1] == ["-", "unordered"]


def test_log_whose_index_has_more_than_the_files_ends_with_them() -> None:
    harness = ended(READS[:2], index_of([*READS, ("stderr", b"x" * 9)]))
    pieces, end = log(harness)
    assert text(pieces) == b"one\n2%\r"
    assert end == "END 7 0 0 4 3\r\n"


def test_long_entry_has_stdout_first() -> None:
    harness = ended(READS, b"%d 14 6\n" % MS)
    assert [stream for stream, *_ in log(harness)[0]] == ["stdout", "stderr"]


# Pages.


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.sampled_from([index_of(READS), b"%d 4 3\n1 1 0\n" % MS, None]))
def test_pages_add_up_to_the_log(limit: int, order: bytes | None) -> None:
    harness = ended(READS, order)
    whole, _ = log(harness)
    found, position, left = b"", 0, 1
    while left:
        pieces, end = log(harness, f"--since={position} --limit={limit}")
        assert len(text(pieces)) <= limit
        found += text(pieces)
        following, left = map(int, end.split()[1:3])
        assert following == position + len(text(pieces))
        assert left == len(MERGED) - following
        position = following
    assert found == text(whole)


@pytest.mark.parametrize("chunk", [1, 3, merged_log.CHUNK_SIZE])
@pytest.mark.parametrize(
    "lines, expected",
    [(0, b""), (1, b"\n"), (2, b"three4%\n\n"), (3, b"2%\rtwo\nthree4%\n\n"), (4, MERGED), (9, MERGED)],
)
def test_tail_has_the_last_lines_of_both_streams(
    monkeypatch: pytest.MonkeyPatch, lines: int, expected: bytes, chunk: int
) -> None:
    monkeypatch.setattr(merged_log, "CHUNK_SIZE", chunk)
    harness = ended(READS, index_of(READS))
    expected = MERGED[MERGED.index(b"three4%\n\n") :] if lines == 2 else expected
    assert text(log(harness, f"--tail-lines={lines}")[0]) == expected


@pytest.mark.parametrize("lines, expected", [(0, b""), (1, b"end"), (2, b"b\nend"), (3, b"a\nb\nend")])
def test_last_line_without_an_end_counts(lines: int, expected: bytes) -> None:
    harness = ended([("stdout", b"a\n"), ("stderr", b"b\nend")], is_inline=True)
    assert text(log(harness, f"--tail-lines={lines}")[0]) == expected


def test_tail_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_log, "MAX_TAIL", 5)
    monkeypatch.setattr(merged_log, "CHUNK_SIZE", 3)
    harness = ended([("stdout", b"x" * 40)])
    assert log(harness, "--tail-lines=1")[0][0][:2] == ("stdout", 34)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_log_of_one_stream_has_only_that(stream: str) -> None:
    harness = ended(READS, index_of(READS))
    pieces, end = log(harness, f"--stream={stream}")
    assert [(name, data) for name, _, data in pieces] == [read for read in READS if read[0] == stream]
    assert end == {"stdout": "END 14 0 0 14 0\r\n", "stderr": "END 6 0 0 0 6\r\n"}[stream]
    assert (
        text(log(harness, f"--stream={stream} --tail-lines=1")[0])
        == {"stdout": b"three\n", "stderr": b"2%\r4%\n"}[stream]
    )


def test_log_goes_on_behind_the_offsets_of_both_streams() -> None:
    harness = ended(READS, index_of(READS))
    assert log(harness, "--stdout=9 --stderr=1")[0] == [
        *(("stderr", 1, b"%\r"), ("stdout", 9, b"hree"), ("stderr", 3, b"4%\n"), ("stdout", 13, b"\n")),
    ]


def test_log_says_how_much_was_dropped() -> None:
    harness = opened()
    harness.submit()
    outputs = Output.inline(b"abc", 7), Output.inline(b"de", 2)
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=outputs[0], stderr=outputs[1]))
    assert log(harness)[1] == "END 5 0 9 3 2\r\n"
    assert log(harness, "--stream=stderr")[1] == "END 2 0 2 0 2\r\n"


def test_long_log_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    harness, client = ended([("stdout", b"x" * 50_000)]), FakeClient()
    monkeypatch.setattr(merged_log, "CHUNK_SIZE", 10_000)
    client.can_send = False
    replied, sizes = ask(harness, "LOG 1", client), [len(client.sent)]
    while client.writable_waiters:
        client.writable_waiters.pop().callback(None)
        sizes.append(len(client.sent))
    assert len(sizes) > 3
    assert max(after - before for before, after in pairwise(sizes)) < 11_000
    assert text(blocks(client.sent + result_of(replied))[1]) == b"x" * 50_000


# Other jobs and attempts.


def test_log_of_a_job_that_has_not_started_is_empty() -> None:
    harness = opened()
    harness.submit(hold=True)
    assert log(harness) == ([], "END 0 0 0 0 0\r\n")


def test_log_has_an_earlier_attempt() -> None:
    harness = ended(READS, index_of(READS), is_inline=True)
    harness.retry(1)
    harness.settle()
    assert text(log(harness, "--attempt=1")[0]) == MERGED
    assert log(harness)[0] == []
    assert isinstance(refusal(harness, "LOG 1 --attempt=3"), WrongState)


def test_log_of_an_array_or_a_removed_job_is_refused() -> None:
    harness = ended(READS)
    harness.remove(1)
    ask(harness, "SUBMIT --array=1-2 true", FakeClient())
    harness.settle()
    for options in ("", " --follow"):
        assert isinstance(refusal(harness, f"LOG 1{options}"), Gone)
        assert isinstance(refusal(harness, f"LOG 2{options}"), WrongState)


def test_log_whose_files_are_truncated_ends_with_an_error() -> None:
    harness = ended(READS, index_of(READS))
    harness.spool.leftovers[1, 1] = b"one\n", b""
    assert isinstance(refusal(harness, "LOG 1"), StoreFailed)


# A running job.


def running(order: bytes = b"") -> Harness:
    harness = opened()
    harness.submit()
    harness.spool.orders[1, 1] = order
    return harness


def test_log_of_a_running_job_has_what_was_printed_after_a_flush() -> None:
    harness = running()
    harness.spool.flushing = Deferred()
    client = FakeClient()
    replied = ask(harness, "LOG 1", client)
    harness.spool.writers[1].write(2, b"late")
    assert not replied.called
    harness.clock.advance(FLUSH_TIMEOUT)
    _, pieces, end = blocks(client.sent + result_of(replied))
    assert (pieces, end) == ([("stderr", 0, b"late")], "END 4 0 0 0 4\r\n")


def test_entry_that_goes_on_is_sent_if_it_is_of_one_stream() -> None:
    harness = running(index_of([("stderr", b"ab")]))
    harness.spool.writers[1].write(2, b"ab")
    harness.spool.writers[1].write(1, b"cd")
    assert text(log(harness)[0]) == b"abcd"


def test_output_whose_entries_are_not_written_yet_waits() -> None:
    harness = running(index_of([("stderr", b"ab")]))
    harness.spool.writers[1].write(2, b"abcd")
    harness.spool.writers[1].write(1, b"ef")
    assert text(log(harness)[0]) == b"ab"
    harness.spool.orders[1, 1] += b"9 2 0\n"
    assert text(log(harness)[0]) == b"abefcd"


def test_output_that_is_not_in_its_file_yet_waits() -> None:
    harness = running(index_of([("stdout", b"abcd")]))
    harness.spool.writers[1].write(1, b"ab")
    assert text(log(harness)[0]) == b"ab"


def test_output_of_a_runner_that_writes_no_index_is_sent_unordered() -> None:
    harness, client = running(), FakeClient()
    harness.spool.writers[1].write(2, b"ab")
    harness.spool.writers[1].write(1, b"cd")
    words, pieces, _ = blocks(client.sent + result_of(ask(harness, "LOG 1", client)))
    assert text(pieces) == b"cdab"
    assert words == [["-", "unordered"]] * 2


# Following.


def follow(harness: Harness, client: FakeClient, options: str = "") -> "Deferred[Any]":
    following: Deferred[Any] = ask(harness, f"LOG 1 --follow {options}".rstrip(), client)
    return following


def test_followed_log_is_sent_in_order_until_the_job_ends() -> None:
    harness, client = running(), FakeClient()
    writer = harness.spool.writers[1]
    following = follow(harness, client)
    writer.write(2, b"10%")
    assert text(blocks(client.sent)[1]) == b"10%"
    harness.spool.orders[1, 1] = index_of([("stderr", b"10%")])
    writer.write(1, b"line\n")
    assert text(blocks(client.sent)[1]) == b"10%line\n"
    harness.spool.orders[1, 1] += b"10 5 0\n10 0 3\n"
    writer.data = {1: b"line\nmore\n", 2: b"10%20%"}
    writer.write(1, b"")
    assert text(blocks(client.sent)[1]) == b"10%line\n20%more\n"
    result_of(writer.close())
    outputs = Output.inline(writer.data[1]), Output.inline(writer.data[2])
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=outputs[0], stderr=outputs[1]))
    assert result_of(following) == b"STATUS COMPLETED 100\r\n"
    assert not any(harness.spool.observers.values())


def test_followed_log_goes_on_with_the_next_attempt() -> None:
    harness, client = opened(), FakeClient()
    harness.submit(retries=1)
    following = follow(harness, client, "--stdout=1")
    harness.spool.writers[1].write(1, b"first")
    out = Output.inline(b"first")
    harness.finish(1, Outcome(reason=FAILED.reason, exit_code=3, stdout=out))
    harness.clock.advance(10)
    harness.settle()
    harness.spool.writers[1].write(1, b"second")
    assert blocks(client.sent)[1] == [("stdout", 1, b"irst"), ("stdout", 0, b"second")]
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"second")))
    assert result_of(following).startswith(b"STATUS COMPLETED")


def test_followed_log_begins_with_its_last_lines_and_waits_for_the_start() -> None:
    harness, client = ended(READS, index_of(READS), is_inline=True), FakeClient()
    assert result_of(follow(harness, client, "--tail-lines=2")).startswith(b"STATUS COMPLETED")
    assert text(blocks(client.sent)[1]) == b"three4%\n\n"
    pending = opened()
    pending.submit(hold=True)
    following = follow(pending, client, "--tail-lines=2")
    assert not following.called
    pending.cancel(1)
    pending.settle()
    assert result_of(following) == b"STATUS CANCELLED 0\r\n"


def test_followed_log_ends_when_the_client_disconnects() -> None:
    harness, client = running(), FakeClient()
    following = follow(harness, client)
    [held] = client.held
    held.cancel()
    assert isinstance(error_of(following), CancelledError)
    assert not any(harness.spool.observers.values())
    assert not harness.engine.waiter_count
