"""The jobs that wait for nothing but room, and which of them is the next to have it.

The order is by priority, higher first, and then by id. The next to start is the first in that order for which
there is room; one that wants more than is free may be passed for a while (reservation.py). Jobs that want the
same, of the same queue, are of one shape: only the first of them needs to be looked at. A shape that does not
fit is put aside with those that lack the same, by how much of it, and the first of those for which there is
enough is looked at again (minima.py). Likewise a shape is aside from which room is kept, by how much it would
take of that. So a start or an end costs O(log n), whatever amounts are wanted, and looks at few shapes; at
all that are aside only when a limit or a pause changes.
"""

from collections.abc import Callable, Iterable, Iterator

from sortedcontainers import SortedList

from taskqd.model.job import Job
from taskqd.state.backfill import Backfill
from taskqd.state.capacity import SLOTS, Capacity, Constraint, Demand, Demands, demands_of
from taskqd.state.minima import MAX_AMOUNT, Minima

_ID_BITS = 62
_IDS = 1 << _ID_BITS

MAX_LOOKS = 500
"""Shapes that are looked at in one turn of the reactor, at ten to twenty microseconds each."""

PAUSED = Demand(Constraint("paused"), 0)
NEVER = Demand(Constraint("never"), 0)
_KEPT = "kept "
"""Before a constraint's kind: it is of shapes that would take of it what is kept for another."""


def _kept(constraint: Constraint) -> Constraint:
    return Constraint(_KEPT + constraint.kind, constraint.name)


def _is_kept(lacks: Demand | None) -> bool:
    return lacks is not None and lacks.constraint.kind.startswith(_KEPT)


class JobGroup:
    """The jobs that are alike for the line, in order: of one ``queue``, and with the same ``demands_of``.

    ``name`` tells it from others; ``lacks`` is what keeps its first job from its start, as far as that was
    looked at.
    """

    __slots__ = ("demands_of", "keys", "lacks", "name", "queue")

    def __init__(self, name: "Name", job: Job, keys: Iterable[int] = ()) -> None:
        self.name = name
        self.queue = job.spec.queue
        self.demands_of: Demands = demands_of(job.spec, job.array)
        self.keys: SortedList[int] = SortedList(keys)
        self.lacks: Demand | None = None

    @property
    def first(self) -> int:
        """The key of its first job."""
        key: int = self.keys[0]
        return key

    @property
    def last(self) -> int:
        """The key of its last job."""
        key: int = self.keys[-1]
        return key


Name = tuple[str, int] | tuple[str, int, frozenset[tuple[str, int]], int | None]
"""What makes jobs alike: queue, slots, and where there are any, needs, and the array with its own limit."""
Head = tuple[int, JobGroup]
"""A shape by the key of its first job."""


def _name(job: Job) -> Name:
    spec = job.spec
    array = job.array if spec.array is not None and spec.array.at_once is not None else None
    if array is None and not spec.needs:
        return spec.queue, spec.slots
    return spec.queue, spec.slots, frozenset(spec.needs.items()), array


def rank_of(job: Job) -> int:
    """Return a number by which jobs are in order: of two the one with the lower starts first."""
    priority = job.spec.priority
    return job.id - (priority << _ID_BITS) if priority else job.id


class _Groups:
    """Shapes by constraint and amount; ``kept`` are the constraints of those from which room is kept."""

    def __init__(self) -> None:
        self.kept: set[Constraint] = set()
        self._groups: dict[Constraint, Minima[Head]] = {}

    def add(self, want: Demand, shape: JobGroup) -> None:
        self._groups.setdefault(want.constraint, Minima()).add(want.amount, (shape.first, shape))
        if _is_kept(want):
            self.kept.add(want.constraint)

    def remove(self, want: Demand, shape: JobGroup) -> None:
        group = self._groups[want.constraint]
        group.remove(want.amount, (shape.first, shape))
        if not group:
            del self._groups[want.constraint]
            self.kept.discard(want.constraint)

    def first(self, constraint: Constraint, least: int, most: int) -> Head | None:
        """Return the first shape of a constraint with an amount within a range, None if there is none."""
        group = self._groups.get(constraint)
        return None if group is None else group.first(least, most)

    def shapes(self) -> list[JobGroup]:
        """Return all shapes."""
        return [shape for group in self._groups.values() for _, shape in group]


