"""The state of ``taskq top``: selection and snapshots."""

from taskqd.cli.top.state import State
from tests.unit.cli.top.samples import PENDING, RUNNING, SNAPSHOT, a_job, at


def test_state_keeps_selection_on_its_job() -> None:
    state = at(4)
    state.update(SNAPSHOT._replace(running=[*RUNNING, a_job(4, "RUNNING")], pending=PENDING[:1]))
    assert (state.selected, state.index) == (4, 2)


def test_state_keeps_position_of_selection_when_job_is_gone() -> None:
    state = at(6)
    state.update(SNAPSHOT._replace(ended=[]))
    assert (state.selected, state.index) == (4, 3)


def test_state_selects_nothing_without_jobs() -> None:
    state = at(1, SNAPSHOT._replace(running=[], pending=[], ended=[]))
    assert (state.selected, state.job) == (None, None)
    state.update(SNAPSHOT)
    assert state.selected == 1


def test_snapshot_clears_error() -> None:
    state = State(error="unreachable")
    state.update(SNAPSHOT)
    assert state.error == ""
