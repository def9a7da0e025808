"""The message that has a runner start an attempt."""

import os
from pathlib import Path
from typing import Any

import pytest

from taskqd.execution import messages
from taskqd.execution.messages import Start
from taskqd.execution.run import MARK, CannotStart, Owner, Run
from taskqd.execution.start_message import make_start
from tests.fakes.processes import make_run

OUTPUTS = {1: "/state/output/0/1.1.stdout", 2: "/state/output/0/1.1.stderr"}
ORDER = "/state/output/0/1.1.order"


def start_of(run: Run) -> Start:
    """Return the message as the other side of the socket decodes it."""
    message = messages.decode_to_runner(messages.encode(make_start(run, OUTPUTS, ORDER)))
    assert isinstance(message, Start)
    return message


def test_start_has_the_values_of_the_run() -> None:
    options: dict[str, Any] = {"timeout": 1.5, "idle_timeout": 2.0, "kill_after": 3.0, "max_output": 5}
    start = start_of(
        make_run(
            id=7, attempt=2, word="0123456789abcdef", env={"A": "b", MARK: "s.7.2"}, stdin="/in", **options
        )
    )
    assert start.key == (7, 2, "0123456789abcdef")
    assert (start.argv, start.env) == (["/bin/sh", "-c", "true"], {"A": "b", MARK: "s.7.2"})
    assert (start.mark, start.stdin) == ("s.7.2", "/in")
    assert (start.stdout, start.stderr, start.order) == (OUTPUTS[1], OUTPUTS[2], ORDER)
    assert (start.timeout, start.idle_timeout, start.kill_after, start.max_output) == (1.5, 2.0, 3.0, 5)


@pytest.mark.parametrize("data", [b"caf\xe9", "caf\u00e9 \U0001f600".encode(), bytes(range(1, 256))])
def test_start_preserves_the_bytes_of_command_and_environment(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    start = start_of(make_run(command=text, env={"A": text}, stdin=f"/{text}"))
    assert start.argv[-1].encode(start.encoding) == data
    assert start.env["A"].encode(start.encoding) == data
    assert (start.stdin or "").encode(start.encoding) == b"/" + data


def test_start_explains_a_refusal_only_for_jobs_of_the_daemons_user() -> None:
    assert start_of(make_run(cwd="/x")).cwd == "/x"
    assert start_of(make_run(cwd="/x", owner=Owner(1, 1, "/"))).cwd is None
    files: dict[str, Any] = {"stdout": "/a%%%j.%a", "stderr": "/b", "id": 7, "attempt": 2}
    assert start_of(make_run(**files)).redirects == ["/a%7.2", "/b"]
    assert start_of(make_run(stdout="/a", merge=True)).redirects == ["/a"]
    assert start_of(make_run(**files, owner=Owner(1, 1, "/"))).redirects == []
    script: dict[str, Any] = {"command": None, "script": "/s", "interpreter": ("/usr/bin/perl", "-w")}
    assert start_of(make_run(**script)).interpreter == "/usr/bin/perl"


@pytest.mark.parametrize(
    "options, program",
    [({"owner": Owner(1000, 100, "/home/ada")}, "setpriv"), ({"memory": 10**9}, "prlimit")],
)
def test_missing_program_cannot_start(
    options: dict[str, Any], program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotStart, match=f"there is no {program} in the daemon's PATH"):
        start_of(make_run(**options))
    assert os.listdir(tmp_path) == []
