"""Prints tables to the terminal; rich is imported only here."""

import time
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import Any

from taskqd.cli.display.text import DEFAULT_SIZE


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


def _draw(table: Callable[[int], Any]) -> None:
    from rich.console import Console  # noqa: PLC0415

    # Without both numbers, rich assumes 80 columns for dumb terminals. Python 3.10 returns zeros for a
    # terminal without a size, such as a serial line, and rich would draw nothing.
    width, height = (size or default for size, default in zip(get_terminal_size(), DEFAULT_SIZE, strict=True))
    Console(width=width, height=height).print(table(width))
