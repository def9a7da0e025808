"""The parser of SUBMIT, and that of the sizes of their blocks."""

from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskqd.errors import BadRequest, NoSuchJob, TaskqError, TooLarge
from taskqd.model.environment import MAX_ENVIRONMENT_SIZE, Environment
from taskqd.model.job_ref import TaskId
from taskqd.model.spec import DEFAULT_SPEC, Array, NamedDependencies, Spec
from taskqd.model.submission import Submission
from taskqd.protocol import submit
from taskqd.protocol.arguments import parse_flag
from taskqd.protocol.schedule_requests import SCHEDULE_OPTIONS
from taskqd.protocol.submit import (
    MAX_BLOCK_SIZE,
    MAX_SKIPPED_BLOCK,
    block_sizes,
    parse_submission,
    secret_block,
)

PROTOCOL_OPTIONS = [
    *(
        "queue",
        "priority",
        "slots",
        "need",
        "timeout",
        "idle-timeout",
        "kill-after",
        "retries",
        "retry-delay",
    ),
    *(
        "retry-delay-max",
        "retry-on",
        "no-retry-on",
        "delay",
        "at",
        "expires",
        "tz",
        "after",
        "after-any",
        "after-fail",
        *(
            "after-label",
            "after-key",
            "after-any-label",
            "after-any-key",
            "after-fail-label",
            "after-fail-key",
        ),
        "hold",
    ),
    *("array", "key", "label", "unless", "cwd", "env", "secret"),
    *("environment", "umask", "nice", "memory", "memory-max", "cpu-time"),
    *("nofile", "max-output", "merge", "stdout", "stderr"),
    *("notify-fail", "interactive", "script", "stdin"),
]
"""The options of docs/protocol.md §3."""

HASH = "0123456789abcdef" * 4

