"""The jobs that wait for nothing but room, and which of them is the next to have it.

The order is by priority, higher first, and then by id. The next to start is the first in that order for which
there is room; one that wants more than is free may be passed for a while (reservation.py). Jobs that want the
same, of the same queue, are of one shape: only the first of them needs to be looked at. A shape that does not
fit is put aside with those that lack as much of the same, and the first of these is looked at again once
there is enough. So a start or an end costs O(log n), and looks at few shapes; at all that are aside only when
a limit or a pause changes, or at those from which room is kept.
"""

from collections.abc import Callable, Iterable, Iterator

from sortedcontainers import SortedList

from taskqd.capacity import SLOTS, Capacity, Constraint, Want, Wants, wants
from taskqd.job import Job
from taskqd.reservation import Reservation

_ID_BITS = 62
_IDS = 1 << _ID_BITS

PAUSED = Want(Constraint("paused"), 0)
KEPT = Want(Constraint("kept"), 0)
NEVER = Want(Constraint("never"), 0)


class Shape:
    """The jobs that are alike for the line, in order: of one ``queue``, and with the same ``wants``.

    ``name`` tells it from others; ``lacks`` is what keeps its first job from its start, as far as that was
    looked at.
    """

    __slots__ = ("keys", "lacks", "name", "queue", "wants")

    def __init__(self, name: "Name", job: Job, keys: Iterable[int] = ()) -> None:
        self.name = name
        self.queue = job.spec.queue
        self.wants: Wants = wants(job.spec, job.array)
        self.keys: SortedList[int] = SortedList(keys)
        self.lacks: Want | None = None

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
Head = tuple[int, Shape]
"""A shape by the key of its first job."""


def _name(job: Job) -> Name:
    spec = job.spec
    array = job.array if spec.array is not None and spec.array.at_once is not None else None
    if array is None and not spec.needs:
        return spec.queue, spec.slots
    return spec.queue, spec.slots, frozenset(spec.needs.items()), array


def key_of(job: Job) -> int:
    """Return a number by which jobs are in order: of two the one with the lower starts first."""
    priority = job.spec.priority
    return job.id - (priority << _ID_BITS) if priority else job.id


class _Groups:
    """Shapes by how much of which constraint, those of one group in order."""

    def __init__(self) -> None:
        self._groups: dict[Constraint, dict[int, SortedList[Head]]] = {}

    def add(self, want: Want, shape: Shape) -> None:
        amounts = self._groups.setdefault(want.constraint, {})
        amounts.setdefault(want.amount, SortedList()).add((shape.first, shape))

    def remove(self, want: Want, shape: Shape) -> None:
        amounts = self._groups[want.constraint]
        amounts[want.amount].remove((shape.first, shape))
        if not amounts[want.amount]:
            del amounts[want.amount]
        if not amounts:
            del self._groups[want.constraint]

    def of(self, constraint: Constraint) -> dict[int, SortedList[Head]]:
        """Return the groups of a constraint by amount."""
        return self._groups.get(constraint, {})

    def shapes(self) -> list[Shape]:
        """Return all shapes."""
        groups = (group for amounts in self._groups.values() for group in amounts.values())
        return [shape for group in groups for _, shape in group]


