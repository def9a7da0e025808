"""A progress bar for acts on many jobs and waits for them, on a terminal's stderr."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from typing_extensions import Self

MIN_DURATION = 0.3
"""Seconds after which the bar appears: a short act needs none."""
REFRESH_INTERVAL = 0.1
"""Minimum seconds between two updates of the bar."""


class ActProgress:
    """The progress of an act, which ``name`` describes by a participle: "cancelled".

    The bar ``is_patient`` if the time between two updates may be long: then it appears at once.
    Without a terminal nothing is shown. Other output on the same terminal appears above the bar.
    """

    def __init__(self, name: str, *, is_patient: bool = False) -> None:
        self.is_shown = sys.stderr.isatty()
        self._name = name
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._next_at = 0.0 if is_patient else time.monotonic() + MIN_DURATION

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, total: int) -> None:
        """Show how many of a number of jobs are done."""
        if not self.is_shown or time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + REFRESH_INTERVAL
        if self._progress is None:
            self._progress, self._task = _make_bar(self._name, total)
            self._progress.start()
        counts = f"{done:,} of {total:,}"
        self._progress.update(self._task, completed=done, total=total, counts=counts, refresh=True)  # type: ignore[arg-type]


def _make_bar(name: str, total: int) -> "tuple[Progress, TaskID]":
    """Return a bar that is not shown yet; its library is imported only for it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    bar = Progress(
        TextColumn("{task.fields[counts]} jobs {task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    return bar, bar.add_task(name, total=total, counts=f"0 of {total:,}")
