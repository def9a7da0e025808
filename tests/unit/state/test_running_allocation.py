"""The capacity of jobs that run since before the start of the daemon."""

from taskqd.model.events import Started, Submitted
from taskqd.model.spec import Spec
from taskqd.state.capacity import SLOTS, CapacityTotals
from taskqd.state.queue_state import QueueState


def test_running_job_gets_its_capacity_back_even_above_the_total() -> None:
    state = QueueState(CapacityTotals(slots=1))
    for job_id in (1, 2):
        state.apply(Submitted(id=job_id, at=1.0, owner="ada", command="true", spec=Spec()))
        state.apply(Started(id=job_id, at=2.0, attempt=1))
        state.allocate_running(state.jobs[job_id])
    assert state.capacity.available(SLOTS) == -1
    assert state.next_job(3.0) is None
    state.release(1)
    assert state.capacity.available(SLOTS) == 0
