"""Pending jobs as text to edit: what is changed in it is what is changed in the job."""

from typing import Any

import pytest

from taskqd.cli import job_options, job_text
from taskqd.errors import BadRequest

PLAIN: dict[str, Any] = {
    "id": 7,
    "status": "PENDING",
    "reason": "held",
    "owner": "ana",
    "command": "make -j4",
    "queue": "default",
    "priority": 0,
    "label": None,
    "retries": 0,
    "timeout": None,
}
FULL: dict[str, Any] = {
    **PLAIN,
    "label": ' "odd"\n',
    "slots": 2,
    "need": {"gpu": 1, "disk": 20},
    "timeout": 5400.0,
    "kill_after": 0.5,
    "retry_on": ["exit:75", "signal:KILL"],
    "memory": 512 * 1024**2,
    "max_output": 1000,
    "merge": True,
    "nice": 5,
    "tz": "UTC",
    "at": "2126-11-24T07:00:00.000Z",
    "after": [3, 4],
    "cwd": "/d\x1b",
    "env": {"B": "hidden", "A": "hidden"},
    "secrets": ["TOKEN"],
    "after_label": "a b",
    "stdout": "/d/%j",
    "interactive": True,
    "environment": {"size": 9, "sha256": "0" * 64, "names": ["hidden"]},
}


def text_of(job: dict[str, Any], script: bytes | None = None, *, is_own: bool = True) -> str:
    return job_text.write(job, script, is_own)


def changes(before: str, *edits: tuple[str, str]) -> dict[str, Any]:
    after = before
    for old, new in edits:
        assert after.count(old) == 1, (old, after)
        after = after.replace(old, new)
    options, executed = job_text.read(before).changes(job_text.read(after))
    return {**job_options.parse_changes(options), **executed}


def test_text_has_the_values_and_the_command_and_no_secret_text() -> None:
    text = text_of(FULL)
    assert text.startswith("# job 7, PENDING (held), of ana\n")
    for line in (
        'label = " \\"odd\\"\\n"',
        "slots = 2",
        "need = gpu:1,disk:20",
        "timeout = 1h30min",
        "kill-after = 0.5s",
        "retry-on = exit:75,signal:KILL",
        "memory = 512M",
        "max-output = 1000",
        "merge = true",
        "delay =",
        "idle-timeout =",
        "retry-delay-max = 1h",
        (
            "# not changeable: after 3,4; after_label a b; cwd /d\\x1B; stdout /d/%j; interactive; env A,B; "
            "secrets TOKEN; environment inherited"
        ),
    ):
        assert f"\n{line}\n" in text
    assert text.endswith("\n\n--- command ---\nmake -j4\n")
    assert "hidden" not in text


@pytest.mark.parametrize("job", [PLAIN, FULL])
def test_unchanged_text_changes_nothing(job: dict[str, Any]) -> None:
    assert changes(text_of(job)) == {}
    assert changes(text_of(job), ("retries = 0", "retries=0  ")) == {}
    assert changes(text_of(job), ("retries = 0\n", "")) == {}


@pytest.mark.parametrize(
    "line, new, changed",
    [
        ("priority = 0", "priority = 7", {"priority": 7}),
        ("timeout = 1h30min", "timeout =", {"timeout": "none"}),
        ("timeout = 1h30min", "timeout = 2 h", {"timeout": "7200"}),
        ("need = gpu:1,disk:20", "need =", {"need": "none"}),
        ("retry-on = exit:75,signal:KILL", "retry-on = exit:2", {"retry_on": "exit:2"}),
        ("memory = 512M", "memory = 1.5G", {"memory": "1610612736"}),
        ("merge = true", "merge = false", {"merge": False}),
        ('label = " \\"odd\\"\\n"', "label =", {"label": ""}),
        ('label = " \\"odd\\"\\n"', 'label = "a\\tb"', {"label": "a\tb"}),
        ("delay =", "delay = 10m", {"delay": "10m"}),
        ("tz = UTC", "tz =", {"tz": "none"}),
        ("make -j4", "make -j8 > log", {"command": "make -j8 > log"}),
        ("make -j4", "a\nb", {"command": "a\nb"}),
        ("make -j4", "\n make \n\n", {"command": " make "}),
        ("--- command ---\nmake -j4", "--- script ---\n\nls", {"script": b"\nls\n"}),
    ],
)
def test_changed_line_is_a_change(line: str, new: str, changed: dict[str, Any]) -> None:
    assert changes(text_of(FULL), (f"\n{line}\n", f"\n{new}\n")) == changed


