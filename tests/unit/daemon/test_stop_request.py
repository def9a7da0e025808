"""How signals and requests of clients combine into one stop."""

import signal

import pytest

from taskqd.config.settings import OnStop
from taskqd.daemon.stop_request import StopRequest, StopRequests
from tests.fakes.deferreds import result_of

LEAVE, INTERRUPT, REQUEUE = OnStop
TERM, INT = signal.SIGTERM, signal.SIGINT
END = True
ANY = None
KEEP = False

Step = int | bool | None
"""A signal, or the ``ends_jobs`` of a client's request."""

# fmt: off
SEQUENCES: list[tuple[OnStop, list[Step], StopRequest]] = [
    (LEAVE, [TERM], StopRequest(LEAVE)),
    (LEAVE, [TERM, TERM, TERM], StopRequest(LEAVE)),
    (LEAVE, [ANY], StopRequest(LEAVE)),
    (LEAVE, [INT], StopRequest(INTERRUPT)),
    (LEAVE, [INT, INT], StopRequest(INTERRUPT, is_urgent=True)),
    (LEAVE, [TERM, INT], StopRequest(INTERRUPT)),
    (LEAVE, [INT, TERM, TERM], StopRequest(INTERRUPT)),
    (LEAVE, [INT, TERM, INT], StopRequest(INTERRUPT, is_urgent=True)),
    (LEAVE, [END], StopRequest(INTERRUPT)),
    (LEAVE, [END, ANY, KEEP], StopRequest(INTERRUPT)),
    (LEAVE, [END, END, END], StopRequest(INTERRUPT)),
    (LEAVE, [END, INT], StopRequest(INTERRUPT)),
    (LEAVE, [END, INT, INT], StopRequest(INTERRUPT, is_urgent=True)),
    (LEAVE, [ANY, END], StopRequest(INTERRUPT)),
    (INTERRUPT, [TERM], StopRequest(INTERRUPT)),
    (INTERRUPT, [ANY, ANY], StopRequest(INTERRUPT)),
    (INTERRUPT, [TERM, TERM], StopRequest(INTERRUPT, is_urgent=True)),
    (INTERRUPT, [TERM, INT], StopRequest(INTERRUPT, is_urgent=True)),
    (INTERRUPT, [INT, TERM], StopRequest(INTERRUPT, is_urgent=True)),
    (INTERRUPT, [ANY, TERM], StopRequest(INTERRUPT)),
    (INTERRUPT, [KEEP], StopRequest(LEAVE)),
    (INTERRUPT, [KEEP, TERM], StopRequest(INTERRUPT)),
    (REQUEUE, [TERM], StopRequest(REQUEUE)),
    (REQUEUE, [INT], StopRequest(REQUEUE)),
    (REQUEUE, [END], StopRequest(REQUEUE)),
    (REQUEUE, [INT, INT], StopRequest(REQUEUE, is_urgent=True)),
]
# fmt: on


def _combined(requests: StopRequests, steps: list[Step]) -> StopRequest:
    for step in steps:
        if step is None or isinstance(step, bool):
            requests.add(step)
        else:
            requests.add_signal(step)
    return requests.begin()


@pytest.mark.parametrize("on_stop, steps, expected", SEQUENCES)
def test_stop_request_combines_signals_and_requests(
    on_stop: OnStop, steps: list[Step], expected: StopRequest
) -> None:
    assert _combined(StopRequests(on_stop), steps) == expected


@pytest.mark.parametrize("on_stop", OnStop)
def test_stop_request_without_a_signal_does_what_the_setting_says(on_stop: OnStop) -> None:
    requests = StopRequests(on_stop)
    assert requests.mode is on_stop
    assert requests.request is None
    assert requests.begin() == StopRequest(on_stop)
    assert requests.begin() == requests.request


@pytest.mark.parametrize(
    "on_stop, steps, expected",
    [
        (LEAVE, [TERM], StopRequest(INTERRUPT)),
        (LEAVE, [KEEP], StopRequest(INTERRUPT)),
        (LEAVE, [TERM, TERM], StopRequest(INTERRUPT, is_urgent=True)),
        (REQUEUE, [KEEP], StopRequest(REQUEUE)),
    ],
)
def test_stop_request_ends_jobs_that_cannot_outlive_the_daemon(
    on_stop: OnStop, steps: list[Step], expected: StopRequest
) -> None:
    requests = StopRequests(on_stop, obstacle="process 1 is tini")
    assert requests.mode is expected.mode
    assert _combined(requests, steps) == expected


def test_obstacle_that_is_found_after_the_request_counts_until_the_stop_begins() -> None:
    requests = StopRequests(LEAVE)
    requests.add_signal(TERM)
    assert requests.request == StopRequest(LEAVE)
    requests.obstacle = "KillMode=mixed"
    assert requests.begin() == StopRequest(INTERRUPT)


def test_urgent_request_is_notified_once_and_at_once_afterwards() -> None:
    requests = StopRequests(INTERRUPT)
    requests.add_signal(TERM)
    urgent = requests.when_urgent()
    assert not urgent.called
    requests.add_signal(TERM)
    assert urgent.called
    requests.add_signal(TERM)
    assert result_of(requests.when_urgent()) is None
