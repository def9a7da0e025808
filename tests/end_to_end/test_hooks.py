"""The hooks in etc/hooks, run by a daemon's [on_end] with programs that record what they get."""

import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import CHECKOUT
from tests.end_to_end.wire import until

HOOKS = CHECKOUT / "etc" / "hooks"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a directory with a sendmail and a notify-send that write down arguments and stdin."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in ("sendmail", "notify-send"):
        program = directory / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/arguments\ncat >{tmp_path}/part && '
            f"mv {tmp_path}/part {tmp_path}/stdin\n"
        )
        program.chmod(0o755)
    return directory


def read_when_there(path: Path) -> bytes:
    until(path.exists, f"the file {path.name}")
    return path.read_bytes()


def test_mail_goes_to_the_address_with_status_and_command(
    daemon: DaemonFactory, programs: Path, tmp_path: Path
) -> None:
    one = daemon("--on-end-command", f"PATH={programs}:$PATH {HOOKS}/mail ana@example.org")
    one.connect().submit("echo gr\\xC3\\xBC\\xC3\\x9Fe; exit 3")
    mail = message_from_bytes(read_when_there(tmp_path / "stdin"), policy=policy.default)
    assert mail["To"] == "ana@example.org"
    assert mail["Subject"].startswith("job 1 FAILED (exit 3): echo")
    assert "taskq result 1" in mail.get_content()
    assert (tmp_path / "arguments").read_text().split() == ["-t", "-i"]


def test_desktop_notification_is_critical_if_a_job_failed(
    daemon: DaemonFactory, programs: Path, tmp_path: Path
) -> None:
    one = daemon("--on-end-command", f"PATH={programs}:$PATH {HOOKS}/desktop")
    one.connect().submit("--label=nightly false")
    read_when_there(tmp_path / "stdin")
    assert (tmp_path / "arguments").read_text().splitlines() == [
        *("--urgency", "critical", "job 1 FAILED", "nightly")
    ]


@pytest.fixture
def topic() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """Return the URL of a server on loopback, and the notifications that it gets."""
    received: list[tuple[str, str, bytes]] = []

    class Topic(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers["Title"], self.headers["Priority"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Topic)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/jobs", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_ntfy_gets_title_priority_and_text(
    daemon: DaemonFactory, topic: tuple[str, list[tuple[str, str, bytes]]]
) -> None:
    url, received = topic
    one = daemon("--on-end-command", f"{HOOKS}/ntfy {url}")
    one.connect().submit("true")
    until(lambda: received, "the notification")
    assert received == [("taskq job 1", "3", b"COMPLETED: true")]
