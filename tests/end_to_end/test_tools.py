"""Requests with nc and socat; requests of web clients are rejected."""

import re
import subprocess

import pytest

from tests.end_to_end.daemon import Daemon, environment
from tests.end_to_end.wire import DEADLINE, Wire

REQUESTS = (
    r"SUBMIT echo hi; sleep 0.3\nWAIT {0}\nRESULT {0}\n"
    r"SUBMIT --stdin=5 cat\r\nhello\r\nWAIT {1}\nRESULT {1}\nPING\n"
)

TOOLS = [
    pytest.param("nc -N -U {socket}", "", marks=pytest.mark.needs("nc"), id="nc over the UNIX socket"),
    pytest.param(
        "nc -N 127.0.0.1 {port}", r"AUTH {token}\n", marks=pytest.mark.needs("nc"), id="nc over TCP"
    ),
    pytest.param(
        "socat -t 60 - UNIX-CONNECT:{socket}", "", marks=pytest.mark.needs("socat"), id="socat, UNIX"
    ),
    pytest.param(
        "socat -t 60 - TCP:127.0.0.1:{port}",
        r"AUTH {token}\r\n",
        marks=pytest.mark.needs("socat"),
        id="socat, TCP",
    ),
]


def _shell(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        text=True,
    )


@pytest.mark.parametrize("tool, greeting", TOOLS)
def test_nc_and_socat_get_every_reply(running: Daemon, wire: Wire, tool: str, greeting: str) -> None:
    first = wire.submit("true") + 1
    names = {"socket": running.socket, "port": running.port, "token": running.token}
    text = (greeting + REQUESTS).format(first, first + 1, **names)
    shown = _shell(f"printf '{text}' | {tool.format(**names)}")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.split("\n")
    if greeting:
        assert lines.pop(0).startswith("OK ")
    assert lines[:6] == [
        f"JOB_ID {first}",
        "STATUS COMPLETED 100",
        r'RESULT "hi\n" "" 0',
        f"JOB_ID {first + 1}",
        "STATUS COMPLETED 100",
        'RESULT "hello" "" 0',
    ]
    assert re.fullmatch("OK.*", lines[6])
    assert lines[7:] == [""]


@pytest.mark.needs("nc")
def test_nc_gets_errors(running: Daemon) -> None:
    shown = _shell(f"head -c 100000 /dev/zero | tr '\\0' x | nc -N -U {running.socket}")
    assert shown.stdout.startswith("ERROR LINE_TOO_LONG ")
    shown = _shell(f"printf 'STATUS 1\\nPING\\n' | nc -N 127.0.0.1 {running.port}")
    assert re.fullmatch(r"ERROR AUTH_REQUIRED .*\nOK.*\n", shown.stdout)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("options", ["", "-d 'SUBMIT true'", "-T /etc/hostname", "-X OPTIONS", "-I"])
def test_web_client_is_disconnected(running: Daemon, wire: Wire, options: str) -> None:
    before = wire.ask("LIST --reverse --limit=1")
    wire.line() if before.startswith("JOB ") else None
    for address in (f"http://127.0.0.1:{running.port}/", f"--unix-socket {running.socket} http://localhost/"):
        shown = _shell(f"curl -sS --noproxy '*' --max-time 30 {options} {address}")
        assert shown.returncode not in (0, 28)
        assert shown.stdout == ""
    assert wire.ask("PING").startswith("OK")
