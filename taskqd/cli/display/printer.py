"""Prints tables: rich is loaded only for them."""

import time
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import Any

from taskqd.cli.display.text import USUAL_SIZE


def print_jobs(jobs: Sequence[dict[str, Any]]) -> None:
    """Print jobs as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.jobs(jobs, time.time(), width))


def print_queues(queues: Sequence[dict[str, Any]]) -> None:
    """Print queues as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.queues(queues, width))


def print_schedules(schedules: Sequence[dict[str, Any]]) -> None:
    """Print schedules as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.schedules(schedules, time.time(), width))


def print_tokens(tokens: Sequence[dict[str, Any]]) -> None:
    """Print tokens as a table that fits the width of the terminal."""
    from taskqd.cli.display import tables  # noqa: PLC0415

    _draw(lambda width: tables.tokens(tokens, time.time(), width))


def _draw(table: Callable[[int], Any]) -> None:
    from rich.console import Console  # noqa: PLC0415

    # rich takes every dumb terminal for one of 80 columns, unless it has both. Python 3.10 returns zeros for
    # a terminal that does not know its size, such as a serial line, and rich would draw nothing.
    width, height = (size or usual for size, usual in zip(get_terminal_size(), USUAL_SIZE, strict=True))
    Console(width=width, height=height).print(table(width))
