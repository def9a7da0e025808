"""What must be true of a submission before it is accepted: its jobs are there, and it can have room."""

from msgspec.structs import replace

from taskqd.errors import BadRequest
from taskqd.model.spec import Spec
from taskqd.state.capacity import demands_of
from taskqd.state.explain import describe_excess
from taskqd.state.queue_state import QueueState


def resolved(queue_state: QueueState, spec: Spec) -> Spec:
    """Return a spec in which the jobs that it comes after are named by their ids alone.

    Raises NoSuchJob and Gone where it names a task of an array by its index, and there is none.
    """
    if not (spec.after or spec.after_any or spec.after_fail):
        return spec
    return replace(
        spec,
        after=_ids(queue_state, spec.after),
        after_any=_ids(queue_state, spec.after_any),
        after_fail=_ids(queue_state, spec.after_fail),
    )


def _ids(queue_state: QueueState, which: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(one if type(one) is int else queue_state.get(one).id for one in which)


def check(queue_state: QueueState, spec: Spec) -> None:
    """Raise NoSuchJob or Gone for a job to come after that is not there, BadRequest if it can never start."""
    if spec.after or spec.after_any or spec.after_fail:
        for job_id in (*spec.after, *spec.after_any, *spec.after_fail):
            queue_state.get(job_id)
    check_room(queue_state, spec)


def check_room(queue_state: QueueState, spec: Spec) -> None:
    """Raise BadRequest if a job wants more than there is in all."""
    if spec.slots == 1 and not spec.needs:
        return
    impossible = queue_state.capacity.impossible(demands_of(spec))
    if impossible is not None:
        raise BadRequest(
            f"it could never start: {describe_excess(queue_state, impossible)}; ask for less, "
            "or change the settings"
        )
