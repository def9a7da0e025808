"""Jobs that wait get another command or script; a crash leaves them with one of them."""

from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire
from tests.support.command_line import Process

EDITOR = (
    "sed -i -e 's/^priority = x/priority = 7/;t' -e 's/^priority = 0/priority = x/' -e 's/echo one/echo two/'"
)
"""An editor that makes a mistake, and corrects it when it is called again."""


def test_changed_script_survives_a_crash_and_no_other_file_is_left(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--hold --stdin=2 --script=8", b"echo old", b"in")
    other = wire.submit("--hold --script=5", b"false")
    script = b"#!/bin/sh\necho new $1; cat"
    wire.send(b"SET %d --label=x --script=%d --command=arg\r\n%b\r\n" % (job, len(script), script))
    shown = wire.read_job()
    assert (shown["command"], shown["label"], shown["script_line"]) == ("arg", "x", "echo new $1; cat")
    assert wire.ask(f'SET {other} --command="echo \\"y\\""').startswith("JOB {")

    one.crash()
    files = one.state / "input" / "0"
    assert _names(files) == [f"{job}.1.script", f"{job}.stdin"]
    for left in (f"{job}.script", f"{other}.1.script"):  # of a crash before or after the event
        (files / left).write_text("echo left")
    one.start()

    assert _names(files) == [f"{job}.1.script", f"{job}.stdin"]
    wire = one.connect()
    assert wire.output(job, "script").data == script
    for each, printed in ((job, b"new arg\nin"), (other, b"y\n")):
        assert wire.ask(f"RELEASE {each}").startswith("STATUS ")
        wire.wait(each)
        assert wire.result(each).stdout == printed
        assert wire.ask(f"SET {each} --command=id").startswith("ERROR WRONG_STATE ")
    assert [event["spec"]["command"] for event in wire.history(other) if event["type"] == "changed"] == [
        'echo "y"'
    ]
    assert wire.ask(f"REMOVE {job}") == "OK"
    one.stop()
    assert not files.exists()


def test_mistake_in_the_editor_is_corrected_and_all_is_changed_at_once(
    running: Daemon, wire: Wire, tmp_path: Path
) -> None:
    job = wire.submit("--hold --script=8 x", b"echo one")
    with Process(
        f"unix:{running.socket}",
        *("edit", str(job)),
        on_terminal=("stdin", "stdout", "stderr"),
        EDITOR=EDITOR,
        TMPDIR=str(tmp_path),
    ) as taskq:
        assert b"expected a whole number" in taskq.read("terminal", b"edit again? [Y/n] ")
        taskq.type(b"\n")
        assert taskq.end().code == 0
    shown = wire.show(job)
    assert (shown["priority"], shown["command"], shown["script_line"]) == (7, "x", "echo two")
    assert [event["type"] for event in wire.history(job)] == ["submitted", "changed"]
    assert _names(tmp_path) == []


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