class ReadyQueue:
    """The jobs that are ready, and what was taken by those that left it to run.

    ``is_paused(queue)`` tells whether a queue may start nothing. Each shape is in ``_candidates`` if it may
    fit,
    or else ``_blocked`` under what it lacks. Those aside that lack room, and have not been ``_passed`` yet,
    are
    in ``_overtakable`` under each of their wants. ``_to_recheck`` are the constraints of which some may fit
    again; ``_keeping_for`` is the one for which room was kept when that was looked at last.

    It ``is_quiescent`` when nobody could be taken and nothing has changed since but the time.
    """

    def __init__(self, capacity: Capacity, is_paused: Callable[[str], bool]) -> None:
        self.is_quiescent = False
        self._capacity = capacity
        self._is_paused = is_paused
        self._shapes: dict[Name, JobGroup] = {}
        self._candidates: SortedList[Head] = SortedList()
        self._blocked = _Groups()
        self._overtakable = _Groups()
        self._passed: Backfill[JobGroup] = Backfill()
        self._to_recheck: set[Constraint] = set()
        self._keeping_for: JobGroup | None = None
        self._is_interrupted = False
        self._taken: dict[int, JobGroup] = {}

    def add(self, job: Job) -> None:
        """Put a job into the line, at its place; one that is there already or runs stays where it is."""
        if job.id in self._taken:
            return
        self.is_quiescent = False
        name, key = _name(job), rank_of(job)
        shape = self._shapes.get(name)
        if shape is None:
            shape = self._shapes[name] = JobGroup(name, job)
        elif key > shape.last:  # where nearly all belong
            shape.keys.add(key)
            return
        elif key in shape.keys:
            return
        elif key > shape.first:
            shape.keys.add(key)
            return
        else:
            self._unfile(shape)
        shape.keys.add(key)
        if _is_kept(shape.lacks):
            shape.lacks = None  # it may be before the one for which that is kept
        self._file(shape)

    def fill(self, jobs: Iterable[Job]) -> None:
        """Put jobs into a line that has none yet; a million take a fraction of what they do one by one."""
        self.is_quiescent = False
        alike: dict[Name, tuple[Job, list[int]]] = {}
        before: Job | None = None
        keys: list[int] = []
        for job in jobs:
            if before is None or job.spec is not before.spec or job.array != before.array:
                _, keys = alike.setdefault(_name(job), (job, []))
            keys.append(rank_of(job))
            before = job
        for name, (job, keys) in alike.items():
            shape = self._shapes[name] = JobGroup(name, job, keys)
            self._file(shape)

    def remove(self, job: Job) -> None:
        """Take a job out of the line, if it is there; its spec must be the one with which it came in."""
        shape, key = self._shapes.get(_name(job)), rank_of(job)
        if shape is not None and key in shape.keys:
            self._remove(shape, key)

    def _remove(self, shape: JobGroup, key: int) -> None:
        self.is_quiescent = False
        if key != shape.first:
            shape.keys.remove(key)
            return
        self._unfile(shape)
        self._passed.discard(shape)
        del shape.keys[0]
        if shape.keys:
            self._file(shape)
        else:
            del self._shapes[shape.name]

    def _file(self, shape: JobGroup) -> None:
        if shape.lacks is None:
            self._candidates.add((shape.first, shape))
            return
        self._blocked.add(shape.lacks, shape)
        for want in self._passable_by(shape):
            self._overtakable.add(want, shape)

    def _unfile(self, shape: JobGroup) -> None:
        if shape.lacks is None:
            self._candidates.remove((shape.first, shape))
            return
        self._blocked.remove(shape.lacks, shape)
        for want in self._passable_by(shape):
            self._overtakable.remove(want, shape)

    def _passable_by(self, shape: JobGroup) -> Demands:
        return () if shape.lacks in (PAUSED, NEVER) or shape in self._passed else shape.demands_of

    def take(self, now: float) -> int | None:
        """Take the next job that may start out of the line and what it wants for it; None if none may.

        The caller has to ``give_back`` once it does not run any more. After MAX_LOOKS shapes that do not fit
        it is None too, the line is not settled, and ``next_look`` is now.
        """
        keeping_for = self._passed.first if self._passed.phase(now).is_kept else None
        if keeping_for is not self._keeping_for:
            self._keeping_for = keeping_for
            self._to_recheck |= self._blocked.kept
        self._is_interrupted = False
        for _ in range(MAX_LOOKS):
            shape = self._next() if self._capacity.free(SLOTS) != 0 else None
            if shape is None:
                self.is_quiescent = True
                return None
            lacks = self._obstacle(shape, now)
            if lacks is None:
                return self._start(shape)
            self._move(shape, lacks)
        self._is_interrupted = True
        return None

    def _next(self) -> JobGroup | None:
        """Return the first of the shapes that may fit."""
        first: Head | None = self._candidates[0] if self._candidates else None
        for constraint in list(self._to_recheck):
            fits = self._first_fitting(constraint)
            if fits is None:
                self._to_recheck.discard(constraint)
            elif first is None or fits < first:
                first = fits
        return None if first is None else first[1]

    def _first_fitting(self, constraint: Constraint) -> Head | None:
        """Return the first shape that is aside for a constraint and of which that keeps no longer."""
        if not constraint.kind.startswith(_KEPT):
            return self._blocked.first(constraint, 0, self._free(constraint))
        base = Constraint(constraint.kind.removeprefix(_KEPT), constraint.name)
        free, keeping_for = self._free(base), self._keeping_for
        first = self._blocked.first(constraint, 0, free)
        if first is None or keeping_for is None or first[0] <= keeping_for.first:
            return first
        return self._blocked.first(constraint, 0, free - dict(keeping_for.demands_of).get(base, 0))

    def _free(self, constraint: Constraint) -> int:
        free = self._capacity.free(constraint)
        return MAX_AMOUNT if free is None else free

    def _start(self, shape: JobGroup) -> int:
        key = shape.first
        self._note_passed(shape)
        self._move(shape, None)
        self._remove(shape, key)
        job_id = key % _IDS
        self._taken[job_id] = shape
        self._capacity.take(shape.demands_of)
        return job_id

    def _move(self, shape: JobGroup, lacks: Demand | None) -> None:
        """Put a shape aside under what it lacks, or where it is looked at again."""
        if lacks == shape.lacks:
            return
        self._unfile(shape)
        shape.lacks = lacks
        if lacks in (PAUSED, NEVER):
            self._passed.discard(shape)  # it waits for something else now
        self._file(shape)

    def _obstacle(self, shape: JobGroup, now: float) -> Demand | None:
        if self._is_paused(shape.queue):
            return PAUSED
        lacks = self._capacity.lacking(shape.demands_of)
        if lacks is not None:
            return NEVER if self._capacity.impossible(shape.demands_of) else lacks
        spoiling = self._spoiling(shape.demands_of, shape.first, now)
        return None if spoiling is None else Demand(_kept(spoiling.constraint), spoiling.amount)

    def _spoiling(self, wanted: Demands, key: int, now: float) -> Demand | None:
        """Return what one that would start would take of the room that is kept for another, or None."""
        first = self._passed.first
        if first is None or first.first >= key or not self._passed.phase(now).is_kept:
            return None
        return self._capacity.spoiling(wanted, first.demands_of)

    def _note_passed(self, shape: JobGroup) -> None:
        """See whether a start takes something away from one that is before it, and does not fit."""
        first, passed = min(self._robbed_by(shape), default=(shape.first, shape))
        if first >= shape.first:
            return
        before = self._passed.first
        self._unfile(passed)
        self._passed.add(passed, is_first=before is None or first < before.first)
        self._file(passed)

    def _robbed_by(self, shape: JobGroup) -> Iterator[Head]:
        for want in shape.demands_of:
            least = self._capacity.least_robbed(want)
            robbed = None if least is None else self._overtakable.first(want.constraint, least, MAX_AMOUNT)
            if robbed is not None:
                yield robbed

    def next_look(self, now: float) -> float | None:
        """Return when to look again if nothing else happens, as when kept room is free; None for never."""
        if self._is_interrupted:
            return now
        kept = self._passed.phase(now)
        return now + kept.left if kept.is_kept and self._blocked.kept else None

    def give_back(self, job_id: int) -> None:
        """Give back what a job took; nothing where it took nothing."""
        shape = self._taken.pop(job_id, None)
        if shape is None:
            return
        self.is_quiescent = False
        self._capacity.give_back(shape.demands_of)
        for constraint, _ in shape.demands_of:
            self._to_recheck.add(constraint)
        self._to_recheck |= self._blocked.kept

    def unblock_all(self) -> None:
        """Look again at all shapes: a limit or a pause has changed."""
        self.is_quiescent = False
        shapes = self._blocked.shapes()
        self._blocked, self._overtakable = _Groups(), _Groups()
        self._to_recheck.clear()
        for shape in shapes:
            shape.lacks = None
        self._candidates.update((shape.first, shape) for shape in shapes)

    def is_taken(self, job_id: int) -> bool:
        """Whether a job has what it wants."""
        return job_id in self._taken

    def has_taken(self, job: Job) -> bool:
        """Whether a job has what it wants by now, which may have changed since it took that."""
        shape = self._taken.get(job.id)
        return shape is not None and shape.name == _name(job)

    def holders(self, constraint: Constraint) -> list[int]:
        """Return the ids of the jobs that have some of a constraint."""
        return [
            job_id
            for job_id, shape in self._taken.items()
            if any(constraint == wanted for wanted, _ in shape.demands_of)
        ]

    def ahead(self, job: Job) -> int:
        """Return how many of a job's queue are in the line before it."""
        key = rank_of(job)
        shapes = (shape for shape in self._shapes.values() if shape.queue == job.spec.queue)
        return sum(shape.keys.bisect_left(key) for shape in shapes)

    def reserved_for(self, job: Job, now: float) -> int | None:
        """Return the id of the job for which room is kept from this one at a moment, or None."""
        first = self._passed.first
        is_kept = self._spoiling(demands_of(job.spec, job.array), rank_of(job), now) is not None
        return first.first % _IDS if first is not None and is_kept else None
