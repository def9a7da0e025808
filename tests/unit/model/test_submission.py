"""The encoding of secrets as a block, and changes of schedules."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskqd.model.spec import DEFAULT_SPEC, NamedDependencies, Spec
from taskqd.model.submission import (
    MAX_LINE,
    RescheduleRequest,
    SimilarSubmissions,
    first_line_of,
    observes_other_jobs,
    pack_secrets,
    unpack_secrets,
)

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
VALUES = st.binary(max_size=20).map(
    lambda value: value.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)


@pytest.mark.covers
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5))
def test_packed_secrets_are_unpacked_again(values: dict[str, str]) -> None:
    assert unpack_secrets(pack_secrets(values), values) == values


def test_packed_secrets_have_the_form_of_an_environment() -> None:
    assert pack_secrets({"B": "2=3\n", "A": "\udcff"}) == b"A=\xff\0B=2=3\n\0"


def test_equal_secrets_are_equal_blocks_in_any_order() -> None:
    assert pack_secrets({"A": "1", "B": "2"}) == pack_secrets({"B": "2", "A": "1"})
    assert pack_secrets({"A": "1"}) != pack_secrets({"A": "2"})


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"A=1\0",
        b"A=1\0B=2",
        b"A=1\0B=2\0C=3\0",
        b"A=1\0C=2\0",
        b"A=1\0B\0",
        b"B=2\0A=1\0",
        b"A=1\0\0B=2\0",
    ],
)
def test_unpack_of_a_wrong_block_raises_an_error_without_its_content(block: bytes) -> None:
    with pytest.raises(ValueError, match="expected the values of A, B, but the file has others") as refusal:
        unpack_secrets(block, ("A", "B"))
    assert "1" not in str(refusal.value)


SPEC = Spec(env={"A": "1", "B": "2"}, env_base64={"C": b"\xff"}, cwd="/a", label="x", unless="x", retries=1)


@pytest.mark.parametrize(
    "values, changed",
    [
        ({}, SPEC),
        ({"retries": 0, "timeout": 5.0}, replace(SPEC, retries=0, timeout=5.0)),
        ({"env": {"A": "3", "C": "c"}}, replace(SPEC, env={"A": "3", "B": "2", "C": "c"}, env_base64={})),
        (
            {"env": {}, "env_base64": {"A": b"\xfe"}},
            replace(SPEC, env={"B": "2"}, env_base64={"A": b"\xfe", "C": b"\xff"}),
        ),
        ({"cwd": "/b"}, replace(SPEC, cwd="/b")),
        ({"cwd_base64": b"/\xff"}, replace(SPEC, cwd=None, cwd_base64=b"/\xff")),
        ({"unless": "y"}, replace(SPEC, label="y", unless="y")),
        ({"unless": "y", "label": "z"}, replace(SPEC, label="z", unless="y")),
        ({"unless": None}, replace(SPEC, unless=None)),
        ({"stdin": 5}, replace(SPEC, stdin=5)),
        ({"script": 5}, replace(SPEC, script=5)),
        (
            {"secrets": ("A", "C", "K")},
            replace(SPEC, env={"B": "2"}, env_base64={}, secrets=("A", "C", "K")),
        ),
    ],
)
def test_change_of_a_schedule_keeps_what_it_does_not_name(values: dict[str, Any], changed: Spec) -> None:
    assert RescheduleRequest(schedule=1, values=values).change(SPEC) == changed


SCRIPT = Spec(script=9, script_line="a", stdin=5, blocks="0f", secrets=("K", "L"))


@pytest.mark.parametrize(
    "change, command, changed",
    [
        (RescheduleRequest(schedule=1, every=60.0), "x y", SCRIPT),
        (RescheduleRequest(schedule=1, command="ls"), "ls", replace(SCRIPT, script=None, script_line=None)),
        (
            RescheduleRequest(schedule=1, values={"script": 7}),
            "",
            replace(SCRIPT, script=7, script_line=None),
        ),
        (
            RescheduleRequest(schedule=1, command="z", values={"script": 7, "stdin": 0}),
            "z",
            replace(SCRIPT, script=7, script_line=None, stdin=0),
        ),
        (
            RescheduleRequest(schedule=1, values={"env": {"K": "1"}}),
            "x y",
            replace(SCRIPT, env={"K": "1"}, secrets=("L",)),
        ),
        (
            RescheduleRequest(schedule=1, values={"secrets": ("A",)}),
            "x y",
            replace(SCRIPT, secrets=("A", "K", "L")),
        ),
    ],
)
def test_change_of_a_script_replaces_its_arguments_and_a_command_replaces_both(
    change: RescheduleRequest, command: str, changed: Spec
) -> None:
    assert change.change_command("x y") == command
    assert change.change(SCRIPT) == changed


def test_blocks_of_a_spec_are_named() -> None:
    assert DEFAULT_SPEC.block_names == ()
    assert SCRIPT.block_names == ("script", "stdin", "secret")
    assert Spec(stdin=0).block_names == ("stdin",)


def test_exclusive_label_does_not_replace_another_label() -> None:
    change = RescheduleRequest(schedule=1, values={"unless": "y"}).change
    assert change(Spec(label="nightly")) == Spec(label="nightly", unless="y")
    assert change(DEFAULT_SPEC) == Spec(label="y", unless="y")


@pytest.mark.parametrize(
    "script, line",
    [
        (b"cd /x\nmake\n", "cd /x"),
        (b"make", "make"),
        (b"#!/bin/sh -e\n\n  make -j4 \r\nexit", "make -j4"),
        (b"\n \t\r\n# build it\n", "# build it"),
        (b"\n#!/bin/sh\nmake", "#!/bin/sh"),
        (b"a\rb\0\x1b[2J", "a\rb\0\x1b[2J"),
        (b"caf\xc3\xa9 \xff", "caf\xe9 \ufffd"),
        (b"x" * 100, "x" * MAX_LINE),
        ("\N{SNAKE}".encode() * 100, "\N{SNAKE}" * MAX_LINE),
        (b"x" * 79 + b" y", "x" * 79),
        (b"#!/bin/true", None),
        (b" \n\t\r\n", None),
        (b"", None),
    ],
)
def test_first_line_of_a_script_is_the_first_that_is_not_blank_behind_its_interpreter(
    script: bytes, line: str | None
) -> None:
    assert first_line_of(script) == line


def test_similar_submissions_are_taken_apart() -> None:
    spec = Spec(priority=3)
    alone = [SimilarSubmissions(spec, ["a"]), SimilarSubmissions(spec, ["b"])]
    assert list(SimilarSubmissions(spec, ["a", "b"]).each()) == alone


@pytest.mark.parametrize(
    "changed, is_other",
    [
        (RescheduleRequest(schedule=1, command="true"), True),
        (RescheduleRequest(schedule=1, values={"cwd": "/"}), True),
        (RescheduleRequest(schedule=1, values={"stdout": "/"}), True),
        (RescheduleRequest(schedule=1, values={"script": 1}), True),
        (RescheduleRequest(schedule=1, values={"stdin": 1}), True),
        (RescheduleRequest(schedule=1, values={"secrets": ("A",)}), True),
        (RescheduleRequest(schedule=1, values={"priority": 3}, every=60.0), False),
    ],
)
def test_change_of_a_schedule_changes_what_jobs_execute(changed: RescheduleRequest, is_other: bool) -> None:
    assert changed.changes_execution is is_other


def test_spec_as_given_has_only_the_ids_that_the_submission_gave() -> None:
    named = NamedDependencies(after_label="x", after_fail_key=("k",), given=(2, 0, 1))
    spec = Spec(after=(1, 2, 3), after_any=(4,), after_fail=(5, 6), named=named, nice=1)
    assert spec.as_given == Spec(after=(1, 2), after_fail=(5,), named=named, nice=1)
    assert DEFAULT_SPEC.as_given is DEFAULT_SPEC
    assert observes_other_jobs(Spec(named=named))
