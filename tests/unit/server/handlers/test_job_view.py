"""The view of jobs: progress, documents and output, from memory, the journal or a file."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs
from twisted.internet.defer import Deferred

from taskqd.errors import NotFinished, StoreFailed, TooLarge, WrongState
from taskqd.execution.run import Outcome
from taskqd.model.events import NOTHING, Event, Output, Started, Submitted
from taskqd.model.job import Reason, Status, Usage
from taskqd.model.spec import Array
from taskqd.protocol import replies
from tests.fakes.clocks import START
from tests.fakes.deferreds import begin, error_of, result_of
from tests.fakes.engine import Harness
from tests.fakes.processes import COMPLETED, FAILED, lost

EVERYTHING = 10**9


def opened() -> Harness:
    harness = Harness()
    harness.engine.start()
    return harness


def ended(stdout: Output, stderr: Output = NOTHING, reason: Reason | None = None) -> Harness:
    """Return a harness whose job 1 has ended with these outputs."""
    harness = opened()
    harness.submit()
    harness.finish(1, Outcome(reason=reason, exit_code=0, stdout=stdout, stderr=stderr))
    return harness


def read(harness: Harness, stream: str, offset: int = 0, length: int = EVERYTHING) -> bytes:
    return result_of(harness.job_view.read(harness.job(1), stream, offset, length))


def both(harness: Harness) -> "Deferred[tuple[bytes, bytes]]":
    return begin(harness.job_view.read_both_streams(harness.job(1)))


# Progress.


def test_progress_is_reported_while_running_and_100_when_completed() -> None:
    harness = opened()
    harness.submit()
    job = harness.job(1)
    assert harness.job_view.progress(job).percent == 0
    harness.spool.percentages[1] = 42
    assert harness.job_view.progress(job).percent == 42
    harness.finish(1)
    assert harness.job_view.progress(job).percent == 100


def test_progress_of_failed_job_is_the_last_report() -> None:
    harness = opened()
    harness.submit()
    harness.spool.percentages[1] = 42
    harness.finish(1, FAILED)
    assert harness.job_view.progress(harness.job(1)).percent == 42


def test_progress_of_pending_job_is_0() -> None:
    harness = opened()
    harness.submit(retries=1)
    harness.spool.percentages[1] = 42
    harness.finish(1, FAILED)
    assert harness.job(1).status is Status.PENDING
    assert harness.job_view.progress(harness.job(1)).percent == 0
    harness.cancel(1)
    harness.settle()
    assert harness.job_view.progress(harness.job(1)).percent == 42


# Output.


def test_read_of_running_job_returns_what_there_is() -> None:
    harness = opened()
    harness.submit()
    harness.spool.writers[1].write(1, b"so far")
    assert [
        read(harness, "stdout"),
        read(harness, "stdout", 3, 2),
        read(harness, "stdout", 6),
        read(harness, "stderr"),
    ] == [
        b"so far",
        b"fa",
        b"",
        b"",
    ]
    assert harness.job_view.stream_size(harness.job(1), "stdout") == 6
    assert harness.job_view.describe(harness.job(1))["stdout_bytes"] == 6


@pytest.mark.parametrize("data", [b"hello\n", b"\xff\0\xfe"])
def test_read_of_short_output_uses_the_journal(data: bytes) -> None:
    harness = ended(Output.inline(data), Output.inline(b"oh"))
    assert (read(harness, "stdout"), read(harness, "stderr"), read(harness, "stdout", 1, 1)) == (
        data,
        b"oh",
        data[1:2],
    )
    assert result_of(both(harness)) == (data, b"oh")


def test_read_of_long_output_uses_the_file() -> None:
    harness = ended(Output(10_000), Output.inline(b"short"))
    harness.spool.leftovers[1, 1] = (b"x" * 10_000, b"")
    assert read(harness, "stdout", 9990, 100) == b"x" * 10
    assert result_of(both(harness)) == (b"x" * 10_000, b"short")


def test_read_of_limited_output_returns_what_was_kept() -> None:
    harness = ended(Output.inline(b"", 77), Output.inline(b"kept", 3))
    job = harness.job_view.describe(harness.job(1))
    assert (job["stdout_bytes"], job["stdout_dropped"], job["stderr_bytes"], job["stderr_dropped"]) == (
        0,
        77,
        4,
        3,
    )
    assert result_of(both(harness)) == (b"", b"kept")


@pytest.mark.parametrize("offset, length", [(6, 1), (7, 10), (10**17, 10), (0, 0)])
def test_read_beyond_the_end_is_empty(offset: int, length: int) -> None:
    harness = ended(Output.inline(b"hello\n"))
    assert read(harness, "stdout", offset, length) == b""


@pytest.mark.parametrize("offset", [5000, 5001, 10**17])
def test_read_beyond_the_end_does_not_open_the_file(offset: int) -> None:
    assert read(ended(Output(5000)), "stdout", offset, 10) == b""


def test_read_of_job_that_never_ran_is_empty() -> None:
    harness = Harness(0)
    harness.submit()
    assert read(harness, "stdout") == b""
    harness.cancel(1)
    harness.settle()
    assert result_of(both(harness)) == (b"", b"")


def test_read_returns_output_of_the_latest_attempt() -> None:
    harness = ended(Output.inline(b"first"))
    harness.retry(1)
    harness.settle()
    assert (harness.job(1).status, read(harness, "stdout")) == (Status.RUNNING, b"")
    harness.spool.writers[1].write(1, b"second")
    assert read(harness, "stdout") == b"second"
    harness.finish(1, Outcome(reason=None, exit_code=0, stdout=Output.inline(b"second!")))
    assert read(harness, "stdout") == b"second!"


def test_read_returns_output_of_the_last_attempt_while_pending() -> None:
    harness = opened()
    harness.submit(retries=1)
    harness.finish(1, Outcome(reason=Reason.EXIT, exit_code=1, stdout=Output.inline(b"first")))
    assert harness.job(1).status is Status.PENDING
    assert read(harness, "stdout") == b"first"


# Results.


@pytest.mark.parametrize("slots", [0, 1])
def test_result_of_unfinished_job_is_refused(slots: int) -> None:
    harness = Harness(slots)
    harness.engine.start()
    harness.submit()
    error = error_of(both(harness))
    assert isinstance(error, NotFinished)
    assert "WAIT 1" in str(error)


@pytest.mark.parametrize("sizes", [(replies.MAX_RESULT_STREAM + 1, 0), (0, replies.MAX_RESULT_STREAM + 1)])
def test_result_that_is_too_large_is_refused_with_its_size(sizes: tuple[int, int]) -> None:
    harness = ended(Output(sizes[0]), Output(sizes[1]))
    error = error_of(both(harness))
    assert isinstance(error, TooLarge)
    assert all(str(part) in str(error) for part in (*sizes, "OUTPUT 1"))


def test_result_of_the_maximum_size_is_returned() -> None:
    harness = ended(Output(replies.MAX_RESULT_STREAM), Output(replies.MAX_RESULT_STREAM))
    harness.spool.leftovers[1, 1] = (b"x" * replies.MAX_RESULT_STREAM, b"y" * replies.MAX_RESULT_STREAM)
    assert [len(data) for data in result_of(both(harness))] == [replies.MAX_RESULT_STREAM] * 2


@pytest.mark.parametrize(
    "outputs", [(Output(5000), Output()), (Output(), Output(5000)), (Output(5000), Output(5000))]
)
def test_read_of_missing_file_is_store_failed(outputs: tuple[Output, Output]) -> None:
    harness = ended(*outputs)
    assert isinstance(error_of(both(harness)), StoreFailed)


def test_read_of_interrupted_attempt_without_output_is_empty() -> None:
    journal: list[Event] = [
        Submitted(id=1, at=START, owner="ada", command="true"),
        Started(id=1, at=START, attempt=1),
    ]
    harness = Harness(events=journal)
    harness.engine.dispatcher.recover(lost(harness.engine, "why"))
    assert result_of(both(harness)) == (b"", b"")


# Earlier attempts.


def retried() -> Harness:
    """Return a harness whose job 1 has had two attempts and is in its third."""
    harness = opened()
    harness.submit(retries=2)
    for output in (b"one", b"three"):
        harness.finish(1, replace(FAILED, stdout=Output.inline(output)))
        harness.clock.advance(60)
        harness.settle()
    harness.spool.writers[1].write(1, b"fifth")
    return harness


def replace(outcome: Outcome, **values: Any) -> Outcome:
    return structs.replace(outcome, **values)


@pytest.mark.parametrize("attempt, output", [(1, b"one"), (2, b"three"), (3, b"fifth"), (None, b"fifth")])
def test_read_takes_the_number_of_an_attempt(attempt: int | None, output: bytes) -> None:
    harness = retried()
    job = harness.job(1)
    assert harness.job_view.stream_size(job, "stdout", attempt) == len(output)
    assert result_of(harness.job_view.read(job, "stdout", 1, EVERYTHING, attempt)) == output[1:]
    assert result_of(harness.job_view.read(job, "stderr", 0, EVERYTHING, attempt)) == b""


def test_read_of_earlier_attempt_uses_its_file() -> None:
    harness = opened()
    harness.submit(retries=1)
    harness.finish(1, replace(FAILED, stdout=Output(6000)))
    harness.clock.advance(60)
    harness.settle()
    harness.spool.leftovers[1, 1] = (b"x" * 6000, b"")
    assert len(result_of(harness.job_view.read(harness.job(1), "stdout", 10, EVERYTHING, 1))) == 5990


@pytest.mark.parametrize("attempt", [0, 4])
def test_read_of_unknown_attempt_is_refused_with_the_known_ones(attempt: int) -> None:
    harness = retried()
    with pytest.raises(WrongState, match="known attempts: 1 to 3"):
        harness.job_view.read(harness.job(1), "stdout", 0, 10, attempt)
    harness.job(1).past = harness.job(1).past[1:]
    with pytest.raises(WrongState, match="known attempts: 2 to 3"):
        harness.job_view.stream_size(harness.job(1), "stdout", 1)


def test_read_of_attempt_before_the_first_is_refused() -> None:
    harness = opened()
    harness.submit(hold=True)
    assert read(harness, "stdout") == b""
    assert harness.job_view.stream_size(harness.job(1), "stdout") == 0
    with pytest.raises(WrongState, match="known attempts: none"):
        harness.job_view.read(harness.job(1), "stdout", 0, 10, 1)


# SHOW.


def test_show_has_all_attempts_and_current_sizes() -> None:
    harness = retried()
    shown = harness.job_view.show(harness.job(1))
    assert [(run["attempt"], run["stdout_bytes"]) for run in shown["runs"]] == [(1, 3), (2, 5), (3, 5)]
    assert (shown["stdout_bytes"], shown["status"], "runs" in harness.job_view.describe(harness.job(1))) == (
        5,
        "RUNNING",
        False,
    )


def test_show_of_job_that_never_started_has_no_attempts() -> None:
    harness = opened()
    harness.submit(hold=True)
    shown = harness.job_view.show(harness.job(1))
    assert (shown["runs"], shown["reason"]) == ([], "held")


# Arrays.


def test_progress_of_array_is_the_share_of_ended_tasks() -> None:
    harness = Harness(slots=3)
    harness.engine.start()
    harness.submit(array=Array(1, 3))
    seen = [harness.job_view.progress(harness.job(1)).percent]
    for task in (2, 3, 4):
        harness.finish(task, FAILED if task == 3 else COMPLETED)
        seen.append(harness.job_view.progress(harness.job(1)).percent)
    assert seen == [0, 33, 66, 100]
    harness.submit(array=Array(1, 1))
    harness.finish(6)
    assert harness.job_view.progress(harness.job(5)).percent == 100


# Stopped processes.


def test_show_says_that_the_process_of_a_running_job_is_stopped() -> None:
    harness = opened()
    harness.submit()
    harness.stopped_processes = {(1001, 77)}
    assert harness.job_view.show(harness.job(1))["stopped"] is True
    assert "stopped" not in harness.job_view.describe(harness.job(1))
    harness.stopped_processes = {(1001, 78), (1002, 77)}
    assert "stopped" not in harness.job_view.show(harness.job(1))
    harness.stopped_processes = {(1001, 77)}
    harness.finish(1)
    assert "stopped" not in harness.job_view.show(harness.job(1))


def test_documents_have_the_memory_of_a_running_job_with_a_limit() -> None:
    harness = opened()
    harness.submit(memory_max=1000)
    harness.submit()
    harness.memory_uses[2] = (5, 7)
    view = harness.job_view
    assert "memory_used" not in view.show(harness.job(1)), "its runner has not read it yet"
    assert "memory_used" not in view.show(harness.job(2)), "it has no limit"
    harness.memory_uses[1] = (500, 700)
    for document in (view.describe(harness.job(1)), view.show(harness.job(1))["runs"][-1]):
        assert (document["memory_used"], document["memory_used_peak"]) == (500, 700)
    harness.finish(1, Outcome(reason=None, exit_code=0, usage=Usage(0.5, 0.25, 1024, 900)))
    for document in (view.describe(harness.job(1)), view.show(harness.job(1))["runs"][-1]):
        assert "memory_used" not in document
        assert (document["memory_peak"], document["memory_used_peak"]) == (1024, 900)


@pytest.mark.parametrize(
    "look", [both, lambda harness: harness.job_view.read(harness.job(1), "stdout", 10, 90)]
)
def test_read_of_truncated_file_is_store_failed(
    look: Callable[[Harness], "Deferred[object]"],
) -> None:
    harness = ended(Output(100))
    harness.spool.leftovers[1, 1] = (b"x" * 40, b"")
    error = error_of(look(harness))
    assert isinstance(error, StoreFailed)
    assert "stdout of attempt 1 of job 1 is truncated: it had 100 bytes when" in str(error)
    assert "its file has 40" in str(error)
