"""The cache of SUBMIT options returns what the parser of SUBMIT returns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.protocol.submit import block_sizes, parse_submission
from taskqd.protocol.submit_cache import parse_batchable, parse_cached

WORDS = (
    *("--hold", "--queue=q", "--priority=5", "--env=A=b", "--env=A=b=c", "--stdin=3", "--script=2"),
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
    assert parse_batchable(line_of(text), 0, len(line_of(text))) is None


@pytest.mark.parametrize("before", ["", "PING\n"])
@pytest.mark.parametrize("behind", ["", "\nSUBMIT x"])
@pytest.mark.parametrize("text", ["true", "--hold true", "--queue=q  echo\ra", "x" * 300])
def test_parse_batchable_parses_a_line_within_a_buffer(before: str, behind: str, text: str) -> None:
    data = before.encode() + line_of(text) + behind.encode()
    assert parse_batchable(data, len(before), len(data) - len(behind)) == parse_submission(text)


@pytest.mark.parametrize(
    "option", ["key=k", "unless=l", "after=1", "after-any=1", "after-fail=1", "stdin=3", "script=2"]
)
def test_parse_batchable_refuses_blocks_keys_and_what_observes_other_jobs(option: str) -> None:
    line = line_of(f"--{option} " + ("" if option.startswith("script") else "true"))
    assert parse_batchable(line, 0, len(line)) is None
