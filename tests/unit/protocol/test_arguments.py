"""Options and job references on a request line."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.protocol.arguments import (
    Option,
    OptionType,
    parse_env,
    parse_flag,
    parse_job_id,
    parse_job_ref,
    parse_options,
    skip_space,
    split_options,
)
from taskqd.protocol.values import parse_integer, quote

TABLE: Any = {
    "count": OptionType("how_many", lambda text: parse_integer(text, 0, 9)),
    "name": OptionType("name", str),
    "loud": OptionType("is_loud", parse_flag),
    "env": OptionType("env", parse_env),
}
SPLIT = [
    ("", [], ""),
    (" \t ", [], ""),
    ("echo hello", [], "echo hello"),
    ("  echo  hello  ", [], "echo  hello  "),
    ("A=1 ./run --x=1 'y'", [], "A=1 ./run --x=1 'y'"),
    ("-x", [], "-x"),
    ("- -", [], "- -"),
    ("--hold", [("hold", None)], ""),
    ("--hold echo", [("hold", None)], "echo"),
    ("--hold\techo", [("hold", None)], "echo"),
    ("--a=1 --b-c=2  x", [("a", "1"), ("b-c", "2")], "x"),
    ("--a= x", [("a", "")], "x"),
    ("--a=1", [("a", "1")], ""),
    ("--a=b=c x", [("a", "b=c")], "x"),
    ("--a=x--b=y z", [("a", "x--b=y")], "z"),
    ('--a=b"c" x', [("a", 'b"c"')], "x"),
    ('--a="b c" x', [("a", "b c")], "x"),
    ('--a="" x', [("a", "")], "x"),
    (r'--a="\x41\xc3\xa9\n\"" x', [("a", 'Aé\n"')], "x"),
    ('--a="pärl \U0001f600" x', [("a", "pärl \U0001f600")], "x"),
    ('--env=A="pärl" x', [("env", "A=pärl")], "x"),
    (r'--cwd="/\xff" x', [("cwd", "/\udcff")], "x"),
    ('--a="--b=c -- " x', [("a", "--b=c -- ")], "x"),
    ("--env=A=1 x", [("env", "A=1")], "x"),
    ('--env=A="b c" x', [("env", "A=b c")], "x"),
    ('--env="A=b c" x', [("env", "A=b c")], "x"),
    ('--env=A=b"c x', [("env", 'A=b"c')], "x"),
    ("--env=A x=1", [("env", "A")], "x=1"),
    ('--env=A-B="c d', [("env", 'A-B="c')], "d"),
    ("--env=A=", [("env", "A=")], ""),
    ("--env= B=1", [("env", "")], "B=1"),
    ("-- --a=1", [], "--a=1"),
    ("--a=1 -- --b=2 x", [("a", "1")], "--b=2 x"),
    ("--a=1 --\t--", [("a", "1")], "--"),
    ("-- -- x", [], "-- x"),
    ("--", [], ""),
    ("--   ", [], ""),
    ("--a=1 é --b", [("a", "1")], "é --b"),
]
MALFORMED = [
    ("--Hold", "expected an option"),
    ("--1", "expected an option"),
    ("---", "expected an option"),
    ("--=1", "expected an option"),
    ("--é=1", "expected an option"),
    ("--\0", "expected an option"),
    ("--\u3000x", "expected an option"),
    ("--a_b=1", "expected a space or ="),
    ("--a1", "expected a space or ="),
    ('--a"b"', "expected a space or ="),
    ("--" + "a" * 41 + "=1", "expected a space or ="),
    ('--a="b', "does not end"),
    ('--a="b"c', "expected a space after the value of --a"),
    ('--a="b""c"', "expected a space after the value of --a"),
    (r'--a="\q"', "expected one of"),
    ('--a="\x07"', "printable characters only"),
    ('--a="\x85"', "printable characters only"),
    ('--a="\udce9"', "printable characters only"),
    ('--env=A="b', "does not end"),
    (r'--a="\xff"', "--a is not UTF-8"),
    (r'--a="\xed\xb2\x80"', "--a is not UTF-8"),
    (r'--a="b\x00"', "--a has a NUL byte"),
    ("--a=1 --B", "expected an option"),
]
ODD_TEXT = st.text(st.sampled_from('--=" \t\\xenva1FAé\0\n\udc80')) | st.text()


@pytest.mark.parametrize("text, options, rest", SPLIT)
def test_split_options_returns_leading_options_and_the_unchanged_rest(
    text: str, options: list[Any], rest: str
) -> None:
    assert split_options(text) == (options, rest)


@pytest.mark.parametrize("text, part", MALFORMED)
def test_split_options_refuses_malformed_option(text: str, part: str) -> None:
    with pytest.raises(BadRequest, match=part):
        split_options(text)


@given(ODD_TEXT)
def test_split_options_of_any_text_returns_its_end_or_refuses_it(text: str) -> None:
    try:
        options, rest = split_options(text)
    except BadRequest:
        return
    assert text.endswith(rest)
    assert not rest.startswith((" ", "\t"))
    assert all(option.name for option in options)


@pytest.mark.parametrize("before", ["--", "--a", "--A", '--a="b"', '--a="\\', "--a --1", "--env=A=1 --env-"])
@pytest.mark.parametrize("letter", ["a", "A", "-", "\0", "\udc80", "\U0001f600"])
def test_error_about_a_long_line_is_short(before: str, letter: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_options("VERB", split_options(before + letter * 60000).options, TABLE)
    assert len(str(refusal.value)) < 700


NO_NUL = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.tuples(st.from_regex("[a-z][a-z-]{0,39}", fullmatch=True), NO_NUL)), NO_NUL)
def test_split_options_returns_quoted_values(values: list[tuple[str, str]], command: str) -> None:
    written = "".join(f"--{name}={quote(value.encode())} " for name, value in values)
    options, rest = split_options(f"{written}-- {command}")
    assert options == values
    assert rest == command.lstrip(" \t")


READ = [
    ("", {}),
    ("--count=3", {"how_many": 3}),
    ("--name=", {"name": ""}),
    ("--loud", {"is_loud": True}),
    ("--loud --count=0", {"is_loud": True, "how_many": 0}),
    ("--env=A=1 --loud --env=B=2=3 --env=C=", {"env": {"A": "1", "B": "2=3", "C": ""}, "is_loud": True}),
    ("--env=A=1 --env=A=2", {"env": {"A": "2"}}),
    ('--env=_a1="x y"', {"env": {"_a1": "x y"}}),
]
REFUSED = [
    ("--size=3", "--size is not an option of VERB, which takes --count --name --loud --env"),
    ("--count", "--count needs a value"),
    ("--name", "--name needs a value"),
    ("--env", "--env needs a value"),
    ("--count=", "--count: expected a whole number from 0 to 9"),
    ("--count=10", "--count: expected a whole number from 0 to 9"),
    ("--loud=yes", "--loud: takes no value"),
    ("--name=a --name=a", "--name is given twice"),
    ("--loud --loud", "--loud is given twice"),
    ("--env=", "--env: expected NAME=value"),
    ("--env=A", "--env: expected NAME=value"),
    ("--env==1", "--env: expected NAME=value"),
    ("--env=1A=1", "--env: expected NAME=value"),
    ("--env=A-B=1", "--env: expected NAME=value"),
    ("--env=é=1", "--env: expected NAME=value"),
    ("--env=" + "A" * 201 + "=1", "--env: expected NAME=value"),
    ("--env=TASKQ_JOB_ID=7", "--env: names that begin with TASKQ_ are set by the daemon"),
]


@pytest.mark.parametrize("text, values", READ)
def test_parse_options_sets_fields_and_merges_env(text: str, values: dict[str, Any]) -> None:
    assert parse_options("VERB", split_options(text).options, TABLE) == values


@pytest.mark.parametrize("text, part", REFUSED)
def test_parse_options_names_the_refused_option(text: str, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_options("VERB", split_options(text).options, TABLE)
    assert part in str(refusal.value)


def test_parse_options_says_that_a_verb_takes_none() -> None:
    with pytest.raises(BadRequest, match="--x is not an option of PING, which takes none"):
        parse_options("PING", [Option("x", None)], {})


def test_parse_options_refers_to_help_if_there_are_many() -> None:
    table = {letter: OptionType(letter, str) for letter in "abcdefghijklm"}
    with pytest.raises(BadRequest, match="--x is not an option of VERB; HELP VERB lists those that it takes"):
        parse_options("VERB", [Option("x", None)], table)


def test_parse_options_keeps_a_value_that_is_none() -> None:
    assert parse_options("VERB", [Option("x", "none")], {"x": OptionType("y", lambda text: None)}) == {
        "y": None
    }


@pytest.mark.parametrize(
    "text, start, end", [("", 0, 0), ("  a", 0, 2), ("a \tb", 1, 3), ("ab", 1, 1), ("\n", 0, 0)]
)
def test_skip_space_skips_only_space_and_tab(text: str, start: int, end: int) -> None:
    assert skip_space(text, start) == end


REFS = [
    ("5", 5),
    ("0005", 5),
    ("0" * 6000 + "5", 5),
    ("999999999999999999", 999_999_999_999_999_999),
    ("5.0", TaskId(5, 0)),
    ("5.17", TaskId(5, 17)),
    ("05.017", TaskId(5, 17)),
    ("10.10", TaskId(10, 10)),
    ("5.999999999999999999", TaskId(5, 999_999_999_999_999_999)),
]
NO_REFS = [
    *("", "0", "-1", "+1", "1_0", "x", "\u0665", "\u00b2", "5x", '"5"', "000", "5,6", "1e3", "5\x0b", " 5"),
    *(
        "5.",
        ".5",
        ".",
        "0.5",
        "5.x",
        "x.5",
        "5.-1",
        "5.+1",
        "5.1.2",
        "5.\u0665",
        "\u0665.1",
        "5.\u00b2",
        "5. 1",
    ),
]
TOO_LARGE = [
    "1000000000000000000",
    "9" * 60000,
    "1000000000000000000.1",
    "1.1000000000000000000",
    "1." + "9" * 60000,
]


@pytest.mark.parametrize("text, ref", REFS)
def test_parse_job_ref_returns_id_or_task(text: str, ref: JobRef) -> None:
    assert parse_job_ref(text) == ref
    assert parse_job_ref(str(ref)) == ref
    assert type(parse_job_ref(text)) is type(ref)


@pytest.mark.parametrize("text", NO_REFS)
def test_parse_job_ref_refuses_other_text(text: str) -> None:
    with pytest.raises(BadRequest, match="expected a job's id") as refusal:
        parse_job_ref(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("text", TOO_LARGE)
def test_parse_job_ref_of_a_number_above_all_ids_is_no_such_job(text: str) -> None:
    with pytest.raises(NoSuchJob) as refusal:
        parse_job_ref(text)
    assert len(str(refusal.value)) < 100


def test_parse_job_id_refuses_task() -> None:
    assert parse_job_id("05") == 5
    with pytest.raises(BadRequest, match="a whole number from 1"):
        parse_job_id("5.1")


@given(st.text() | st.text(st.sampled_from("0159.\u0665-")))
def test_parse_job_ref_of_any_text_returns_or_refuses(text: str) -> None:
    with suppress(BadRequest, NoSuchJob):
        assert parse_job_ref(str(parse_job_ref(text))) == parse_job_ref(text)


def test_parse_job_ref_ignores_leading_zeros() -> None:
    zeros = "0" * 60_000
    assert parse_job_ref(f"{zeros}7.{zeros}3") == TaskId(7, 3)
    assert parse_job_ref(f"7.{zeros}") == TaskId(7, 0)
