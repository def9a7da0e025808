"""How an operator starts it: as a system daemon, from a file of settings, and with a mistake in them."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import TWISTD, Command, Daemon, environment
from tests.end_to_end.wire import DEADLINE, until


def _twistd(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [TWISTD, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_the_help_is_a_page_worth_reading() -> None:
    shown = _twistd("taskq", "--help")
    assert shown.returncode == 0
    for option in (
        "--state",
        "--listen",
        "--slots",
        "--stop-grace",
        "--on-stop",
        "--retention-age",
        "--config",
    ):
        assert option in shown.stdout
    assert len(shown.stdout.splitlines()) > 15


def test_it_daemonizes_with_a_pid_file_and_a_log_and_stops_by_its_pid(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    command: Command = [
        TWISTD,
        f"--pidfile={one.pid_file}",
        f"--logfile={one.place}/twistd.log",
        "taskq",
        *one.options,
    ]
    with one.launch(command) as process:
        assert process.wait(DEADLINE) == 0
    until(lambda: one.pid_file.exists() and one.pid_file.read_text().strip(), "the pid file")
    one.started_elsewhere(int(one.pid_file.read_text()))
    until(one.answers, "the daemon to answer")
    wire = one.connect()
    assert wire.run("umask; pwd > /dev/null; echo hi") == (b"0022\nhi\n", b"", "0")
    running = wire.submit("sleep 300")
    wire.wait_running(running)
    assert one.stop() is None
    assert not one.pid_file.exists()
    assert not one.processes()
    log = (one.place / "twistd.log").read_text()
    assert "taskq" in log
    assert "Traceback" not in log


def _settings(one: Daemon, text: str) -> str:
    """Write a file of settings and make it the daemon's only option; return its path."""
    file = one.place / "taskqd.toml"
    file.write_text(text)
    one.options = ["--config", str(file)]
    return str(file)


def test_a_file_may_hold_every_setting_and_options_win_over_it(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    _settings(
        one,
        f'state = "{one.state}"\nlisten = ["unix:{one.socket}"]\nslots = 3\nstop-grace = "0.1s"\n'
        'on-stop = "requeue"\n[retention]\nage = "1d"\ncount = 7\n',
    )
    for options, slots in [([], 3), (["--slots", "1"], 1)]:
        one.options += options
        one.start()
        wire = one.connect()
        jobs = [wire.submit("sleep 300") for _ in range(5)]
        until(lambda: len(wire.list("--status=RUNNING")) == slots, f"{slots} jobs to run")  # noqa: B023
        wire.cancel(*jobs)
        one.stop()


MISTAKES = [
    ('slots = "many"', "slots"),
    ("slots = 0", "slots"),
    ("slots = -1", "slots"),
    ("sluts = 2", "sluts"),
    ("state = 5", "state"),
    ('listen = ["nonsense:here"]', "listen"),
    ("listen = 5", "listen"),
    ('stop-grace = "soon"', "stop-grace"),
    ('on-stop = "explode"', "on-stop"),
    ("retention = 5", "retention"),
    ("[retention]\ncount = -1", "retention-count"),
    ("[retention]\nages = 5", "retention-ages"),
    ("slots = = 2", "1"),  # the number of the line
]


@pytest.mark.parametrize("text, key", MISTAKES)
def test_a_mistake_in_the_file_is_one_line_with_file_and_key(
    daemon: DaemonFactory, text: str, key: str
) -> None:
    one = daemon(start=False)
    file = _settings(one, text)
    code, said = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in said
    [shown] = [line for line in said.splitlines() if file in line]
    assert re.search(rf"\b{key}\b", shown.replace(file, "")), shown


@pytest.mark.parametrize(
    "options",
    [
        ["--slots", "many"],
        ["--slots", "0"],
        ["--listen", "nonsense:here"],
        ["--bogus"],
        ["--config", "/nonexistent.toml"],
        ["extra"],
    ],
)
def test_a_mistake_in_an_option_is_said_without_a_traceback(
    daemon: DaemonFactory, options: list[str]
) -> None:
    one = daemon(*options, start=False)
    code, said = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in said
    assert any(option in said for option in options) or options == ["extra"], said
    assert not one.socket.exists()


def test_a_state_that_cannot_be_made_is_said_in_one_line(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    (one.place / "file").write_text("")
    one.options[one.options.index("--state") + 1] = f"{one.place}/file/state"
    code, said = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if f"{one.place}/file/state" in line]) == 1


def test_a_port_that_is_taken_is_said_in_one_line(daemon: DaemonFactory) -> None:
    one, other = daemon(tcp=True), daemon(tcp=True, start=False)
    other.options[-1] = f"tcp:{one.port}:interface=127.0.0.1"
    code, said = other.refused()
    assert code not in (0, None)
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if str(one.port) in line]) == 1, said
    assert one.connect_tcp().ask("STATS").startswith("STATS ")
