"""The cache of SUBMIT options returns what the parser of SUBMIT returns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.spec import Spec
from taskqd.model.submission import SimilarSubmissions, Submission
from taskqd.protocol.submit import block_sizes, parse_submission
from taskqd.protocol.submit_cache import parse_batchable, parse_cached

WORDS = (
    *(
        "--hold",
        "--queue=q",
        "--priority=5",
        "--env=A=b",
        "--env=A=b=c",
        "--stdin=3",
        "--script=2",
        "--environment=4",
    ),
    f"--environment=4:{'0a' * 32}",
    *("--secret=A=b", '--label="a b"', "--queue=", '--env=A="b"', "--after=1,2.3", '--queue=a"b', "--hold=1"),
    *("--key=k", "--delay=1", "--at=x", "--x", "--", "-", "true", "echo", "A=1", " ", "\t"),
)


@given(st.lists(st.sampled_from(WORDS), max_size=5), st.sampled_from([" ", "\t", "  "]))
def test_parse_cached_returns_what_parse_submission_returns(words: list[str], blank: str) -> None:
    text = blank.join(words)
    plain = parse_cached(line_of(text))
    if plain is not None:
        assert plain == (parse_submission(text), block_sizes(text))


def line_of(text: str) -> bytes:
    return f"SUBMIT {text}".encode()


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "--hold true",
        "--queue=q --hold  echo a --hold",
        "\t--stdin=3 cat",
        "--environment=3 cat",
        f"--environment=3:{'0a' * 32} cat",
        f"--env=PATH={40 * '/usr/local/sbin:'} --cwd=/ --umask=022 true",
        "--env=A=1 --env=B=2 x",
        "a",
    ],
)
def test_parse_cached_parses_frequent_lines(text: str) -> None:
    assert parse_cached(line_of(text)) == (parse_submission(text), block_sizes(text))


@pytest.mark.parametrize(
    "text",
    [
        *("", "--hold", "--secret=A=b true", '--label="a" true', "-x", "--x true", "-- true"),
        *("--stdin=x true", f"--label={'a' * 2000} true", "echo \0", "echo é", "--label=é true"),
    ],
)
def test_parse_cached_leaves_other_lines_to_the_parser(text: str) -> None:
    assert parse_cached(line_of(text)) is None
    assert parse_batchable(f"SUBMIT {text}\n", 1) == ([], 0)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("behind", ["", "PING\n", "SUBMIT -x\n", "SUBMIT --key=k a\n", " SUBMIT a\n", "\n"])
@pytest.mark.parametrize(
    "text", ["true", f"--environment=4:{'0a' * 32} true", "--hold true", "--queue=q  echo a", "x" * 300]
)
def test_parse_batchable_parses_lines_up_to_one_of_another_kind(behind: str, text: str, end: str) -> None:
    command, spec = parse_submission(text)
    same = SimilarSubmissions(spec, [command, command])
    other = SimilarSubmissions(Spec(slots=2), ["b"])
    lines = f"SUBMIT {text}{end}SUBMIT {text}{end}SUBMIT --slots=2 b{end}{behind}SUBMIT c\n"
    last = [SimilarSubmissions(Spec(), ["c"])] if not behind else []
    assert parse_batchable(lines, lines.count("\n")) == ([same, other, *last], 3 + len(last))


@pytest.mark.parametrize(
    "option",
    [
        *("key=k", "unless=l", "after=1", "after-any=1", "after-fail=1", "stdin=3", "script=2"),
        *("after-label=l", "after-fail-key=k", "environment=4"),
    ],
)
def test_parse_batchable_refuses_blocks_keys_and_what_observes_other_jobs(option: str) -> None:
    line = f"SUBMIT --{option} " + ("" if option.startswith("script") else "true")
    assert parse_batchable(f"{line}\n", 1) == ([], 0)


@given(st.lists(st.text(st.sampled_from('SUBMIT -="\r\taé\0'), max_size=12), max_size=4))
def test_parse_batchable_parses_only_what_parse_cached_parses(ends: list[str]) -> None:
    lines = [f"SUBMIT {end}" for end in ends]
    found, count = parse_batchable("".join(f"{line}\n" for line in lines), len(lines))
    parsed = [parse_cached(line.removesuffix("\r").encode("latin-1")) for line in lines]
    submissions = [Submission(command, spec) for spec, commands in found for command in commands]
    assert submissions == [each[0] for each in parsed[:count] if each is not None]
    assert count == len(lines) or parsed[count] is None
