"""Starting the daemon: in the background, from a settings file, and with mistakes in options or file."""

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


def test_help_lists_the_options() -> None:
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


def test_background_daemon_has_a_pid_file_and_a_log_and_stops_by_its_pid(daemon: DaemonFactory) -> None:
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
    """Write a settings file and make it the daemon's only option; return its path."""
    file = one.place / "taskqd.toml"
    file.write_text(text)
    one.options = ["--config", str(file)]
    return str(file)


def test_settings_file_is_used_and_options_override_it(daemon: DaemonFactory) -> None:
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
def test_mistake_in_the_file_is_reported_in_one_line_with_file_and_key(
    daemon: DaemonFactory, text: str, key: str
) -> None:
    one = daemon(start=False)
    file = _settings(one, text)
    code, output = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in output
    [shown] = [line for line in output.splitlines() if file in line]
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
def test_mistake_in_an_option_is_reported_without_a_traceback(
    daemon: DaemonFactory, options: list[str]
) -> None:
    one = daemon(*options, start=False)
    code, output = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in output
    assert any(option in output for option in options) or options == ["extra"], output
    assert not one.socket.exists()


def test_state_directory_that_cannot_be_made_is_reported_in_one_line(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    (one.place / "file").write_text("")
    one.options[one.options.index("--state") + 1] = f"{one.place}/file/state"
    code, output = one.refused()
    assert code not in (0, None)
    assert "Traceback" not in output
    assert len([line for line in output.splitlines() if f"{one.place}/file/state" in line]) == 1


def test_port_in_use_is_reported_in_one_line(daemon: DaemonFactory) -> None:
    one, other = daemon(tcp=True), daemon(tcp=True, start=False)
    other.options[-1] = f"tcp:{one.port}:interface=127.0.0.1"
    code, output = other.refused()
    assert code not in (0, None)
    assert "Traceback" not in output
    assert len([line for line in output.splitlines() if str(one.port) in line]) == 1, output
    assert one.connect_tcp().ask("STATS").startswith("STATS ")
