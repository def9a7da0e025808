"""The conditions for accepting a job: the jobs that it depends on exist, and its demands can be met."""

from msgspec.structs import replace

from taskqd.errors import BadRequest
from taskqd.model.spec import Spec
from taskqd.state.capacity import SLOTS
from taskqd.state.explain import describe_excess
from taskqd.state.queue_state import QueueState


def resolve_dependencies(queue_state: QueueState, spec: Spec) -> Spec:
    """Return a spec that names each dependency by its job id; raises NoSuchJob and Gone.

    A submission may also name a task by its array and its index.
    """
    if not spec.has_dependencies:
        return spec
    return replace(
        spec,
        after=_ids(queue_state, spec.after),
        after_any=_ids(queue_state, spec.after_any),
        after_fail=_ids(queue_state, spec.after_fail),
    )


def _ids(queue_state: QueueState, refs: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(ref if type(ref) is int else queue_state.get(ref).id for ref in refs)


def check(queue_state: QueueState, spec: Spec) -> None:
    """Raise NoSuchJob or Gone if a dependency does not exist, BadRequest if the job could never start."""
    if spec.has_dependencies:
        for job_id in (*spec.after, *spec.after_any, *spec.after_fail):
            queue_state.get(job_id)
    check_capacity(queue_state, spec)


def check_capacity(queue_state: QueueState, spec: Spec) -> None:
    """Raise BadRequest if a job demands more than the total capacity."""
    if spec.slots == 1 and not spec.needs:
        return
    excess = queue_state.capacity.exceeds_total(queue_state.capacity.demands_of(spec, owner=""))
    if excess is not None:
        can_be_set = excess.constraint == SLOTS and excess.amount <= queue_state.capacity.totals.max_slots
        raise BadRequest(
            f"the job could never start: it {describe_excess(queue_state, excess)}; ask for less, "
            + (f"or raise the total: taskq slots {excess.amount}" if can_be_set else "or change the settings")
        )
