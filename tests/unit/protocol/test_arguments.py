"""Options on a request line: where they end, what their values are, and who refuses which."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import BadRequest
from taskqd.protocol.arguments import Option, flag, parse_env, read, scan, skip_space
from taskqd.protocol.values import parse_integer, quote

TABLE: Any = {
    "count": ("how_many", lambda text: parse_integer(text, 0, 9)),
    "name": ("name", str),
    "loud": ("is_loud", flag),
    "env": ("env", parse_env),
}
SCANNED = [
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
UNSCANNABLE = [
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


@pytest.mark.parametrize("text, options, rest", SCANNED)
def test_options_stand_before_the_command_and_it_is_verbatim(
    text: str, options: list[Any], rest: str
) -> None:
    assert scan(text) == (options, rest)


@pytest.mark.parametrize("text, part", UNSCANNABLE)
def test_an_option_without_a_proper_form_is_refused(text: str, part: str) -> None:
    with pytest.raises(BadRequest, match=part):
        scan(text)


@given(ODD_TEXT)
def test_scanning_any_text_gives_options_and_its_end_or_a_refusal(text: str) -> None:
    try:
        options, rest = scan(text)
    except BadRequest:
        return
    assert text.endswith(rest)
    assert not rest.startswith((" ", "\t"))
    assert all(option.name for option in options)


@pytest.mark.parametrize("before", ["--", "--a", "--A", '--a="b"', '--a="\\', "--a --1", "--env=A=1 --env-"])
@pytest.mark.parametrize("letter", ["a", "A", "-", "\0", "\udc80", "\U0001f600"])
def test_a_refusal_is_short_however_long_the_line_is(before: str, letter: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        read("VERB", scan(before + letter * 60000).options, TABLE)
    assert len(str(refusal.value)) < 700


NO_NUL = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.tuples(st.from_regex("[a-z][a-z-]{0,39}", fullmatch=True), NO_NUL)), NO_NUL)
def test_what_is_written_quoted_is_scanned_as_it_was(values: list[tuple[str, str]], command: str) -> None:
    written = "".join(f"--{name}={quote(value.encode())} " for name, value in values)
    options, rest = scan(f"{written}-- {command}")
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
    ("--size=3", "--size is no option of VERB, which takes --count --name --loud --env"),
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
def test_each_option_sets_its_field_and_env_gathers(text: str, values: dict[str, Any]) -> None:
    assert read("VERB", scan(text).options, TABLE) == values


@pytest.mark.parametrize("text, part", REFUSED)
def test_a_refused_option_is_named(text: str, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        read("VERB", scan(text).options, TABLE)
    assert part in str(refusal.value)


def test_a_verb_without_options_says_that_it_takes_none() -> None:
    with pytest.raises(BadRequest, match="--x is no option of PING, which takes none"):
        read("PING", [Option("x", None)], {})


def test_a_verb_with_many_options_says_where_they_are_listed() -> None:
    table = {letter: (letter, str) for letter in "abcdefghijklm"}
    with pytest.raises(BadRequest, match="--x is no option of VERB; HELP VERB lists those that it takes"):
        read("VERB", [Option("x", None)], table)


def test_a_reader_may_find_that_there_is_nothing() -> None:
    assert read("VERB", [Option("x", "none")], {"x": ("y", lambda text: None)}) == {"y": None}


@pytest.mark.parametrize(
    "text, start, end", [("", 0, 0), ("  a", 0, 2), ("a \tb", 1, 3), ("ab", 1, 1), ("\n", 0, 0)]
)
def test_only_space_and_tab_are_blanks(text: str, start: int, end: int) -> None:
    assert skip_space(text, start) == end
