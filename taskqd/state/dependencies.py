"""Which jobs come after which, and what becomes of them when those have ended.

A job waits for others by what is asked of it: ``after`` some that all must complete, ``after_any`` some that
must end, ``after_fail`` some that must fail. Only jobs that were there before can be named, so no cycle can
be made. An end is passed on at O(1) for each job that waits for it. One that did not end as it had to dooms
those that wait: they are to be skipped, each by an event of its own. A job that has been removed is waited
for by nobody any more.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import islice

from taskqd.model.job import Job, Status
from taskqd.model.spec import Spec

MAX_ACTS_PER_TURN = 100
"""Jobs that are acted on in one turn of the reactor: each takes 50 to 100 microseconds."""
MAX_LINKS_PER_TURN = 5_000
"""Jobs that those of one turn come after, all together: each takes one microsecond."""


class Kind(Enum):
    """How a job has to end for another to come after it."""

    COMPLETED = "after"
    ENDED = "after-any"
    FAILED = "after-fail"

    def accepts(self, status: Status) -> bool:
        """Whether a job that has ended so has ended as it had to."""
        return self is Kind.ENDED or status.value == self.name


_KINDS = tuple(Kind)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_KIND_BITS = 2
"""A job that waits is one number: its id, and behind it these bits of the kind."""


def named(spec: Spec) -> Iterator[tuple[Kind, int]]:
    """Yield each (kind, id) that a job is to come after."""
    for kind, ids in (
        (Kind.COMPLETED, spec.after),
        (Kind.ENDED, spec.after_any),
        (Kind.FAILED, spec.after_fail),
    ):
        for job_id in ids:
            yield kind, job_id


def portion(job_ids: Iterable[int], jobs: Mapping[int, Job]) -> list[int]:
    """Return the first of these jobs, as many as can be ended in one turn of the reactor."""
    found: list[int] = []
    links = 0
    for job_id in islice(job_ids, MAX_ACTS_PER_TURN):
        if job_id in jobs:
            spec = jobs[job_id].spec
            links += len(spec.after) + len(spec.after_any) + len(spec.after_fail)
        if found and links > MAX_LINKS_PER_TURN:
            break
        found.append(job_id)
    return found


class Skips:
    """Which jobs have FAILED because of which other one, as long as they are known and were not retried."""

    def __init__(self) -> None:
        self._by_other: dict[int, set[int]] = {}
        self._other_of: dict[int, int] = {}

    def add(self, job_id: int, other: int) -> None:
        """Note that a job was skipped because of another, of a task because of its array."""
        self._by_other.setdefault(other, set()).add(job_id)
        self._other_of[job_id] = other

    def discard(self, job_id: int) -> None:
        """Forget that a job was skipped, if it was."""
        other = self._other_of.pop(job_id, None)
        if other is not None:
            self._by_other[other].remove(job_id)
            if not self._by_other[other]:
                del self._by_other[other]

    def count(self, job_id: int) -> int:
        """Return how many jobs were skipped because of one."""
        return len(self._by_other.get(job_id, ()))

    def of(self, job_id: int) -> list[int]:
        """Return the ids of the jobs that were skipped because of one, upwards."""
        return sorted(self._by_other.get(job_id, ()))


class Dependencies:
    """Who waits for whom; ``unsatisfiable`` has by id the job because of which one is to be skipped.

    ``_blamed`` has the same by the array of that job, where it is a task, and ``_blames`` counts those.
    """

    def __init__(self) -> None:
        self.unsatisfiable: dict[int, int] = {}
        self._blamed: dict[int, int] = {}
        self._blames: Counter[int] = Counter()
        self._waiting: dict[int, array[int]] = {}

    def add(self, job: Job, jobs: Mapping[int, Job]) -> int:
        """Have a job wait for those that it comes after; return for how many that is."""
        count = 0
        for kind, job_id in dict.fromkeys(named(job.spec)):
            other = jobs.get(job_id)
            if other is None:
                continue
            if not other.status.is_final:
                self._wait(kind, job.id, job_id)
                count += 1
            elif not kind.accepts(other.status):
                self._mark_unsatisfiable(job.id, other)
                count += 1
        return count

    def discard(self, job: Job) -> int | None:
        """Have a job wait for nothing any more: it has ended without a start.

        Return the id of the job or array that dooms nobody any more by that, None if there is none.
        """
        for kind, job_id in named(job.spec):
            self._wait_no_more(kind, job.id, job_id)
        if self.unsatisfiable.pop(job.id, None) is None:
            return None
        blamed = self._blamed.pop(job.id)
        self._blames[blamed] -= 1
        if self._blames[blamed]:
            return None
        del self._blames[blamed]
        return blamed

    def settle(self, job: Job) -> Iterator[int]:
        """Yield the ids of the jobs for which one that has ended is a job less to wait for."""
        for kind, waiting in map(_decoded, self._waiting.pop(job.id, ())):
            if kind.accepts(job.status):
                yield waiting
            else:
                self._mark_unsatisfiable(waiting, job)

    def _mark_unsatisfiable(self, job_id: int, because: Job) -> None:
        if job_id not in self.unsatisfiable:
            self.unsatisfiable[job_id] = because.id
            self._blamed[job_id] = whole = because.id if because.array is None else because.array
            self._blames[whole] += 1

    def is_cause(self, job_id: int) -> bool:
        """Whether a job, or a task of an array, dooms one that has not been skipped yet."""
        return job_id in self._blames

    def awaited(self, job: Job) -> Iterator[tuple[Kind, int]]:
        """Yield each (kind, id) that keeps a job waiting."""
        because = self.unsatisfiable.get(job.id)
        for kind, job_id in dict.fromkeys(named(job.spec)):
            if job_id == because or self._place(kind, job.id, job_id) is not None:
                yield kind, job_id

    def after(self, job_id: int) -> Iterator[int]:
        """Yield the ids of the jobs that wait for one, as they are when this begins."""
        for code in self._waiting.get(job_id, ())[:]:
            yield code >> _KIND_BITS

    # ``_waiting`` has by job those that wait for it, sorted, as numbers of eight bytes each.

    def _wait(self, kind: Kind, job_id: int, other: int) -> None:
        code, waiting = _coded(kind, job_id), self._waiting.get(other)
        if waiting is None:
            self._waiting[other] = array("q", (code,))
        elif code > waiting[-1]:  # where nearly all belong
            waiting.append(code)
        else:
            waiting.insert(bisect_left(waiting, code), code)

    def _wait_no_more(self, kind: Kind, job_id: int, other: int) -> None:
        place = self._place(kind, job_id, other)
        if place is not None:
            del self._waiting[other][place]
            if not self._waiting[other]:
                del self._waiting[other]

    def _place(self, kind: Kind, job_id: int, other: int) -> int | None:
        """Return where a job stands among those that wait for another, None if it does not."""
        code, waiting = _coded(kind, job_id), self._waiting.get(other, ())
        place = bisect_left(waiting, code)
        return place if place < len(waiting) and waiting[place] == code else None


def _coded(kind: Kind, job_id: int) -> int:
    return job_id << _KIND_BITS | _CODES[kind]


def _decoded(code: int) -> tuple[Kind, int]:
    return _KINDS[code & (1 << _KIND_BITS) - 1], code >> _KIND_BITS
