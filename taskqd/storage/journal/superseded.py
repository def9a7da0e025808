"""Finds the records that a snapshot omits because later ones supersede them.

These are holds, releases, changes, suspensions and continuations.

The holds, releases and changes of a job between two other events of it (a start, an end, a cancel) form a
run. A fold of the records that are kept of a run gives the same job as a fold of all of them (decision 0038):

- The last hold is kept, unless a release follows.
- The last release is kept.
- The last change is kept, as each change has the whole spec. But a change that does not alter the times
  (``at``, ``delay``) does not alter the job's earliest start either. So if changes altered the times and then
  set them back, one of them is kept as well. And if delays are involved, the change that set the current
  times is kept as well, since only that one tells whether the start follows the system clock.

Of the suspensions and continuations of a job, only the last one is kept, and none when the attempt has ended:
each decides alone whether the job is suspended, and since when. The same holds for those of an array, each of
which decides that for all tasks that run.
"""

from bisect import bisect_right

from msgspec import Struct

from taskqd.model.events import Changed, Continued, Ended, Held, JobEvent, Released, Submitted, Suspended
from taskqd.model.spec import Spec

Times = tuple[float | None, float | None]
"""The ``at`` and ``delay`` of a spec."""
_NO_TIMES: Times = (None, None)


class _Run(Struct):
    """The numbers of the records of a run that are kept, None for none.

    ``times`` are those at its start or its release. ``before`` is the last change before the release, and
    ``last`` the last one after it, with its times. ``other`` is an earlier one with other times,
    ``setter`` an earlier one that set the times of ``last``. ``is_mixed`` tells that a task of the array was
    released alone since. ``generation`` counts the runs of an array.
    """

    times: Times
    generation: int
    held: int | None = None
    released: int | None = None
    before: int | None = None
    other: int | None = None
    last: int | None = None
    setter: int | None = None
    last_times: Times = _NO_TIMES
    last_is_delay: bool = False
    is_mixed: bool = False


class Superseded:
    """Finds the superseded records; ``sequences`` has their numbers. ``add`` gets all records in order."""

    def __init__(self) -> None:
        self.sequences: set[int] = set()
        self._runs: dict[int, _Run] = {}
        self._times: dict[int, Times] = {}
        self._arrays: list[int] = []
        self._last_tasks: list[int] = []
        self._generations: dict[int, int] = {}
        self._suspensions: dict[int, int] = {}

    @property
    def has_runs(self) -> bool:
        """Whether ``add`` may have an effect for an event that starts or ends a job."""
        return bool(self._runs or self._arrays or self._suspensions)

    def add(self, sequence: int, event: JobEvent) -> None:
        """Add the next record of a job."""
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
        elif isinstance(event, Suspended | Continued):
            self._drop(self._suspensions.pop(event.id, None))
            self._suspensions[event.id] = sequence
        else:
            if isinstance(event, Ended):
                self._drop(self._suspensions.pop(event.id, None))
            self._end_runs(event.id)

    def _submitted(self, event: Submitted) -> None:
        self._set_times(event.id, event.spec)
        if event.spec.array is not None:
            self._generations[event.id] = 0
            self._arrays.append(event.id)
            self._last_tasks.append(event.last_id)

    def _set_times(self, job_id: int, spec: Spec) -> Times:
        times = spec.at, spec.delay
        if times == _NO_TIMES:
            self._times.pop(job_id, None)
        else:
            self._times[job_id] = times
        return times

    def _run(self, job_id: int) -> _Run:
        """Return the run of a job; an event that ends the run of an array ends those of its tasks as well."""
        array = self._array_of(job_id)
        generation = self._generations.get(job_id if array is None else array, 0)
        run = self._runs.get(job_id)
        if run is None or run.generation != generation:
            run = self._runs[job_id] = _Run(self._times.get(job_id, _NO_TIMES), generation)
        return run

    def _array_of(self, job_id: int) -> int | None:
        """Return the array of a task, None for any other job."""
        index = bisect_right(self._arrays, job_id) - 1
        is_task = index >= 0 and self._arrays[index] < job_id <= self._last_tasks[index]
        return self._arrays[index] if is_task else None

    def _released(self, sequence: int, event: Released) -> None:
        run = self._run(event.id)
        superseded = (run.held, run.released, run.other, run.setter)
        for number in (*superseded, None if run.last is None else run.before):
            self._drop(number)
        run.before = run.before if run.last is None else run.last
        run.held = run.other = run.setter = run.last = None
        run.released, run.times, run.is_mixed = sequence, _NO_TIMES, False
        self._times.pop(event.id, None)
        array = self._runs.get(self._array_of(event.id) or 0)
        if array is not None:
            array.is_mixed = True

    def _changed(self, sequence: int, event: Changed) -> None:
        run = self._run(event.id)
        if run.is_mixed and (run.other is not None or (run.last is not None and run.last_times != run.times)):
            del self._runs[event.id]  # a task that was released alone may start at another time
            run = self._run(event.id)
        times = self._set_times(event.id, event.spec)
        self._drop(run.before)
        run.before = None
        if run.last is not None and times == run.last_times:
            self._keep_times(run, event)
        else:
            self._drop(run.setter)
            run.setter = None
            self._alter_times(run, times)
        run.last, run.last_times, run.last_is_delay = sequence, times, event.is_delay

    def _keep_times(self, run: _Run, event: Changed) -> None:
        """Drop the last change, which one with the same times follows, unless it is the setter."""
        if run.setter is None and (run.last_is_delay or event.is_delay):
            run.setter = run.last
        else:
            self._drop(run.last)

    def _alter_times(self, run: _Run, times: Times) -> None:
        """Drop the last change, which one with other times follows, unless it is the other one."""
        if run.last is not None and run.released is None and run.last_times != run.times:
            self._drop(run.other)
            run.other = run.last
        else:
            self._drop(run.last)
        if times != run.times:
            self._drop(run.other)
            run.other = None

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
