"""The conditions for accepting a job: the jobs that it depends on exist, and its demands can be met."""

from collections.abc import Iterable
from itertools import chain, islice

from msgspec.structs import replace

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import MAX_DEPENDENCIES, Spec
from taskqd.state.capacity import SLOTS
from taskqd.state.explain import describe_excess
from taskqd.state.job_search import find_jobs
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


def resolve_named(queue_state: QueueState, spec: Spec, owner: str, queue: str | None = None) -> Spec:
    """Return a spec with the ids of the dependencies that it names by labels and keys.

    These are all known jobs of the ``owner`` that have such a label, also those that have ended, and the jobs
    with such a key; only jobs in ``queue``, if that is given. Raises NoSuchJob if there is none, and
    BadRequest if there are more than a job may depend on.
    """
    named = spec.named
    if named is None:
        return spec
    own = JobFilter(owner=owner, queue=queue)
    found = {
        kind: _with_others(
            getattr(spec, kind),
            _labelled(queue_state, replace(own, label=getattr(named, f"{kind}_label"))),
            (_with_key(queue_state, key, owner, queue) for key in getattr(named, f"{kind}_key")),
        )
        for kind in ("after", "after_any", "after_fail")
    }
    count = sum(map(len, found.values()))
    if count > MAX_DEPENDENCIES:
        raise BadRequest(
            f"the submission comes after more than {MAX_DEPENDENCIES} jobs, the limit; give the jobs of each "
            "batch another label, or remove old ones"
        )
    return replace(spec, **found)


def _with_others(given: tuple[int, ...], *others: Iterable[int]) -> tuple[int, ...]:
    known = set(given)
    return *given, *(job_id for job_id in dict.fromkeys(chain(*others)) if job_id not in known)


def _labelled(queue_state: QueueState, wanted: JobFilter) -> list[int]:
    """Return the ids of up to MAX_DEPENDENCIES jobs with a label, and one more; raises NoSuchJob for none."""
    if wanted.label is None:
        return []
    jobs = filter(None, find_jobs(queue_state, wanted))
    found = [job.id for job in islice(jobs, MAX_DEPENDENCIES + 1)]
    if not found:
        raise NoSuchJob(f"you have no job with the label {wanted.label!r}{_place(wanted.queue)}")
    return found


def _with_key(queue_state: QueueState, key: str, owner: str, queue: str | None) -> int:
    job = queue_state.by_key(key, owner)
    if job is None or queue not in (None, job.spec.queue):
        raise NoSuchJob(f"you have no job with the key {key}{_place(queue)}")
    return job.id


def _place(queue: str | None) -> str:
    return "" if queue is None else f" in queue {queue}, the only one for which your token is valid"


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
            + (
                f"or raise the total: `taskq slots {excess.amount}`"
                if can_be_set
                else "or change the settings"
            )
        )
