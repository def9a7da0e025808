"""Which records of holds, releases and changes a snapshot leaves out: later ones say the same without them.

Between two other events of a job (a start, an end, a cancel) its holds, releases and changes are a run. A
fold of what is kept of a run gives the same job as a fold of all of it (decision 0038):

- of holds the last one is kept, and none from before a release;
- of releases the last one is kept;
- of changes the last one is kept, as each has the whole spec. A change that leaves the times as they were
  leaves it open when the job may start, so of changes that took the times back to what they were before, one
  of those in between is kept too.
"""

from bisect import bisect_right

from msgspec import Struct

from taskqd.model.events import Changed, Held, JobEvent, Released, Submitted
from taskqd.model.spec import Spec

Times = tuple[float | None, float | None]
"""A spec's ``at`` and ``delay``."""
_NONE: Times = (None, None)


class _Run(Struct):
    """The numbers of the records that are kept of a run, None for none.

    ``times`` are those at its start or its release. ``before`` is the last change before the release,
    ``last`` the last one since, and ``other`` one before that with other times. ``is_mixed`` tells of an
    array that a task was released by itself since. ``generation`` counts the runs of an array.
    """

    times: Times
    generation: int
    held: int | None = None
    released: int | None = None
    before: int | None = None
    other: int | None = None
    last: int | None = None
    last_times: Times = _NONE
    is_mixed: bool = False


class Superseded:
    """Takes all records in their order; ``sequences`` has the numbers of those that can be left out."""

    def __init__(self) -> None:
        self.sequences: set[int] = set()
        self._runs: dict[int, _Run] = {}
        self._times: dict[int, Times] = {}
        self._arrays: list[int] = []
        self._last_tasks: list[int] = []
        self._generations: dict[int, int] = {}

    def add(self, sequence: int, event: JobEvent) -> None:
        """Take the next record about a job."""
        if isinstance(event, Submitted):
            self._submitted(event)
        elif isinstance(event, Held):
            run = self._run(event.id)
            self._drop(run.held)
            run.held = sequence
        elif isinstance(event, Released):
            self._released(sequence, event)
        elif isinstance(event, Changed):
            self._changed(sequence, event)
        else:
            self._end_runs(event.id)

    def _submitted(self, event: Submitted) -> None:
        self._note_times(event.id, event.spec)
        if event.spec.array is not None:
            self._generations[event.id] = 0
            self._arrays.append(event.id)
            self._last_tasks.append(event.last_id)

    def _note_times(self, job_id: int, spec: Spec) -> Times:
        times = spec.at, spec.delay
        if times == _NONE:
            self._times.pop(job_id, None)
        else:
            self._times[job_id] = times
        return times

    def _run(self, job_id: int) -> _Run:
        """Return the run of a job; what ends that of an array ends also those of its tasks."""
        array = self._array_of(job_id)
        generation = self._generations.get(job_id if array is None else array, 0)
        run = self._runs.get(job_id)
        if run is None or run.generation != generation:
            run = self._runs[job_id] = _Run(self._times.get(job_id, _NONE), generation)
        return run

    def _array_of(self, job_id: int) -> int | None:
        """Return the array of a task, None for any other job."""
        place = bisect_right(self._arrays, job_id) - 1
        is_task = place >= 0 and self._arrays[place] < job_id <= self._last_tasks[place]
        return self._arrays[place] if is_task else None

    def _released(self, sequence: int, event: Released) -> None:
        run = self._run(event.id)
        for number in (run.held, run.released, run.other, None if run.last is None else run.before):
            self._drop(number)
        run.before = run.before if run.last is None else run.last
        run.held = run.other = run.last = None
        run.released, run.times, run.is_mixed = sequence, _NONE, False
        self._times.pop(event.id, None)
        array = self._runs.get(self._array_of(event.id) or 0)
        if array is not None:
            array.is_mixed = True

    def _changed(self, sequence: int, event: Changed) -> None:
        run = self._run(event.id)
        if run.is_mixed and (run.other is not None or (run.last is not None and run.last_times != run.times)):
            del self._runs[event.id]  # a task that was released by itself may start at another time
            run = self._run(event.id)
        times = self._note_times(event.id, event.spec)
        self._drop(run.before)
        run.before = None
        if run.last is not None and run.released is None and run.last_times != run.times:
            self._drop(run.other)
            run.other = run.last
        else:
            self._drop(run.last)
        if times != run.times:
            self._drop(run.other)
            run.other = None
        run.last, run.last_times = sequence, times

    def _end_runs(self, job_id: int) -> None:
        self._runs.pop(job_id, None)
        if not self._arrays:
            return
        array = self._array_of(job_id)
        if array is not None:
            self._runs.pop(array, None)
        elif job_id in self._generations:
            self._generations[job_id] += 1

    def _drop(self, sequence: int | None) -> None:
        if sequence is not None:
            self.sequences.add(sequence)
