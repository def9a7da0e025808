"""SUBMIT's options and command -> a Spec; and the sizes of its blocks, whether it is refused or not."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskqd import submission
from taskqd.errors import BadRequest, TaskqError, TooLarge
from taskqd.job import Spec
from taskqd.submission import LARGEST_BLOCK, LARGEST_SKIP, block_sizes, read_submission

PROTOCOL_OPTIONS = [
    *("queue", "priority", "slots", "need", "timeout", "kill-after", "retries", "retry-delay", "delay", "at"),
    *("after", "after-any", "hold", "key", "label", "cwd", "env", "umask", "nice", "max-output", "array"),
    *("stdin", "script"),
]
"""The options of docs/protocol.md §3."""

ACCEPTED = [
    ("echo hello world", Spec(command="echo hello world")),
    ("  echo  a  b ", Spec(command="echo  a  b ")),
    ('A=1 ./run "x y"', Spec(command='A=1 ./run "x y"')),
    ("-- --version", Spec(command="--version")),
    ("echo a\rb\tc", Spec(command="echo a\rb\tc")),
    ("echo --timeout=1 --stdin=5", Spec(command="echo --timeout=1 --stdin=5")),
    ("printf Grüße | wc", Spec(command="printf Grüße | wc")),
    ("--timeout=1.5 true", Spec(command="true", timeout=1.5)),
    ("--timeout=1ms true", Spec(command="true", timeout=0.001)),
    ("--kill-after=0 true", Spec(command="true", kill_after=0.0)),
    ("--retries=1000000 --retry-delay=500ms true", Spec(command="true", retries=1_000_000, retry_delay=0.5)),
    ("--key=nightly/2026-11-24 true", Spec(command="true", key="nightly/2026-11-24")),
    (r'--label="Gr\xc3\xbc\xc3\x9fe, 2" true', Spec(command="true", label="Grüße, 2")),
    ("--label=x true", Spec(command="true", label="x")),
    ("--label=" + "x" * 1000 + " true", Spec(command="true", label="x" * 1000)),
    ('--cwd="/a b" true', Spec(command="true", cwd="/a b")),
    ('--env=A=1 --env=B="2 3" true', Spec(command="true", env={"A": "1", "B": "2 3"})),
    ('--env=A=é --env=B="\\xC3\\xA9" true', Spec(command="true", env={"A": "é", "B": "é"})),
    (
        '--env=A="\\xff\\xc3\\xa9" --env=B=1 true',
        Spec(command="true", env={"B": "1"}, env_base64={"A": b"\xff\xc3\xa9"}),
    ),
    ('--env=A="\\xed\\xb2\\x80" true', Spec(command="true", env_base64={"A": b"\xed\xb2\x80"})),
    ('--env=A="\\xff" --env=A=1 true', Spec(command="true", env={"A": "1"})),
    ('--env=A=1 --env=A="\\xff" true', Spec(command="true", env_base64={"A": b"\xff"})),
    ("--umask=077 true", Spec(command="true", umask=0o77)),
    ("--nice=-20 true", Spec(command="true", nice=-20)),
    ("--max-output=2G true", Spec(command="true", max_output=2 * 1024**3)),
    ("--max-output=0 true", Spec(command="true", max_output=0)),
    ("--stdin=5 cat", Spec(command="cat", stdin=5)),
    ("--stdin=0 cat", Spec(command="cat", stdin=0)),
    ("--script=12", Spec(script=12)),
    ("--script=12 ", Spec(script=12)),
    ("--script=12 --", Spec(script=12)),
    ("--stdin=3 --script=0", Spec(script=0, stdin=3)),
    (f"--stdin={LARGEST_BLOCK} cat", Spec(command="cat", stdin=LARGEST_BLOCK)),
]
REFUSED = [
    ("", BadRequest, "no command came"),
    ("   ", BadRequest, "no command came"),
    ("--retries=1", BadRequest, "no command came"),
    ("--", BadRequest, "no command came"),
    ("--script=5 true", BadRequest, "give one of them"),
    ("--bogus=1 true", BadRequest, "--bogus is no option of SUBMIT"),
    ("--timeout true", BadRequest, "--timeout needs a value"),
    ("--timeout=0 true", BadRequest, "--timeout: expected a duration above 0"),
    ("--timeout=soon true", BadRequest, "--timeout: expected a duration such as"),
    ("--timeout=101d --timeout=1 true", BadRequest, "--timeout is given twice"),
    ("--kill-after=-1 true", BadRequest, "--kill-after: expected a duration"),
    ("--retries=1000001 true", BadRequest, "--retries: expected a whole number from 0"),
    ("--retries=-1 true", BadRequest, "--retries: expected a whole number from 0"),
    ("--key= true", BadRequest, "--key: expected a name"),
    ('--key="a b" true', BadRequest, "--key: expected a name"),
    ("--label= true", BadRequest, "--label: expected 1 to 1000 characters, not 0"),
    ("--label=" + "x" * 1001 + " true", BadRequest, "--label: expected 1 to 1000 characters, not 1001"),
    ("--cwd=here true", BadRequest, "--cwd: expected a path that begins with /"),
    ("--cwd= true", BadRequest, "--cwd: expected a path that begins with /"),
    ('--cwd="/a\\x00b" true', BadRequest, "--cwd has a NUL byte"),
    ('--env=A="\\xff\\x00" true', BadRequest, "--env has a NUL byte"),
    ('--env="\\xff=1" true', BadRequest, "--env: expected NAME=value"),
    ('--label="\\xff" true', BadRequest, "--label is not UTF-8"),
    ("--env=TASKQ_QUEUE=x true", BadRequest, "--env: names that begin with TASKQ_"),
    ("--umask=8 true", BadRequest, "--umask: expected an octal mask"),
    ("--nice=20 true", BadRequest, "--nice: expected a whole number from -20 to 19"),
    ("--max-output=-1 true", BadRequest, "--max-output: expected a size"),
    ("--max-output=999999999999999G true", BadRequest, "--max-output: expected a size"),
    ("--stdin=1x cat", BadRequest, "--stdin: expected a whole number"),
    (f"--stdin={LARGEST_BLOCK + 1} cat", TooLarge, f"more than the {LARGEST_BLOCK} bytes"),
    (f"--script={LARGEST_SKIP}", TooLarge, f"more than the {LARGEST_BLOCK} bytes"),
]


@pytest.mark.parametrize("text, spec", ACCEPTED)
def test_what_was_asked_becomes_a_spec(text: str, spec: Spec) -> None:
    assert read_submission(text) == spec


@pytest.mark.parametrize("text, error, part", REFUSED)
def test_what_is_not_of_the_form_is_refused_by_its_name(text: str, error: type[Exception], part: str) -> None:
    with pytest.raises(error) as refusal:
        read_submission(text)
    assert part in str(refusal.value)


@pytest.mark.parametrize("name", PROTOCOL_OPTIONS)
def test_every_option_of_the_protocol_is_known_or_refused_as_not_supported_yet(name: str) -> None:
    if name in submission.OPTIONS:
        assert name not in submission.LATER
        return
    for text in (f"--{name} true", f"--{name}=1 true", f"--bogus --{name} true"):
        with pytest.raises(BadRequest, match=f"^--{name} is not supported yet$"):
            read_submission(text)


def test_each_option_sets_a_field_of_its_own_name() -> None:
    assert {name.replace("-", "_") for name in submission.OPTIONS} == {
        field for field, _ in submission.OPTIONS.values()
    }
    assert {field for field, _ in submission.OPTIONS.values()} <= set(Spec.__struct_fields__)


def test_help_has_the_form_of_every_option() -> None:
    assert list(submission.USAGES) == list(submission.OPTIONS)


SIZES = [
    ("true", ()),
    ("--retries=1 true", ()),
    ("echo --stdin=5", ()),
    ("-- --stdin=5", ()),
    ("--stdin=5 cat", (5,)),
    ('--stdin="5" cat', (5,)),
    ("--stdin=05 cat", (5,)),
    ("--stdin=0 cat", (0,)),
    ("--script=7", (7,)),
    ("--stdin=5 --script=7", (7, 5)),
    ("--script=7 --stdin=5", (7, 5)),
    (f"--stdin={LARGEST_SKIP} cat", (LARGEST_SKIP,)),
    ("--label=--stdin=5 true", ()),
    ('--label="--stdin=5" true', ()),
]
SIZES_OF_REFUSED = [
    ("--stdin=5", (5,)),
    ("--script=7 true", (7,)),
    ("--bogus=1 --stdin=5 cat", (5,)),
    ("--stdin=5 --bogus=1 cat", (5,)),
    ("--queue=q --stdin=5 cat", (5,)),
    ("--timeout=soon --stdin=5 cat", (5,)),
    ("--key=a --key=b --stdin=5 cat", (5,)),
    (f"--script={LARGEST_BLOCK + 1} --stdin=5", (LARGEST_BLOCK + 1, 5)),
    ("--Bogus true", ()),
    ('--label="x true', ()),
    ("--a1=1 echo stdin", ()),
]
LOST = [
    ("--stdin cat", BadRequest, "--stdin needs the number of bytes"),
    ("--stdin= cat", BadRequest, "--stdin needs the number of bytes"),
    ("--stdin=x cat", BadRequest, "--stdin needs the number of bytes"),
    ("--stdin=-5 cat", BadRequest, "--stdin needs the number of bytes"),
    ("--stdin=1k cat", BadRequest, "--stdin needs the number of bytes"),
    ("--stdin=\u0665 cat", BadRequest, "--stdin needs the number of bytes"),
    ("--stdin=\u00b2 cat", BadRequest, "--stdin needs the number of bytes"),
    ('--stdin="5', BadRequest, "does not end"),
    ('--label="x --stdin=5 cat', BadRequest, "does not end"),
    ("--Bogus --script=5", BadRequest, "expected an option"),
    ("--stdin=5 --stdin=5 cat", BadRequest, "--stdin is given twice"),
    ("--script=1 --stdin=x", BadRequest, "--stdin needs the number of bytes"),
    (f"--stdin={LARGEST_SKIP + 1} cat", TooLarge, f"more than the {LARGEST_BLOCK} bytes"),
    ("--stdin=" + "9" * 18 + " cat", TooLarge, f"more than the {LARGEST_BLOCK} bytes"),
    ("--stdin=" + "9" * 60000 + " cat", TooLarge, f"more than the {LARGEST_BLOCK} bytes"),
]


@pytest.mark.parametrize("text, sizes", SIZES)
def test_the_blocks_that_follow_are_told_from_the_options(text: str, sizes: tuple[int, ...]) -> None:
    assert block_sizes(text) == sizes


@pytest.mark.parametrize("text, sizes", SIZES_OF_REFUSED)
def test_the_blocks_of_a_refused_submission_follow_it_all_the_same(text: str, sizes: tuple[int, ...]) -> None:
    with pytest.raises(TaskqError):
        read_submission(text)
    assert block_sizes(text) == sizes


@pytest.mark.parametrize("text, error, part", LOST)
def test_sizes_that_cannot_be_told_are_an_error_of_their_own(text: str, error: Any, part: str) -> None:
    with pytest.raises(error) as refusal:
        block_sizes(text)
    assert part in str(refusal.value)
    assert len(str(refusal.value)) < 200


PIECES = ["--stdin=5", "--stdin=", "--script=7", "--", "--x=", "--retries=1", *'" \t=5é\0\\', "cat"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
@example("--stdin=5 --script=7")
def test_an_accepted_submission_is_followed_by_just_the_blocks_that_it_names(text: str) -> None:
    with suppress(TaskqError):
        spec = read_submission(text)
        assert block_sizes(text) == tuple(size for size in (spec.script, spec.stdin) if size is not None)