ACCEPTED = [
    ("echo hello world", Submission("echo hello world", DEFAULT_SPEC)),
    ("  echo  a  b ", Submission("echo  a  b ", DEFAULT_SPEC)),
    ('A=1 ./run "x y"', Submission('A=1 ./run "x y"', DEFAULT_SPEC)),
    ("-- --version", Submission("--version", DEFAULT_SPEC)),
    ("echo a\rb\tc", Submission("echo a\rb\tc", DEFAULT_SPEC)),
    ("echo --timeout=1 --stdin=5", Submission("echo --timeout=1 --stdin=5", DEFAULT_SPEC)),
    ("printf Grüße | wc", Submission("printf Grüße | wc", DEFAULT_SPEC)),
    ("--interactive --retries=0 bc", Submission("bc", Spec(interactive=True))),
    ("--timeout=1.5 true", Submission("true", Spec(timeout=1.5))),
    ("--timeout=1ms true", Submission("true", Spec(timeout=0.001))),
    ("--kill-after=0 true", Submission("true", Spec(kill_after=0.0))),
    (
        "--retries=1000000 --retry-delay=500ms true",
        Submission("true", Spec(retries=1_000_000, retry_delay=0.5)),
    ),
    ("--key=nightly/2026-11-24 true", Submission("true", Spec(key="nightly/2026-11-24"))),
    (r'--label="Gr\xc3\xbc\xc3\x9fe, 2" true', Submission("true", Spec(label="Grüße, 2"))),
    ("--label=x true", Submission("true", Spec(label="x"))),
    ("--label=" + "x" * 1000 + " true", Submission("true", Spec(label="x" * 1000))),
    ("--expires=90 --delay=1m true", Submission("true", Spec(expires=90.0, delay=60.0))),
    ("--unless=x true", Submission("true", Spec(label="x", unless="x"))),
    ("--unless=x --label=y true", Submission("true", Spec(label="y", unless="x"))),
    ('--cwd="/a b" true', Submission("true", Spec(cwd="/a b"))),
    (r'--cwd="/\xC3\xA9\xff" true', Submission("true", Spec(cwd_base64=b"/\xc3\xa9\xff"))),
    ('--env=A=1 --env=B="2 3" true', Submission("true", Spec(env={"A": "1", "B": "2 3"}))),
    ('--env=A=é --env=B="\\xC3\\xA9" true', Submission("true", Spec(env={"A": "é", "B": "é"}))),
    (
        '--env=A="\\xff\\xc3\\xa9" --env=B=1 true',
        Submission("true", Spec(env={"B": "1"}, env_base64={"A": b"\xff\xc3\xa9"})),
    ),
    ('--env=A="\\xed\\xb2\\x80" true', Submission("true", Spec(env_base64={"A": b"\xed\xb2\x80"}))),
    ('--env=A="\\xff" --env=A=1 true', Submission("true", Spec(env={"A": "1"}))),
    ('--env=A=1 --env=A="\\xff" true', Submission("true", Spec(env_base64={"A": b"\xff"}))),
    ('--secret=B="2 3" --secret=A=1 true', Submission("true", Spec(secrets=("A", "B")))),
    (
        '--secret=A= --secret=A="\\xff" --env=B=2 true',
        Submission("true", Spec(env={"B": "2"}, secrets=("A",))),
    ),
    ("--environment=0 true", Submission("true", Spec(environment=Environment(0)))),
    (
        f"--environment={MAX_ENVIRONMENT_SIZE} true",
        Submission("true", Spec(environment=Environment(MAX_ENVIRONMENT_SIZE))),
    ),
    (f"--environment=7:{HASH} true", Submission("true", Spec(environment=Environment(7, HASH)))),
    ("--umask=077 true", Submission("true", Spec(umask=0o77))),
    ("--nice=-20 true", Submission("true", Spec(nice=-20))),
    ("--max-output=2G true", Submission("true", Spec(max_output=2 * 1024**3))),
    ("--max-output=0 true", Submission("true", Spec(max_output=0))),
    ("--merge true", Submission("true", Spec(merge=True))),
    (
        '--stdout="/log dir/%j.%a" --stderr=/log/%%j true',
        Submission("true", Spec(stdout="/log dir/%j.%a", stderr="/log/%%j")),
    ),
    ("--stdout=/dev/null --merge true", Submission("true", Spec(stdout="/dev/null", merge=True))),
    ("--stdout=/log --idle-timeout=1 true", Submission("true", Spec(stdout="/log", idle_timeout=1.0))),
    (
        "--queue=gpu/large --priority=-1000000 true",
        Submission("true", Spec(queue="gpu/large", priority=-1_000_000)),
    ),
    ("--priority=1000000 --slots=10000 true", Submission("true", Spec(priority=1_000_000, slots=10_000))),
    ("--slots=1 --priority=0 --queue=default true", Submission("true", DEFAULT_SPEC)),
    ("--need=gpu:1 true", Submission("true", Spec(needs={"gpu": 1}))),
    (
        "--need=gpu:2,a:b:03,net/in:1000000000 true",
        Submission("true", Spec(needs={"gpu": 2, "a:b": 3, "net/in": 10**9})),
    ),
    ("--idle-timeout=90s true", Submission("true", Spec(idle_timeout=90.0))),
    ("--retry-delay-max=0 true", Submission("true", Spec(retry_delay_max=0.0))),
    ("--retry-delay-max=1h true", Submission("true", DEFAULT_SPEC)),
    (
        "--retry-on=exit:75,signal:SIGKILL,Timeout --no-retry-on=exit:2,spawn true",
        Submission(
            "true",
            Spec(
                retry_on=("exit:75", "signal:KILL", "timeout"),
                no_retry_on=("exit:2", "spawn"),
            ),
        ),
    ),
    ("--delay=0 true", Submission("true", Spec(delay=0.0))),
    ("--delay=1.5h true", Submission("true", Spec(delay=5400.0))),
    ("--at=2026-11-24T08:00:00+01:00 true", Submission("true", Spec(at=1795503600.0))),
    ("--at=1970-01-01T00:00:00Z true", Submission("true", Spec(at=0.0))),
    ("--after=3 true", Submission("true", Spec(after=(3,)))),
    (
        '--after-label="the build" true',
        Submission("true", Spec(named=NamedDependencies(after_label="the build"))),
    ),
    (
        "--after-key=a,b --after=3,4 --after-any-label=x --after-any-key=c --after-fail=5 true",
        Submission(
            "true",
            Spec(
                after=(3, 4),
                after_fail=(5,),
                named=NamedDependencies(
                    after_key=("a", "b"), after_any_label="x", after_any_key=("c",), given=(2, 0, 1)
                ),
            ),
        ),
    ),
    (
        "--after-fail-label=x --after-fail-key=d true",
        Submission("true", Spec(named=NamedDependencies(after_fail_label="x", after_fail_key=("d",)))),
    ),
    ("--array=0-0 true", Submission("true", Spec(array=Array(0, 0)))),
    ("--array=1-1000%8 true", Submission("true", Spec(array=Array(1, 1000, 8)))),
    ("--array=007-010%1 true", Submission("true", Spec(array=Array(7, 10, 1)))),
    ("--array=999900000-999999999 true", Submission("true", Spec(array=Array(999_900_000, 999_999_999)))),
    ("--hold true", Submission("true", Spec(hold=True))),
    ("--memory=1M true", Submission("true", Spec(memory=1024**2))),
    ("--memory-max=1M true", Submission("true", Spec(memory_max=1024**2))),
    ("--cpu-time=1ms true", Submission("true", Spec(cpu_time=0.001))),
    ("--nofile=3 true", Submission("true", Spec(nofile=3))),
    ("--nofile=1048576 true", Submission("true", Spec(nofile=1024**2))),
    ("--notify-fail --hold -- --hold", Submission("--hold", Spec(notify_fail=True, hold=True))),
    ("--stdin=5 cat", Submission("cat", Spec(stdin=5))),
    ("--stdin=0 cat", Submission("cat", Spec(stdin=0))),
    ("--script=12", Submission("", Spec(script=12))),
    ('--script=12 a "b c"', Submission('a "b c"', Spec(script=12))),
    ("--script=12 -- --x", Submission("--x", Spec(script=12))),
    ("--script=12 ", Submission("", Spec(script=12))),
    ("--script=12 --", Submission("", Spec(script=12))),
    ("--stdin=3 --script=0", Submission("", Spec(script=0, stdin=3))),
    (f"--stdin={MAX_BLOCK_SIZE} cat", Submission("cat", Spec(stdin=MAX_BLOCK_SIZE))),
]
REFUSED = [
    ("", BadRequest, "the command is missing"),
    ("   ", BadRequest, "the command is missing"),
    ("--retries=1", BadRequest, "the command is missing"),
    ("--", BadRequest, "the command is missing"),
    ("--bogus=1 true", BadRequest, "--bogus is not an option of SUBMIT"),
    ("--timeout true", BadRequest, "--timeout needs a value"),
    ("--interactive=yes true", BadRequest, "--interactive: takes no value"),
    ("--interactive --stdin=1 cat", BadRequest, "--interactive and --stdin cannot be given together"),
    ("--retries=1 --interactive cat", BadRequest, "--interactive and --retries cannot be given together"),
    ("--array=1-2 --interactive cat", BadRequest, "--interactive and --array cannot be given together"),
    ("--expires=0 true", BadRequest, "--expires: expected a duration above 0"),
    ("--expires=60 --delay=1m true", BadRequest, "--delay is not less than --expires"),
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
    ("--after-label= true", BadRequest, "--after-label: expected 1 to 1000 characters, not 0"),
    ("--after-key=a,,b true", BadRequest, "--after-key: expected a name"),
    ("--cwd=here true", BadRequest, "--cwd: expected a path that begins with /"),
    ("--cwd= true", BadRequest, "--cwd: expected a path that begins with /"),
    ('--cwd="/a\\x00b" true', BadRequest, "--cwd has a NUL byte"),
    ('--env=A="\\xff\\x00" true', BadRequest, "--env has a NUL byte"),
    ('--env="\\xff=1" true', BadRequest, "--env: expected NAME=value"),
    ('--label="\\xff" true', BadRequest, "--label is not UTF-8"),
    ("--env=TASKQ_QUEUE=x true", BadRequest, "--env: names that begin with TASKQ_"),
    ("--secret=TASKQ_QUEUE=x true", BadRequest, "--secret: names that begin with TASKQ_"),
    ("--secret=A=1 --env=B=1 --env=A=2 true", BadRequest, "A is given by --env and by --secret"),
    ("--secret true", BadRequest, "--secret needs a value"),
    ("--umask=8 true", BadRequest, "--umask: expected an octal mask"),
    ("--nice=20 true", BadRequest, "--nice: expected a whole number from -20 to 19"),
    ("--max-output=-1 true", BadRequest, "--max-output: expected a size"),
    ("--merge=false true", BadRequest, "--merge: takes no value"),
    ("--merge --stderr=/log true", BadRequest, "--merge gives the job one stream"),
    ("--stdout=log true", BadRequest, "--stdout: expected a path that begins with /"),
    ("--stderr=none true", BadRequest, "--stderr: expected a path that begins with /"),
    ('--stdout="/\\xff" true', BadRequest, "--stdout is not UTF-8"),
    ("--stdout=/%i true", BadRequest, "--stdout: expected %j for the job's id, %a for"),
    ("--stdout=/a% true", BadRequest, "--stdout: expected %j for the job's id"),
    ("--stdout=/" + "x" * 4095 + " true", BadRequest, "--stdout: expected a path of at most 4095 bytes"),
    ("--stdout=/a --stderr=/b --idle-timeout=1 true", BadRequest, "--idle-timeout waits for output"),
    ("--stdout=/a --merge --idle-timeout=1 true", BadRequest, "--idle-timeout waits for output"),
    ("--queue= true", BadRequest, "--queue: expected a name"),
    ("--queue=a,b true", BadRequest, "--queue: expected a name"),
    ("--priority=1000001 true", BadRequest, "--priority: expected a whole number from -1000000 to 1000000"),
    ("--priority=high true", BadRequest, "--priority: expected a whole number"),
    ("--slots=0 true", BadRequest, "--slots: expected a whole number from 1 to 10000"),
    ("--slots=10001 true", BadRequest, "--slots: expected a whole number from 1 to 10000"),
    (
        "--need=gpu true",
        BadRequest,
        "--need: expected a resource and its amount, such as gpu:1, not 'gpu'",
    ),
    ("--need= true", BadRequest, "--need: expected a resource and its amount"),
    ("--need=:1 true", BadRequest, "--need: expected a resource and its amount"),
    ("--need=gpu:1, true", BadRequest, "--need: expected a resource and its amount"),
    ("--need=gpu:0 true", BadRequest, "--need: expected a whole number from 1"),
    ("--need=gpu:x true", BadRequest, "--need: expected a whole number from 1"),
    ("--need=gpu:1,gpu:1 true", BadRequest, "--need: gpu is named twice"),
    ("--idle-timeout=0 true", BadRequest, "--idle-timeout: expected a duration above 0"),
    ("--retry-delay-max=-1 true", BadRequest, "--retry-delay-max: expected a duration"),
    ("--retry-on= true", BadRequest, "--retry-on: expected a condition"),
    ("--no-retry-on=exit:0 true", BadRequest, "--no-retry-on: expected a whole number from 1"),
    ("--delay=tomorrow true", BadRequest, "--delay: expected a duration"),
    ("--at=10:00 true", BadRequest, "--at: expected a time such as"),
    ("--delay=1 --at=2026-11-24T08:00:00Z true", BadRequest, "give one of them"),
    ("--after= true", BadRequest, "--after: expected a job's id"),
    ("--after=1,,2 true", BadRequest, "--after: expected a job's id"),
    ("--after-any=0 true", BadRequest, "--after-any: expected a job's id"),
    ("--after-fail=1-3 true", BadRequest, "--after-fail: expected a job's id"),
    ("--after=1000000000000000000 true", NoSuchJob, "there is no job 1000000000000000000"),
    ("--hold=yes true", BadRequest, "--hold: takes no value"),
    ("--array=5 true", BadRequest, "--array: expected <first>-<last>"),
    ("--array= true", BadRequest, "--array: expected <first>-<last>"),
    ("--array=1-3% true", BadRequest, "--array: expected <first>-<last>"),
    ("--array=-1-3 true", BadRequest, "--array: expected <first>-<last>"),
    ("--array=1,3 true", BadRequest, "--array: expected <first>-<last>"),
    ("--array=\u0661-3 true", BadRequest, "--array: expected <first>-<last>"),
    ("--array=3-1 true", BadRequest, "--array: expected 1 to 100000 tasks"),
    ("--array=1-100001 true", BadRequest, "--array: expected 1 to 100000 tasks"),
    ("--array=1-3%0 true", BadRequest, "--array: expected a whole number from 1 to 100000"),
    ("--array=1-1000000000 true", BadRequest, "--array: expected a whole number from 0 to 999999999"),
    ("--array=" + "9" * 5000 + "-1 true", BadRequest, "--array: expected a whole number from 0"),
    ("--memory=512 true", BadRequest, "--memory: expected a size of at least 1M"),
    ("--memory-max=512 true", BadRequest, "--memory-max: expected a size of at least 1M"),
    ("--memory=lots true", BadRequest, "--memory: expected a size"),
    ("--cpu-time=0 true", BadRequest, "--cpu-time: expected a duration above 0"),
    ("--nofile=2 true", BadRequest, "--nofile: expected a whole number from 3 to 1048576"),
    ("--notify-fail=1 true", BadRequest, "--notify-fail: takes no value"),
    ("--every=1h true", BadRequest, "--every is an option of SCHEDULE"),
    ('--cron="* * * * *" true', BadRequest, "--cron is an option of SCHEDULE"),
    ("--overlap true", BadRequest, "--overlap is an option of SCHEDULE"),
    ("--max-output=999999999999999G true", BadRequest, "--max-output: expected a size"),
    ("--stdin=1x cat", BadRequest, "--stdin: expected a whole number"),
    (f"--stdin={MAX_BLOCK_SIZE + 1} cat", TooLarge, f"the limit is {MAX_BLOCK_SIZE} bytes"),
    (f"--script={MAX_SKIPPED_BLOCK}", TooLarge, f"the limit is {MAX_BLOCK_SIZE} bytes"),
    (f"--environment={MAX_ENVIRONMENT_SIZE + 1} true", TooLarge, f"is {MAX_ENVIRONMENT_SIZE} bytes; unset"),
    (f"--environment=999999:{HASH} true", TooLarge, f"the limit is {MAX_ENVIRONMENT_SIZE} bytes"),
    (f"--environment=7:{HASH}0 true", BadRequest, "--environment: expected a whole number"),
    (f"--environment=:{HASH} true", BadRequest, "--environment: expected a whole number"),
]