class Line:
    """The jobs that are ready, and what was taken by those that left it to run.

    ``is_paused(queue)`` tells whether a queue may start nothing. Each shape is in ``_heads`` if it may fit,
    or else ``_aside`` under what it lacks. Those aside that lack room, and have not been ``_passed`` yet, are
    in ``_passable`` under each of their wants. ``_woken`` names groups that may fit again.

    It ``is_settled`` when nobody could be taken and nothing has changed since but the time.
    """

    def __init__(self, capacity: Capacity, is_paused: Callable[[str], bool]) -> None:
        self.is_settled = False
        self._capacity = capacity
        self._is_paused = is_paused
        self._shapes: dict[Name, Shape] = {}
        self._heads: SortedList[Head] = SortedList()
        self._aside = _Groups()
        self._passable = _Groups()
        self._passed: Reservation[Shape] = Reservation()
        self._woken: set[Want] = set()
        self._taken: dict[int, Shape] = {}

    def add(self, job: Job) -> None:
        """Put a job into the line, at its place; one that is there already or runs stays where it is."""
        if job.id in self._taken:
            return
        self.is_settled = False
        name, key = _name(job), key_of(job)
        shape = self._shapes.get(name)
        if shape is None:
            shape = self._shapes[name] = Shape(name, job)
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
        if shape.lacks == KEPT:
            shape.lacks = None  # it may be before the one for which that is kept
        self._file(shape)

    def fill(self, jobs: Iterable[Job]) -> None:
        """Put jobs into a line that has none yet; a million take a fraction of what they do one by one."""
        self.is_settled = False
        alike: dict[Name, tuple[Job, list[int]]] = {}
        before: Job | None = None
        keys: list[int] = []
        for job in jobs:
            if before is None or job.spec is not before.spec or job.array != before.array:
                _, keys = alike.setdefault(_name(job), (job, []))
            keys.append(key_of(job))
            before = job
        for name, (job, keys) in alike.items():
            shape = self._shapes[name] = Shape(name, job, keys)
            self._file(shape)

    def remove(self, job: Job) -> None:
        """Take a job out of the line, if it is there; its spec must be the one with which it came in."""
        shape, key = self._shapes.get(_name(job)), key_of(job)
        if shape is not None and key in shape.keys:
            self._remove(shape, key)

    def _remove(self, shape: Shape, key: int) -> None:
        self.is_settled = False
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

    def _file(self, shape: Shape) -> None:
        if shape.lacks is None:
            self._heads.add((shape.first, shape))
            return
        self._aside.add(shape.lacks, shape)
        for want in self._passable_by(shape):
            self._passable.add(want, shape)

    def _unfile(self, shape: Shape) -> None:
        if shape.lacks is None:
            self._heads.remove((shape.first, shape))
            return
        self._aside.remove(shape.lacks, shape)
        for want in self._passable_by(shape):
            self._passable.remove(want, shape)

    def _passable_by(self, shape: Shape) -> Wants:
        return () if shape.lacks in (PAUSED, KEPT, NEVER) or shape in self._passed else shape.wants

    def take(self, now: float) -> int | None:
        """Take the next job that may start out of the line and what it wants for it; None if none may.

        Whoever takes it has to ``give_back`` once it does not run any more.
        """
        if not self._passed.phase(now).is_kept:
            self._wake(KEPT)
        while self._capacity.free(SLOTS) != 0 and (shape := self._next()) is not None:
            lacks = self._obstacle(shape, now)
            if lacks is None:
                return self._start(shape)
            self._move(shape, lacks)
        self.is_settled = True
        return None

    def _next(self) -> Shape | None:
        """Return the first of the shapes that may fit."""
        first: Head | None = self._heads[0] if self._heads else None
        for want in list(self._woken):
            group = self._aside.of(want.constraint).get(want.amount)
            if group is None or self._capacity.lacking((want,)):
                self._woken.discard(want)
            elif first is None or group[0] < first:
                first = group[0]
        return None if first is None else first[1]

    def _start(self, shape: Shape) -> int:
        key = shape.first
        self._note_passed(shape)
        self._move(shape, None)
        self._remove(shape, key)
        job_id = key % _IDS
        self._taken[job_id] = shape
        self._capacity.take(shape.wants)
        return job_id

    def _move(self, shape: Shape, lacks: Want | None) -> None:
        """Put a shape aside under what it lacks, or where it is looked at again."""
        if lacks == shape.lacks:
            return
        self._unfile(shape)
        shape.lacks = lacks
        if lacks in (PAUSED, NEVER):
            self._passed.discard(shape)  # it waits for something else now
        self._file(shape)

    def _obstacle(self, shape: Shape, now: float) -> Want | None:
        if self._is_paused(shape.queue):
            return PAUSED
        lacks = self._capacity.lacking(shape.wants)
        if lacks is not None:
            return NEVER if self._capacity.impossible(shape.wants) else lacks
        return KEPT if self._kept_for(shape.wants, shape.first, now) is not None else None

    def _kept_for(self, wanted: Wants, key: int, now: float) -> int | None:
        """Return the key of the job for which room is kept from one that would start, or None."""
        first = self._passed.first
        if first is None or first.first >= key or not self._passed.phase(now).is_kept:
            return None
        return None if self._capacity.leaves(wanted, first.wants) else first.first

    def _note_passed(self, shape: Shape) -> None:
        """See whether a start takes something away from one that is before it, and does not fit."""
        first, passed = min(self._robbed_by(shape), default=(shape.first, shape))
        if first >= shape.first:
            return
        before = self._passed.first
        self._unfile(passed)
        self._passed.add(passed, is_first=before is None or first < before.first)
        self._file(passed)

    def _robbed_by(self, shape: Shape) -> Iterator[Head]:
        for want in shape.wants:
            for amount, group in self._passable.of(want.constraint).items():
                if self._capacity.robs(want, amount):
                    yield group[0]

    def next_look(self, now: float) -> float | None:
        """Return when what is kept from somebody may be let go of, or None where nothing is."""
        kept = self._passed.phase(now)
        return now + kept.left if kept.is_kept and self._aside.of(KEPT.constraint) else None

    def give_back(self, job_id: int) -> None:
        """Give back what a job took; nothing where it took nothing."""
        shape = self._taken.pop(job_id, None)
        if shape is None:
            return
        self.is_settled = False
        self._capacity.give_back(shape.wants)
        for constraint, _ in shape.wants:
            self._woken.update(Want(constraint, amount) for amount in self._aside.of(constraint))
        self._wake(KEPT)

    def _wake(self, lacks: Want) -> None:
        for _, shape in list(self._aside.of(lacks.constraint).get(lacks.amount, ())):
            self._move(shape, None)

    def wake_all(self) -> None:
        """Look again at all shapes: a limit or a pause has changed."""
        self.is_settled = False
        for shape in self._aside.shapes():
            self._move(shape, None)

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
            if any(constraint == wanted for wanted, _ in shape.wants)
        ]

    def ahead(self, job: Job) -> int:
        """Return how many of a job's queue are in the line before it."""
        key = key_of(job)
        shapes = (shape for shape in self._shapes.values() if shape.queue == job.spec.queue)
        return sum(shape.keys.bisect_left(key) for shape in shapes)

    def kept_for(self, job: Job, now: float) -> int | None:
        """Return the id of the job for which room is kept from this one at a moment, or None."""
        key = self._kept_for(wants(job.spec, job.array), key_of(job), now)
        return None if key is None else key % _IDS