def test_time_is_local_and_that_of_a_delay_is_shown() -> None:
    delayed = {**PLAIN, "reason": "delayed", "not_before": "2126-11-24T07:00:00.000Z"}
    before = text_of(delayed)
    [line] = [line for line in before.splitlines() if line.startswith("at = ")]
    assert changes(before, (line, "at =")) == {"at": "none"}
    assert changes(before, (line, line[:-8] + "00:00:00"))["at"].startswith("2126-11-2")


@pytest.mark.parametrize("script", [b"#!/bin/sh\necho \xff\n", b"echo $1"])
def test_script_is_a_change_only_if_it_or_its_arguments_are_changed(script: bytes) -> None:
    before = text_of({**PLAIN, "script": len(script), "command": "a b"}, script)
    assert before.endswith(script.decode("utf-8", "surrogateescape").rstrip("\n") + "\n")
    assert changes(before) == {}
    whole = script.rstrip(b"\n") + b"\n"
    assert changes(before, ("arguments = a b", "arguments = c")) == {"script": whole, "command": "c"}
    assert changes(before, ("arguments = a b", "arguments =")) == {"script": whole}
    changed = changes(before, ("echo ", "printf "))
    assert changed == {"script": whole.replace(b"echo", b"printf"), "command": "a b"}
    as_command = (("arguments = a b\n", ""), ("--- script ---", "--- command ---"))
    assert changes(before, *as_command)["command"] == whole.decode("utf-8", "surrogateescape").rstrip("\n")


def test_command_of_another_user_is_a_comment() -> None:
    before = text_of({**PLAIN, "command": "x\x1b"}, is_own=False)
    assert before.endswith("# Only its owner may change the command: x\\x1B\n")
    assert changes(before, ("priority = 0", "priority = 2")) == {"priority": 2}
    assert "(a script)" in text_of({**PLAIN, "command": None, "script": 3}, is_own=False)


@pytest.mark.parametrize(
    "line, new, part",
    [
        ("priority = 0", "priority =", "priority needs a value"),
        ("priority = 0", "prio = 3", "line 5: there is no option 'prio'"),
        ("priority = 0", "priority: 3", "line 5: expected NAME = VALUE"),
        ("priority = 0", 'priority = "3', "line 5: expected text between quotation marks"),
        ("priority = 0", "priority = 1\npriority = 2", "line 6: priority is there twice"),
        ("priority = 0", "arguments = x", "only a script has arguments"),
        ("--- command ---\nmake -j4", "--- command ---\n \n", "the command is empty"),
        ("--- command ---\nmake -j4", "--- script ---\n", "the command is empty"),
    ],
)
def test_wrong_text_is_refused(line: str, new: str, part: str) -> None:
    with pytest.raises(BadRequest, match=part):
        changes(text_of(PLAIN), (f"\n{line}\n", f"\n{new}\n"))


def test_text_without_its_last_part_keeps_the_command() -> None:
    assert changes(text_of(PLAIN), ("\n--- command ---\nmake -j4\n", "")) == {}


def test_text_has_a_line_for_each_option_that_can_be_changed() -> None:
    lines = {line.partition(" =")[0] for line in text_of(PLAIN).splitlines() if " =" in line}
    changeable = {name.replace("_", "-") for name in job_options.CHANGEABLE}
    assert lines == changeable - {"command", "script"}