@pytest.mark.parametrize("text, order", ACCEPTED)
def test_parse_submission_returns_command_and_spec(text: str, order: Submission) -> None:
    assert parse_submission(text) == order


@pytest.mark.parametrize("text, error, part", REFUSED)
def test_parse_submission_refuses_invalid_text(text: str, error: type[Exception], part: str) -> None:
    with pytest.raises(error) as refusal:
        parse_submission(text)
    assert part in str(refusal.value)


@pytest.mark.parametrize(
    "text, block",
    [
        ("--secret=B=2 --secret=A=1 --env=C=3 true --secret=D=4", b"A=1\0B=2\0"),
        ('--secret=A=1 --secret=A="\\xff \\x22=" --stdin=3 cat', b'A=\xff "=\0'),
        ('--secret="A=b c" true', b"A=b c\0"),
        ("--env=A=1 true", b""),
    ],
)
def test_secret_block_has_the_values_of_the_secrets(text: str, block: bytes) -> None:
    assert secret_block(text) == block


@pytest.mark.parametrize(
    "text",
    [
        "--secret=hunter2 true",
        "--secret=hunter-2=hunter2 true",
        '--secret="hunter2" true',
        '--secret=A="hunter1"hunter2 true',
        '--secret=A="hunter2\\x00" true',
        '--secret=A="hunter2',
        "--secret=TASKQ_A=hunter2 true",
        "--secret=A=hunter2 --env=A=1 true",
        "--secret=A=hunter2 --bogus true",
        "--secret=A=hunter2",
    ],
)
def test_error_does_not_repeat_a_secret(text: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_submission(text)
    assert "hunter" not in str(refusal.value)


def test_submit_options_are_those_of_the_protocol() -> None:
    assert list(submit.SUBMIT_OPTIONS) == PROTOCOL_OPTIONS


def test_submit_option_sets_the_field_of_its_name() -> None:
    others = {"need": "needs", "secret": "secrets"}
    fields = {others.get(name, name.replace("-", "_")) for name in submit.SUBMIT_OPTIONS}
    assert fields == {option.field for option in submit.SUBMIT_OPTIONS.values()}
    others_of_spec = {
        *("script_line", "script_file", "blocks", "cwd_base64", "env_base64", "as_daemon", "named")
    }
    named = set(NamedDependencies.__struct_fields__) - {"given"}
    assert fields == (set(Spec.__struct_fields__) - others_of_spec) | named


def test_option_has_usage_unless_it_is_a_flag() -> None:
    for table in (submit.SUBMIT_OPTIONS, SCHEDULE_OPTIONS, submit.SET_OPTIONS):
        for option in table.values():
            assert (option.usage is None) == (option.parse is parse_flag)


def test_parse_submission_takes_tasks_as_dependencies() -> None:
    spec: Any = parse_submission("--after=7,7.3 --after-any=0012 --after-fail=5.0,6 true").spec
    assert spec.after == (7, TaskId(7, 3))  # the engine resolves it
    assert spec.after_any == (12,)
    assert spec.after_fail == (TaskId(5, 0), 6)


@pytest.mark.parametrize("counts", [(1001, 0, 0), (500, 500, 1), (0, 1, 1000)])
def test_parse_submission_refuses_more_than_1000_dependencies(counts: tuple[int, int, int]) -> None:
    names = ("after", "after-any", "after-fail")

    def line(numbers: tuple[int, ...]) -> str:
        given = [
            f"--{name}={','.join(['7'] * number)}"
            for name, number in zip(names, numbers, strict=True)
            if number
        ]
        return " ".join([*given, "true"])

    with pytest.raises(BadRequest, match="expected up to 1000 dependencies, not 1001"):
        parse_submission(line(counts))
    most = max(counts)
    parse_submission(line(tuple(count - (count == most) for count in counts)))


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
    ("--environment=9 --stdin=5 cat", (5, 9)),
    ("--environment=9 --script=7 --stdin=5", (7, 5, 9)),
    (f"--environment=9:{HASH} --stdin=5 cat", (5,)),
    (f"--stdin={MAX_SKIPPED_BLOCK} cat", (MAX_SKIPPED_BLOCK,)),
    ("--label=--stdin=5 true", ()),
    ('--label="--stdin=5" true', ()),
]
SIZES_OF_REFUSED = [
    ("--stdin=5", (5,)),
    ("--script=7 --bogus true", (7,)),
    ("--bogus=1 --stdin=5 cat", (5,)),
    ("--stdin=5 --bogus=1 cat", (5,)),
    ("--every=1h --stdin=5 cat", (5,)),
    ("--array=3-1 --stdin=5 cat", (5,)),
    ("--timeout=soon --stdin=5 cat", (5,)),
    ("--key=a --key=b --stdin=5 cat", (5,)),
    (f"--script={MAX_BLOCK_SIZE + 1} --stdin=5", (MAX_BLOCK_SIZE + 1, 5)),
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
    (f"--environment=7:{HASH.upper()} x", BadRequest, "--environment needs the number of bytes"),
    (f"--environment=7 --environment=7:{HASH} x", BadRequest, "--environment is given twice"),
    (f"--environment={MAX_SKIPPED_BLOCK + 1} x", TooLarge, f"the limit is {MAX_ENVIRONMENT_SIZE} bytes"),
    ("--script=1 --stdin=x", BadRequest, "--stdin needs the number of bytes"),
    (f"--stdin={MAX_SKIPPED_BLOCK + 1} cat", TooLarge, f"the limit is {MAX_BLOCK_SIZE} bytes"),
    ("--stdin=" + "9" * 18 + " cat", TooLarge, f"the limit is {MAX_BLOCK_SIZE} bytes"),
    ("--stdin=" + "9" * 60000 + " cat", TooLarge, f"the limit is {MAX_BLOCK_SIZE} bytes"),
]


