"""How many jobs have an environment, and what is left when the last of them is removed."""

import pytest
from msgspec.structs import replace

from taskqd.model.environment import Environment
from taskqd.model.events import Compacted, Replayed, Submitted
from taskqd.model.job import Usage
from taskqd.model.spec import Array, Spec
from taskqd.state.environment_uses import EnvironmentUses
from taskqd.state.queue_state import QueueState
from tests.support.events import cancelled, changed, ended, removed, retried, started, submitted

ONE, OTHER = Environment(100, "a" * 64), Environment(30, "b" * 64)


def test_environment_is_used_until_the_last_job_that_has_it() -> None:
    uses, unused = EnvironmentUses(), list[str]()
    uses.on_unused = unused.append
    uses.add(ONE, 2)
    uses.add(OTHER)
    assert (uses.bytes, uses.hashes) == (130, frozenset({ONE.sha256, OTHER.sha256}))
    uses.discard(ONE)
    uses.discard(OTHER)
    assert (uses.bytes, unused) == (100, [OTHER.sha256])
    assert ONE.sha256 in uses
    uses.discard(ONE)
    assert (uses.bytes, unused) == (0, [OTHER.sha256, ONE.sha256])
    assert uses == EnvironmentUses()
    assert uses != 0


def _compacted(job_id: int) -> Compacted:
    end = replace(ended(job_id), usage=Usage(0.5, 0.25))
    events = submitted(job_id, environment=ONE), started(job_id), end
    return Compacted(events=events, numbers=(2, 3))


def _state(*events: Replayed) -> QueueState:
    queue_state = QueueState()
    for event in events:
        queue_state.apply(event)
    return queue_state


ARRAY = submitted(1, environment=ONE, array=Array(1, 9))


@pytest.mark.parametrize(
    "events, count",
    [
        ([submitted(1, environment=ONE)], 1),
        ([submitted(1, environment=ONE), submitted(2, environment=ONE), submitted(3)], 2),
        ([ARRAY], 1),
        ([ARRAY, cancelled(1), removed(1)], 0),
        ([submitted(1, environment=ONE), cancelled(1)], 1),
        ([submitted(1, environment=ONE), cancelled(1), retried(1)], 1),
        ([submitted(1, environment=ONE), cancelled(1), removed(1)], 0),
        ([_compacted(1), _compacted(2)], 2),
        ([_compacted(1), _compacted(2), removed(1)], 1),
    ],
)
def test_uses_are_those_of_known_jobs(events: list[Replayed], count: int) -> None:
    uses = EnvironmentUses()
    for _ in range(count):
        uses.add(ONE)
    assert _state(*events).environments == uses


def test_replayed_jobs_that_have_ended_are_counted() -> None:
    together, apart = QueueState(), QueueState()
    together.apply_replayed([(_compacted(job_id), (2, 0, 76)) for job_id in (1, 2)])
    for job_id in (1, 2):
        apart.apply(_compacted(job_id), (2, 0, 76))
    assert together == apart
    assert together.environments.hashes == {ONE.sha256}


def test_similar_submissions_are_counted_together() -> None:
    spec = Spec(environment=ONE)
    events = [Submitted(id=job_id, at=1.0, owner="a", spec=spec) for job_id in (1, 2, 3)]
    queue_state = QueueState()
    queue_state.apply_all(events)
    assert queue_state == _state(*events)


def test_changed_job_shares_its_environment_with_its_former_spec() -> None:
    same = Environment(100, "a" * 64)
    job = _state(submitted(1, environment=ONE), changed(1, priority=3, environment=same)).get(1)
    assert job.spec.environment is ONE


# Retention: an environment counts once, however many finished jobs have it.


def finished(*environments: Environment) -> QueueState:
    """Return a state with jobs that ended one after the other."""
    queue_state = QueueState()
    for job_id, environment in enumerate(environments, 1):
        queue_state.apply(submitted(job_id, environment=environment))
        queue_state.apply(cancelled(job_id, at=float(job_id)))
    return queue_state


@pytest.mark.parametrize(
    "environments, most, expired",
    [
        ((ONE, ONE, ONE), 100, []),
        ((ONE, ONE, ONE), 99, [1, 2]),
        ((ONE, OTHER, OTHER), 130, []),
        ((ONE, OTHER, OTHER), 129, [1]),
        ((ONE, OTHER, ONE), 129, [1, 2]),
        ((OTHER, ONE, ONE), 129, [1]),
    ],
)
def test_jobs_expire_until_their_environments_fit(
    environments: tuple[Environment, ...], most: int, expired: list[int]
) -> None:
    index = finished(*environments).retention_index
    assert index.pop_expired(0.0, 1000, max_bytes=most) == expired
    assert index.pop_expired(0.0, 1000, max_bytes=most) == []


def test_environment_counts_again_when_an_expiry_is_undone() -> None:
    queue_state = finished(ONE, OTHER, ONE)
    index = queue_state.retention_index
    assert index.pop_expired(0.0, 1000, max_bytes=129) == [1, 2]
    index.retain(2)
    assert index.pop_expired(0.0, 1000, max_bytes=129) == [2]
    for job_id in (1, 2):
        queue_state.apply(removed(job_id))
    assert index.pop_expired(0.0, 1000, max_bytes=100) == []


def test_environment_of_a_job_that_runs_again_does_not_count() -> None:
    queue_state = finished(ONE, OTHER, OTHER)
    queue_state.apply(retried(1))
    assert queue_state.retention_index.pop_expired(0.0, 1000, max_bytes=30) == []
    queue_state.apply(started(1, at=400.0))
    queue_state.apply(ended(1, at=401.0))
    assert queue_state.retention_index.pop_expired(0.0, 1000, max_bytes=129) == [2, 3]
