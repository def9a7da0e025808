"""Input for interactive jobs: when a job gets it, and what its sender hears."""

from typing import Any

import pytest

from taskqd.errors import TimedOut, WrongState
from taskqd.execution.job_inputs import Delivery, NoDelivery
from taskqd.execution.messages import SendError
from taskqd.model.actor import Actor
from tests.fakes.deferreds import error_of, result_of
from tests.fakes.engine import ACTOR, Harness


@pytest.fixture(name="harness")
def a_harness() -> Harness:
    harness = Harness(slots=1)
    harness.engine.start()
    return harness


def send(harness: Harness, job: int = 1, data: bytes = b"12345", **options: Any) -> Any:
    values = {"is_eof": False, "timeout": 10.0, **options}
    return harness.engine.job_input.send(job, ACTOR, data, **values)


def test_input_is_given_to_the_executor_and_answered_with_its_size(harness: Harness) -> None:
    harness.submit("bc", interactive=True)
    seen: list[tuple[Actor, int, int]] = []
    harness.engine.job_input.add_observer(lambda *sent: seen.append(sent))
    sent = send(harness, is_eof=True, timeout=3.0)
    assert harness.executor.inputs == [(1, b"12345", True, 3.0)]
    assert not sent.called
    harness.executor.delivered.callback(Delivery(5))
    assert (result_of(sent), seen) == (5, [(ACTOR, 1, 5)])


@pytest.mark.parametrize(
    "delivery, kind, text, logged",
    [
        (Delivery(3, SendError.WITHDRAWN), TimedOut, "3 of 5 bytes were written: job 1 did not read more", 3),
        (Delivery(0, NoDelivery.TIMED_OUT), TimedOut, "0 of 5 bytes were written: job 1 did not", None),
        (Delivery(0, SendError.UNWATCHED), TimedOut, "0 of 5 bytes were written: job 1 did not", None),
        (Delivery(0, NoDelivery.UNKNOWN), TimedOut, "0 to 5 of 5 bytes were written: the runner of job", 5),
        (Delivery(2, SendError.CLOSED), WrongState, "job 1 no longer reads its stdin: no process has it", 2),
        (Delivery(0, SendError.EOF), WrongState, "job 1 has got the end of its input: --eof was", None),
        (Delivery(0, SendError.ENDED), WrongState, "job 1 has ended; 0 of 5 bytes were written to it", None),
        (Delivery(0, NoDelivery.ENDED), WrongState, "job 1 has ended; 0 of 5 bytes were written", None),
    ],
)
def test_input_that_was_not_written_is_refused_with_the_bytes_that_were(
    harness: Harness, delivery: Delivery, kind: type[Exception], text: str, logged: int | None
) -> None:
    harness.submit("bc", interactive=True)
    seen: list[int] = []
    harness.engine.job_input.add_observer(lambda _by, _job, size: seen.append(size))
    sent = send(harness)
    harness.executor.delivered.callback(delivery)
    why = error_of(sent)
    assert isinstance(why, kind)
    assert str(why).startswith(text)
    assert seen == ([] if logged is None else [logged])


def test_job_that_is_not_interactive_or_does_not_run_gets_no_input(harness: Harness) -> None:
    harness.submit("true")
    harness.submit("bc", interactive=True)
    with pytest.raises(WrongState, match="job 1 is not interactive; submit it with --interactive"):
        send(harness)
    with pytest.raises(WrongState, match="job 2 is PENDING; only a running job gets input"):
        send(harness, 2)
    harness.finish(1)
    harness.finish(2)
    with pytest.raises(WrongState, match="job 2 is COMPLETED; only a running job gets input"):
        send(harness, 2)


def test_retried_job_gets_input_again(harness: Harness) -> None:
    harness.submit("bc", interactive=True)
    harness.finish(1)
    harness.retry(1)
    harness.settle()
    send(harness)
    assert len(harness.executor.inputs) == 1
