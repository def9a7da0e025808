"""Lists on terminals and in pipes."""

import os
from pathlib import Path

import pytest

from taskqd.cli.display import printer
from tests.fakes.daemon import FakeDaemon, job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process
from tests.unit.cli.display.samples import EARLIER


def test_table_on_terminal_without_size_is_80_columns_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(printer, "get_terminal_size", lambda: os.terminal_size((0, 0)))  # as on Python 3.10
    printer.print_jobs([{"id": 7, "status": "FAILED", "command": "x" * 200}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].strip().startswith("7 ")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("colours", [True, False])
def test_list_has_colours_on_a_terminal_but_not_with_no_color(tmp_path: Path, colours: bool) -> None:
    found = job(7, "FAILED", 1, submitted_at=EARLIER, queue="default", reason="exit")
    environment = {} if colours else {"NO_COLOR": "1"}
    with (
        FakeDaemon(replies({"LIST": found + b"END 1\r\n"}), tmp_path) as daemon,
        Process(
            daemon.address, "list", "--all", on_terminal=("stdout",), has_stdin=True, **environment
        ) as process,
    ):
        shown = process.end().terminal
    assert (b"\x1b[31mFAILED" in shown) is colours


@pytest.mark.parametrize("verb", ["queues", "schedules"])
def test_piped_lists_are_tab_separated(serve: Serve, call: Call, verb: str) -> None:
    queue = b'QUEUE {"name":"q","slots":2,"busy":1,"paused":false,"pending":0,"running":1,"completed":0,'
    queue += b'"failed":0,"cancelled":0}\r\nEND 1\r\n'
    schedule = b'SCHEDULE {"schedule":3,"every":60,"paused":true,"command":"x"}\r\nEND 1\r\n'
    serve(replies({"QUEUES": queue, "SCHEDULES": schedule}))
    assert b"\t" in call(verb).stdout


def test_table_fits_a_dumb_terminal(tmp_path: Path) -> None:
    found = job(7, "PENDING", None, submitted_at=EARLIER, queue="default", command="x" * 300)
    with (
        FakeDaemon(replies({"LIST": found + b"END 1\r\n"}), tmp_path) as daemon,
        Process(
            daemon.address, "list", "--all", on_terminal=("stdout",), TERM="dumb", COLUMNS="50"
        ) as process,
    ):
        lines = process.end().terminal.decode().splitlines()
    assert [len(line.rstrip()) for line in lines if "x" in line] == [50]
