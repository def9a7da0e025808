"""``taskq edit``: one request for what was changed in the editor, and a text that is never lost."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from taskqd.cli.commands import edit as edit_module
from taskqd.cli.editor import find_editor
from tests.fakes.daemon import FakeDaemon, Request, data, job, refused
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures

SHOWN: dict[str, Any] = {
    "status": "PENDING",
    "reason": "held",
    "owner": "ana",
    "command": "make",
    "queue": "default",
    "priority": 0,
    "retries": 0,
}


class Daemon:
    """Replies to taskq edit; ``refusals`` are the replies to the first SETs, ``facts`` those of the job."""

    def __init__(self, serve: Serve, **facts: Any) -> None:
        self.facts = {**SHOWN, **facts}
        self.refusals: list[bytes] = []
        self.script = b""
        self.daemon: FakeDaemon = serve(self._answer)

    def _answer(self, request: Request) -> bytes:
        if request.verb == "HELLO":
            return b'TASKQ 1 {"version":"0.10.0","you":{"name":"ana","role":"submit"},"limits":{}}\r\n'
        if request.verb == "OUTPUT":
            offset = int(request.line.rpartition("=")[2])
            return data("script", offset, self.script[offset:])
        if request.verb == "SET" and self.refusals:
            return self.refusals.pop(0)
        return job(7, exit_code=None, **self.facts)

    @property
    def changes(self) -> list[Request]:
        return [request for request in self.daemon.requests if request.verb == "SET"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("VISUAL", raising=False)
    return tmp_path / "tmp"


def editor(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("EDITOR", command)


def kept(place: Path) -> list[str]:
    return [path.read_text() for path in place.rglob("*") if path.is_file()]


def test_edit_sends_what_was_changed_in_one_request(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    daemon = Daemon(serve)
    editor(monkeypatch, "sed -i -e 's/^priority = .*/priority = 7/' -e 's/^make$/make -j\"8\"/'")
    assert call("edit", "7") == (0, b"7\n", "")
    assert [each.line for each in daemon.changes] == [r'SET 7 --priority=7 --command="make -j\"8\""']
    assert list(place.iterdir()) == []


def test_edit_opens_a_private_file_with_the_words_of_visual(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    Daemon(serve)
    editor(monkeypatch, "false")
    note = place.parent / "note"
    monkeypatch.setenv(
        "VISUAL", f'sh -c \'stat -c %a "$2" "$(dirname "$2")" > {note}; echo $1 >> {note}\' sh --wait'
    )
    outcome = call("edit", "7")
    assert note.read_text().split() == ["600", "700", "--wait"]
    assert outcome == (0, b"", "taskq: the file is unchanged; nothing was changed\n")


def test_edit_of_a_script_sends_it_as_a_block(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(serve, script=9, command="a")
    daemon.script = b"echo one\n"
    editor(monkeypatch, "sed -i s/one/two/")
    assert call("edit", "7").code == 0
    [request] = daemon.changes
    assert request == Request('SET 7 --command="a" --script=9', (b"echo two\n",))


def test_edit_of_several_jobs_opens_one_after_the_other(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(serve)
    editor(monkeypatch, "sed -i s/^make$/ls/")
    outcome = call("edit", "7-8", "--json")
    assert [each["id"] for each in json.loads(outcome.stdout)] == [7, 7]
    assert [each.line for each in daemon.changes] == ['SET 7 --command="ls"', 'SET 8 --command="ls"']


@pytest.mark.parametrize(
    "command, said",
    [
        ("true", "the file is unchanged; nothing was changed"),
        ("truncate -s 0", "the file is empty; nothing was changed"),
        ("rm", "the file is empty; nothing was changed"),
        ("sed -i 's/^priority = 0/priority=0/'", "no value is changed; nothing was changed"),
    ],
)
def test_edit_without_a_change_sends_nothing_and_says_so(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, place: Path, command: str, said: str
) -> None:
    daemon = Daemon(serve)
    editor(monkeypatch, command)
    assert call("edit", "7") == (0, b"", f"taskq: {said}\n")
    assert (daemon.changes, list(place.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "line, said",
    [("timeout = 5x", "expected a duration"), ("tiemout = 5", "there is no option 'tiemout'")],
)
def test_wrong_text_is_kept_without_a_terminal(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, place: Path, line: str, said: str
) -> None:
    daemon = Daemon(serve)
    editor(monkeypatch, f"sed -i 's/^timeout =.*/{line}/'")
    outcome = call("edit", "7")
    assert (outcome.code, outcome.stdout, daemon.changes) == (1, b"", [])
    first, last = outcome.stderr.splitlines()
    assert said in first
    assert last.startswith(f"taskq: job 7 was not changed; your text is in {place}/")
    [text] = kept(place)
    assert f"\n{line}\n" in text
    [file] = place.rglob("job-7.conf")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


def test_refused_text_can_be_edited_again(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    daemon = Daemon(serve)
    daemon.refusals = [refused("BAD_REQUEST", "the job could never start")]
    questions: list[tuple[str, bool]] = []

    def confirm(question: str, *, default: bool) -> bool:
        questions.append((question, default))
        return True

    monkeypatch.setattr(edit_module, "confirm", confirm)
    editor(monkeypatch, "sed -i -e 's/^slots = 9/slots = 2/;t' -e 's/^slots = 1/slots = 9/'")
    outcome = call("edit", "7")
    assert outcome == (0, b"7\n", "taskq: the job could never start (BAD_REQUEST)\n")
    assert questions == [("edit again?", True)]
    assert [each.line for each in daemon.changes] == ["SET 7 --slots=9", "SET 7 --slots=2"]
    assert list(place.iterdir()) == []


def test_text_for_a_job_that_has_started_meanwhile_is_kept(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    daemon = Daemon(serve)
    daemon.refusals = [refused("WRONG_STATE", "job 7 is RUNNING")]
    monkeypatch.setattr(edit_module, "confirm", lambda *_, **__: pytest.fail("a question"))
    note = place.parent / "edited"
    editor(monkeypatch, f"sh -c 'sed -i s/^make$/ls/ \"$1\"; touch {note}' sh")
    answer = daemon._answer

    def answer_later(request: Request) -> bytes:
        if note.exists():
            daemon.facts["status"] = "RUNNING"
        return answer(request)

    daemon.daemon._script = answer_later
    outcome = call("edit", "7")
    assert outcome.code == 1
    assert "job 7 is RUNNING (WRONG_STATE)" in outcome.stderr
    assert f"your text is in {place}/" in outcome.stderr
    [text] = kept(place)
    assert text.endswith("\nls\n")


def test_failed_editor_changes_nothing(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    daemon = Daemon(serve)
    editor(monkeypatch, "false")
    assert call("edit", "7") == (1, b"", "taskq: false failed with exit code 1; nothing was changed\n")
    assert (daemon.changes, list(place.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"status": "RUNNING"}, "job 7 is RUNNING; `taskq edit` is only for jobs that have not started"),
        ({"array": 6}, "job 7 is a task of array 6; `taskq edit 6` edits all tasks"),
        ({"tasks": {"pending": 0}}, "job 7 is PENDING; `taskq edit` is only for jobs that have not started"),
    ],
)
def test_job_that_cannot_be_edited_opens_no_editor(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], said: str
) -> None:
    daemon = Daemon(serve, **facts)
    editor(monkeypatch, "sh -c 'exit 9'")
    assert call("edit", "7") == (1, b"", f"taskq: {said} (WRONG_STATE)\n")
    error = {"code": "WRONG_STATE", "text": said}
    assert json.loads(call("edit", "7", "--json").stdout) == {"id": 7, "error": error}
    assert daemon.changes == []


def test_script_that_is_no_text_opens_no_editor(
    serve: Serve, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(serve, script=2)
    daemon.script = b"\0\n"
    editor(monkeypatch, "sh -c 'exit 9'")
    outcome = call("edit", "7")
    assert (outcome.code, daemon.changes) == (1, [])
    assert outcome.stderr.startswith("taskq: the script has NUL bytes, so it is no text; ")


@pytest.mark.parametrize("programs, editor_name", [((), "vi"), (("sensible-editor",), "sensible-editor")])
def test_default_editor_is_the_one_of_debian_or_vi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, programs: tuple[str, ...], editor_name: str
) -> None:
    for name in programs:
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("EDITOR", raising=False)
    assert find_editor() == editor_name
