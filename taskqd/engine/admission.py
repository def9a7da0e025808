"""What must be true of a submission before it is accepted: its jobs are there, and it can have room."""

from msgspec.structs import replace

from taskqd.errors import BadRequest
from taskqd.model.spec import Spec
from taskqd.state.capacity import wants
from taskqd.state.explain import too_much
from taskqd.state.queue_state import Backlog


def resolved(backlog: Backlog, spec: Spec) -> Spec:
    """Return a spec in which the jobs that it comes after are named by their ids alone.

    Raises NoSuchJob and Gone where it names a task of an array by its index, and there is none.
    """
    if not (spec.after or spec.after_any or spec.after_fail):
        return spec
    return replace(
        spec,
        after=_ids(backlog, spec.after),
        after_any=_ids(backlog, spec.after_any),
        after_fail=_ids(backlog, spec.after_fail),
    )


def _ids(backlog: Backlog, which: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(one if type(one) is int else backlog.get(one).id for one in which)


def check(backlog: Backlog, spec: Spec) -> None:
    """Raise NoSuchJob or Gone for a job to come after that is not there, BadRequest if it can never start."""
    if spec.after or spec.after_any or spec.after_fail:
        for job_id in (*spec.after, *spec.after_any, *spec.after_fail):
            backlog.get(job_id)
    check_room(backlog, spec)


def check_room(backlog: Backlog, spec: Spec) -> None:
    """Raise BadRequest if a job wants more than there is in all."""
    if spec.slots == 1 and not spec.needs:
        return
    impossible = backlog.capacity.impossible(wants(spec))
    if impossible is not None:
        raise BadRequest(
            f"it could never start: {too_much(backlog, impossible)}; ask for less, or change the settings"
        )
