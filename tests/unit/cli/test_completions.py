"""Shell completion, by calls of the functions and in real shells."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem

from taskqd.cli import completions
from taskqd.cli.app import taskq
from taskqd.cli.context import Session
from tests.fakes.daemon import FakeDaemon, Request, job, refused, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import CHECKOUT

QUEUES = b"".join(
    b"QUEUE " + json.dumps({"name": name, "running": 1, "pending": 2}).encode() + b"\r\n"
    for name in ("default", "nightly", "build:fast", "build:slow")
)
TABLE = {
    "LIST": job(12, "RUNNING", command="make\tx, twice") + job(7, command="true") + b"END 2\r\n",
    "LIST --array=12 --limit=200": job(13, index=0) + job(14, index=1) + b"END 2\r\n",
    "HELLO": b'TASKQ 1 {"you":{"name":"ana","role":"submit"}}\r\n',
    "LIST --owner=ana --limit=200 --reverse": b"".join(
        job(number, label=label, key=key)
        for number, (label, key) in enumerate(
            (("a b", "k"), (None, None), ("nightly", None), ("nightly", None), ("x\x1b", None)), 1
        )
    )
    + b"END 5\r\n",
    "QUEUES": QUEUES + b"END 2\r\n",
    "SCHEDULES": b'SCHEDULE {"schedule":3,"command":"./poll"}\r\nEND 1\r\n',
}


def context(command: str, address: str = "") -> click.Context:
    """Return the context of a command line that is being completed."""
    found = taskq.get_command(click.Context(taskq), command)
    assert found
    made = click.Context(found, info_name=command)
    if address:
        made.ensure_object(Session).address = address
    return made


Complete = Callable[[click.Context, str], list[CompletionItem]]


@pytest.mark.parametrize(
    "complete,command,typed,offered",
    [
        (completions.jobs, "show", "", {"12": r"RUNNING make\tx, twice", "7": "COMPLETED true"}),
        (completions.jobs, "show", "1", {"12": r"RUNNING make\tx, twice"}),
        (completions.jobs, "show", "x", {}),
        (completions.jobs, "submit", "3,7", {"3,7": "COMPLETED true"}),
        (completions.jobs, "show", "12.", {"12.0": "COMPLETED true", "12.1": "COMPLETED true"}),
        (completions.jobs, "show", "12.1", {"12.1": "COMPLETED true"}),
        (
            completions.queues,
            "pause",
            "",
            dict.fromkeys(("default", "nightly", "build:fast", "build:slow"), "1 running, 2 pending"),
        ),
        (completions.queues, "pause", "n", {"nightly": "1 running, 2 pending"}),
        (completions.labels, "submit", "", {"a b": None, "nightly": None}),
        (completions.labels, "submit", "n", {"nightly": None}),
        (completions.keys, "submit", "x,", {"x,k": None}),
        (completions.schedules, "unschedule", "", {"3": "./poll"}),
        (completions.schedules, "unschedule", "4", {}),
    ],
)
def test_completion_queries_the_daemon(
    serve: Serve, complete: Complete, command: str, typed: str, offered: dict[str, str]
) -> None:
    daemon = serve(replies(TABLE))
    items = complete(context(command, daemon.address), typed)
    assert {item.value: item.help for item in items} == offered


@pytest.mark.parametrize("command", completions.APPLICABLE)
def test_completion_offers_jobs_that_the_command_applies_to(serve: Serve, command: str) -> None:
    daemon = serve(replies(TABLE))
    completions.jobs(context(command, daemon.address), "")
    assert daemon.lines == [
        f"LIST --status={','.join(completions.APPLICABLE[command])} --limit=200 --reverse"
    ]


@pytest.mark.parametrize(
    "typed,offered",
    [("c", ["COMPLETED", "CANCELLED"]), ("FAILED,RU", ["FAILED,RUNNING"]), ("x", [])],
)
def test_completion_of_statuses_needs_no_daemon(typed: str, offered: list[str]) -> None:
    assert [item.value for item in completions.job_statuses(context("list"), typed)] == offered


def test_completion_without_daemon_is_empty() -> None:
    assert completions.jobs(context("show", "unix:/nowhere"), "") == []


def test_completion_after_refusal_is_empty(serve: Serve) -> None:
    daemon = serve(lambda _: refused("WRONG_STATE", "job 7 is no array"))
    assert completions.jobs(context("show", daemon.address), "7.") == []


def test_completion_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(request: Request) -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield b""

    monkeypatch.setattr(completions, "REPLY_TIMEOUT", 0.05)
    with FakeDaemon(never, tmp_path) as daemon:
        assert completions.queues(context("pause", daemon.address), "") == []


@pytest.mark.parametrize(
    "shell,part", [("bash", "complete -o nosort"), ("zsh", "#compdef taskq"), ("fish", "complete --no-files")]
)
def test_completions_prints_script_of_each_shell(call: Call, shell: str, part: str) -> None:
    code, script, _ = call("completions", shell)
    assert code == 0
    assert part in script.decode()
    assert call("completions", shell, "--json").documents == [
        {"shell": shell, "script": script.decode()[:-1]}
    ]


def test_completions_rejects_other_shells(call: Call) -> None:
    assert call("completions", "tcsh").code == 2


@pytest.mark.needs("bash")
@pytest.mark.parametrize(
    "words,offered",
    [
        ("follow ''", "12 7"),
        ("cancel 1", "12"),
        ("show 12.", "12.0 12.1"),
        ("submit --after 3,", "3,12 3,7"),
        ("submit --queue n", "nightly"),
        ("list --queue ''", "default nightly build:fast build:slow"),
        ("list --queue build:f", "fast"),
        ("list --queue=build:f", "fast"),
        ("pause build:", "fast slow"),
        ("submit --secret TASKQ_ADD", "TASKQ_ADDRESS"),
        ("submit --env TASKQ_ADD", "TASKQ_ADDRESS"),
        ("submit --inherit", "--inherit-env"),
        ("submit quux", "quux-one quux-two"),
        ("run --label x quux", "quux-one quux-two"),
        ("schedule --every 1h quux", "quux-one quux-two"),
        ("list --status P", "PENDING"),
        ("cancel --status PENDING,R", "PENDING,RUNNING"),
        ("cancel --queue d", "default"),
        ("pause ''", "default nightly build:fast build:slow"),
        ("pause --schedule ''", "3"),
        ("unschedule ''", "3"),
        ("watch --job 7", "7"),
        ("completions ''", "bash zsh fish"),
        ("foll", "follow"),
    ],
)
def test_bash_completes_a_line(tmp_path: Path, words: str, offered: str) -> None:
    line = f"""eval "$(taskq completions bash)"
    COMP_LINE="taskq {words.replace("''", "")}"; COMP_POINT=${{#COMP_LINE}}
    _taskq_completion taskq; echo "${{COMPREPLY[*]}}" """
    assert shell_output(tmp_path, "bash", "--norc", "-c", line) == offered


@pytest.mark.needs("bash")
@pytest.mark.parametrize(
    "typed,completed",
    [
        ("pause build:f", "pause build:fast "),
        ("list --queue=build:f", "list --queue=build:fast "),
        ("submit quux-o", "submit quux-one "),
        ("submit cat LIC", "submit cat LICENSE "),
        ("submit cat -x LIC", "submit cat -x LICENSE "),
        ("submit ./LIC", "submit ./LICENSE "),
        ("submit --script LIC", "submit --script LICENSE "),
        ("submit -C doc", "submit -C docs/"),
    ],
)
def test_tab_in_an_interactive_bash_completes_the_line(tmp_path: Path, typed: str, completed: str) -> None:
    """The keys after TAB make the line an argument of printf: Ctrl-A goes to its start."""
    keys = f"taskq {typed}\t'\x01printf '<%s>' '\n".encode()
    script = """eval "$(taskq completions bash)"; bind 'set bell-style none'; PS1= PS2="""
    (tmp_path / "bashrc").write_text(script)
    output = shell_output(tmp_path, "bash", "--rcfile", str(tmp_path / "bashrc"), "-i", keys=keys)
    assert f"<taskq {completed}>" in output


@pytest.mark.needs("bash")
def test_word_after_the_program_is_no_option_of_taskq(tmp_path: Path) -> None:
    line = """COMP_WORDS="taskq submit ls --la" _TASKQ_COMPLETE=bash_complete taskq"""
    assert shell_output(tmp_path, "bash", "--norc", "-c", line) == "file,--la"


@pytest.mark.needs("fish")
@pytest.mark.parametrize(
    "line,offered",
    [
        ("taskq follow ", "12\tRUNNING make\\tx, twice\n7\tCOMPLETED true"),
        ("taskq submit --after 3,", "3,12\tRUNNING make\\tx, twice\n3,7\tCOMPLETED true"),
        ("taskq pause n", "nightly\t1 running, 2 pending"),
        ("taskq pause build:f", "build:fast\t1 running, 2 pending"),
        ("taskq submit quux", "quux-one\nquux-two"),
        ("taskq submit cat LIC", "LICENSE"),
    ],
)
def test_fish_completes_a_line_with_help_in_order(tmp_path: Path, line: str, offered: str) -> None:
    assert (
        shell_output(tmp_path, "fish", "-c", f"taskq completions fish | source; complete -C '{line}'")
        == offered
    )


@pytest.mark.needs("zsh")
@pytest.mark.parametrize(
    "typed,completed",
    [
        ("pause build:f", "pause build:fast "),
        ("submit quux-o", "submit quux-one "),
        ("submit cat LIC", "submit cat LICENSE "),
    ],
)
def test_tab_in_an_interactive_zsh_completes_the_line(tmp_path: Path, typed: str, completed: str) -> None:
    (tmp_path / ".zshrc").write_text(
        'autoload -U compinit; compinit -u -D; eval "$(taskq completions zsh)"; unsetopt beep; PS1=; PS2=\n'
        "bindkey -e\n"
    )
    keys = f"taskq {typed}\t'\x01printf '<%s>' '\n".encode()
    assert f"<taskq {completed}>" in shell_output(tmp_path, "zsh", "-i", keys=keys)


def shell_output(tmp_path: Path, *shell: str, keys: bytes = b"") -> str:
    """Run a command in a shell with taskq and a daemon; return its output.

    With ``keys`` the shell has a terminal: they are typed when its prompt appears, and exit afterwards.
    """
    (tmp_path / "taskq").write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from taskqd.cli import main; main()' \"$@\"\n"
    )
    for name in ("taskq", "quux-one", "quux-two"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o755)
    with FakeDaemon(replies(TABLE), tmp_path) as daemon:
        environment = {
            "PATH": f"{tmp_path}:/bin:/usr/bin",
            "HOME": str(tmp_path),
            "TASKQ_ADDRESS": daemon.address,
            "PYTHONPATH": str(CHECKOUT),
            "TERM": "dumb",
        }
        if keys:
            return _typed_in_a_terminal(shell, environment, keys)
        done = subprocess.run(
            shell, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
        )
    assert done.stderr == ""
    return done.stdout.strip()


def _typed_in_a_terminal(shell: Sequence[str], environment: dict[str, str], keys: bytes) -> str:
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        shell,
        cwd=CHECKOUT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, keys + b"exit\n")
    output = b""
    with suppress(OSError):  # EIO: the shell has ended
        while piece := os.read(ours, 4096):
            output += piece
    os.close(ours)
    started.wait()
    return output.decode()