@pytest.mark.parametrize("text, sizes", SIZES)
def test_block_sizes_are_those_of_the_options(text: str, sizes: tuple[int, ...]) -> None:
    assert block_sizes(text) == sizes


@pytest.mark.parametrize("text, sizes", SIZES_OF_REFUSED)
def test_block_sizes_of_refused_submission_are_known(text: str, sizes: tuple[int, ...]) -> None:
    with pytest.raises(TaskqError):
        parse_submission(text)
    assert block_sizes(text) == sizes


@pytest.mark.parametrize("text, error, part", LOST)
def test_block_sizes_that_are_invalid_are_refused(text: str, error: Any, part: str) -> None:
    with pytest.raises(error) as refusal:
        block_sizes(text)
    assert part in str(refusal.value)
    assert len(str(refusal.value)) < 200


PIECES = ["--stdin=5", "--stdin=", "--script=7", "--", "--x=", "--retries=1", *'" \t=5é\0\\', "cat"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
@example("--stdin=5 --script=7")
def test_block_sizes_of_accepted_submission_match_its_spec(text: str) -> None:
    with suppress(TaskqError):
        spec = parse_submission(text).spec
        assert block_sizes(text) == tuple(size for size in (spec.script, spec.stdin) if size is not None)


@pytest.mark.parametrize(
    "words, at",
    [
        ("--at=2026-03-29T02:30 --tz=Europe/Berlin", "2026-03-29T01:00:00+00:00"),
        ("--tz=Europe/Berlin --at=2026-10-25T02:30:15", "2026-10-25T00:30:15+00:00"),
        ("--tz=Europe/Berlin --at=2026-10-25T02:30:15Z", "2026-10-25T02:30:15+00:00"),
    ],
)
def test_time_without_offset_is_local_to_the_given_zone(words: str, at: str) -> None:
    spec = parse_submission(f"{words} x").spec
    assert (spec.tz, spec.at) == ("Europe/Berlin", datetime.fromisoformat(at).timestamp())


@pytest.mark.parametrize(
    "words, part",
    [
        ("--at=2026-03-29T02:30", "add --tz with its time zone"),
        ("--at=2026-02-30T02:30 --tz=UTC", "there is no such day or time"),
        ("--tz=Mars/Olympus", "expected a time zone that this machine knows"),
        ("--tz=../../etc/passwd", "expected a time zone that this machine knows"),
        ("--tz=/etc/localtime", "expected a time zone that this machine knows"),
        ("--tz=America", "expected a time zone that this machine knows"),
    ],
)
def test_time_without_zone_and_unknown_zone_are_refused(words: str, part: str) -> None:
    with pytest.raises(BadRequest, match=part):
        parse_submission(f"{words} x")
