"""Prints tables to the terminal; the module of their columns is imported only here."""

import sys
import time
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from taskqd.cli.display.text import DEFAULT_SIZE, has_colours

if TYPE_CHECKING:
    from taskqd.cli.display.table import Table


def print_jobs(jobs: Sequence[dict[str, Any]]) -> None:
    """Print jobs as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.make_job_table(jobs, time.time(), width))


def print_queues(queues: Sequence[dict[str, Any]]) -> None:
    """Print queues as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.make_queue_table(queues, width))


def print_schedules(schedules: Sequence[dict[str, Any]]) -> None:
    """Print schedules as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.make_schedule_table(schedules, time.time(), width))


def print_tokens(tokens: Sequence[dict[str, Any]]) -> None:
    """Print tokens as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.make_token_table(tokens, time.time(), width))


def _draw(table: "Callable[[int], Table]") -> None:
    # Python 3.10 returns zeros for a terminal without a size, such as a serial line.
    width = get_terminal_size().columns or DEFAULT_SIZE[0]
    for line in table(width).lines(has_colours(sys.stdout)):
        sys.stdout.write(f"{line}\n")
