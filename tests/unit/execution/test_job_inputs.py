"""Input on its way to runners: the order, the time that a job has to read it, and lost connections."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from taskqd.execution.job_inputs import ANSWER_TIMEOUT, Delivery, JobInputs, MakeMessage, NoDelivery
from taskqd.execution.messages import AttemptKey, AttemptMessage, Send, SendError, Sent, Withdraw
from tests.fakes.deferreds import error_of, result_of

WORD = "0123456789abcdef"


class Site:
    """The input of jobs whose runner ``is_connected``; ``sent`` is what the runner got."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.is_connected = True
        self.sent: list[AttemptMessage] = []
        self.inputs = JobInputs(self.clock, self._transmit)

    def _transmit(self, job_id: int, make: MakeMessage) -> bool:
        if self.is_connected:
            self.sent.append(make(AttemptKey(job_id, 1, WORD)))
        return self.is_connected

    def send(self, data: bytes, *, eof: bool = False, timeout: float = 10.0) -> "Deferred[Delivery]":
        return self.inputs.send(7, data, eof, timeout)

    def answer(self, number: int, written: int, error: SendError | None = None) -> None:
        self.inputs.on_sent(Sent(id=7, attempt=1, word=WORD, number=number, written=written, error=error))

    def data(self) -> list[tuple[int, bytes, bool]]:
        """Return the number, data and end of what was sent."""
        return [(each.number, each.data, each.eof) for each in self.sent if isinstance(each, Send)]

    def withdrawn(self) -> list[int]:
        return [each.number for each in self.sent if isinstance(each, Withdraw)]

    def check_idle(self) -> None:
        assert self.inputs.job_count == 0
        assert self.clock.getDelayedCalls() == []


@pytest.fixture(name="site")
def a_site() -> Site:
    return Site()


def test_pieces_are_sent_one_after_the_other_in_the_order_of_their_requests(site: Site) -> None:
    first, second, third = site.send(b"a"), site.send(b"b", eof=True), site.send(b"c")
    assert site.data() == [(1, b"a", False)]
    site.answer(1, 1)
    assert result_of(first) == (1, None)
    assert site.data()[1:] == [(2, b"b", True)]
    site.answer(2, 1)
    site.answer(3, 0, SendError.EOF)
    assert [result_of(second), result_of(third)] == [(1, None), (0, SendError.EOF)]
    site.check_idle()


def test_jobs_do_not_wait_for_each_other(site: Site) -> None:
    site.send(b"a")
    site.inputs.send(8, b"b", False, 1.0)
    assert [each.id for each in site.sent] == [7, 8]


def test_piece_whose_time_is_over_is_withdrawn_and_those_behind_it_go_on(site: Site) -> None:
    first, second, third = site.send(b"a" * 9), site.send(b"b", timeout=5.0), site.send(b"c", timeout=60.0)
    site.clock.advance(5.0)
    assert result_of(second) == (0, NoDelivery.TIMED_OUT)
    site.clock.advance(5.0)
    assert not first.called
    assert (site.withdrawn(), len(site.data())) == ([1], 1)
    site.answer(1, 4, SendError.WITHDRAWN)
    assert result_of(first) == (4, SendError.WITHDRAWN)
    assert site.data()[1:] == [(3, b"c", False)]
    site.answer(3, 1)
    assert result_of(third) == (1, None)
    site.check_idle()


def test_runner_that_hangs_is_given_up_and_its_late_answer_ignored(site: Site) -> None:
    first, second = site.send(b"a", timeout=1.0), site.send(b"b", timeout=60.0)
    site.clock.advance(1.0)
    site.clock.advance(ANSWER_TIMEOUT)
    assert result_of(first) == (0, NoDelivery.UNKNOWN)
    assert [number for number, _, _ in site.data()] == [1, 2]
    site.answer(1, 1)
    assert not second.called
    site.answer(2, 1)
    assert result_of(second) == (1, None)
    site.answer(2, 1)
    site.check_idle()


def test_cancelled_piece_is_withdrawn(site: Site) -> None:
    first, second, third = site.send(b"a"), site.send(b"b"), site.send(b"c")
    second.cancel()
    first.cancel()
    assert isinstance(error_of(first), CancelledError)
    assert site.withdrawn() == [1]
    site.answer(1, 0, SendError.WITHDRAWN)
    assert [number for number, _, _ in site.data()] == [1, 3]
    site.answer(3, 1)
    assert result_of(third) == (1, None)
    assert second.called
    site.check_idle()


def test_pieces_wait_for_a_runner_that_is_not_connected(site: Site) -> None:
    site.is_connected = False
    first, second = site.send(b"a", timeout=5.0), site.send(b"b")
    site.inputs.resume(8)
    site.clock.advance(5.0)
    assert result_of(first) == (0, NoDelivery.TIMED_OUT)
    site.is_connected = True
    site.inputs.resume(7)
    site.inputs.resume(7)
    assert site.data() == [(2, b"b", False)]
    site.answer(2, 1)
    assert result_of(second) == (1, None)
    site.check_idle()


def test_lost_connection_leaves_unknown_what_was_sent_and_keeps_the_rest(site: Site) -> None:
    first, second = site.send(b"a"), site.send(b"b")
    site.is_connected = False
    site.inputs.on_runner_lost(7)
    site.inputs.on_runner_lost(7)
    assert result_of(first) == (0, NoDelivery.UNKNOWN)
    assert not second.called
    site.is_connected = True
    site.inputs.resume(7)
    assert site.data()[1:] == [(2, b"b", False)]


def test_end_of_the_attempt_ends_all_pieces(site: Site) -> None:
    first, second = site.send(b"a"), site.send(b"b")
    site.inputs.on_ended(7)
    site.inputs.on_ended(7)
    assert [result_of(first), result_of(second)] == [(0, NoDelivery.UNKNOWN), (0, NoDelivery.ENDED)]
    site.check_idle()
