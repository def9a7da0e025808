"""Encoding submissions and schedules, and refusing what cannot be encoded."""

import os
from typing import Any

import pytest

from taskqd.client import (
    Refused,
)
from tests.fakes.daemon import Request
from tests.unit.client.samples import Serve

AFTER = "SUBMIT --after=3,4.1 --after-any=5 --after-fail=6,7 a"


@pytest.mark.parametrize(
    "command,options,line,blocks",
    [
        ("echo hello world", {}, "SUBMIT echo hello world", ()),
        ('A=1 ./run "x y"', {}, 'SUBMIT A=1 ./run "x y"', ()),
        ("--version", {}, "SUBMIT -- --version", ()),
        ("  --version", {}, "SUBMIT --   --version", ()),
        ("-x", {}, "SUBMIT -x", ()),
        ("grün", {}, "SUBMIT grün", ()),
        (["if", "a b", "A=1"], {}, "SUBMIT exec if 'a b' A=1", ()),
        (["-x"], {}, "SUBMIT exec env -- -x", ()),
        (["ls", b"\xff"], {}, "SUBMIT --script=11", (b"exec ls '\xff'",)),
        ("a", {"timeout": 90, "kill_after": 0.5}, "SUBMIT --timeout=90 --kill-after=0.5 a", ()),
        ("a", {"timeout": "10m"}, "SUBMIT --timeout=10m a", ()),
        ("a", {"retries": 3, "retry_delay": "500ms"}, "SUBMIT --retries=3 --retry-delay=500ms a", ()),
        ("a", {"key": "a/b@c", "nice": -5}, "SUBMIT --key=a/b@c --nice=-5 a", ()),
        ("a", {"queue": "q", "priority": -5, "slots": 2}, "SUBMIT --queue=q --priority=-5 --slots=2 a", ()),
        ("a", {"need": {"gpu": 1, "x": 2}}, "SUBMIT --need=gpu:1,x:2 a", ()),
        ("a", {"need": "gpu:1"}, "SUBMIT --need=gpu:1 a", ()),
        ("a", {"retry_on": ["exit:75", "timeout"]}, "SUBMIT --retry-on=exit:75,timeout a", ()),
        ("a", {"after": [3, "4.1"], "after_any": 5, "after_fail": "6,7"}, AFTER, ()),
        ("a", {"interactive": True}, "SUBMIT --interactive a", ()),
        ("a", {"hold": True, "notify_fail": False}, "SUBMIT --hold a", ()),
        ("a", {"at": 1764000000.5}, "SUBMIT --at=2025-11-24T16:00:00.500Z a", ()),
        ("a", {"at": "2026-11-24T08:00:00+01:00"}, "SUBMIT --at=2026-11-24T08:00:00+01:00 a", ()),
        ("a", {"array": "1-10%2", "memory": "1G"}, "SUBMIT --array=1-10%2 --memory=1G a", ()),
        ("a", {"umask": 0o2}, "SUBMIT --umask=002 a", ()),
        ("a", {"max_output": 4096}, "SUBMIT --max-output=4096 a", ()),
        ("a", {"merge": True, "stdout": "/a b/%j"}, 'SUBMIT --merge --stdout="/a b/%j" a', ()),
        ("a", {"merge": False, "stderr": "/dev/null"}, "SUBMIT --stderr=/dev/null a", ()),
        ("a", {"label": 'two "words"'}, r'SUBMIT --label="two \"words\"" a', ()),
        ("a", {"unless": "x y"}, r'SUBMIT --unless="x y" a', ()),
        ("a", {"label": ""}, 'SUBMIT --label="" a', ()),
        ("a", {"label": "a\nb\0"}, r'SUBMIT --label="a\nb\x00" a', ()),
        ("a", {"cwd": "/tmp/ü"}, r'SUBMIT --cwd="/tmp/\xC3\xBC" a', ()),
        ("a", {"cwd": os.fsdecode(b"/\xff")}, r'SUBMIT --cwd="/\xFF" a', ()),
        ("a", {"env": {"A": "1", "B": "x=y z"}}, 'SUBMIT --env=A=1 --env=B="x=y z" a', ()),
        ("a", {"secret": {"A": b"\xff x", "B": "1"}}, r'SUBMIT --secret=A="\xFF x" --secret=B=1 a', ()),
        ("wc", {"stdin": b"1\n2\r\n"}, "SUBMIT --stdin=5 wc", (b"1\n2\r\n",)),
        (None, {"script": b"#\0"}, "SUBMIT --script=2", (b"#\0",)),
        (None, {"script": b"x", "stdin": b""}, "SUBMIT --stdin=0 --script=1", (b"x", b"")),
        (["a b", "$c"], {"script": b"x"}, "SUBMIT --script=1 'a b' '$c'", (b"x",)),
        ("a $b", {"script": b"x"}, "SUBMIT --script=1 a $b", (b"x",)),
        (["--c"], {"script": b"x"}, "SUBMIT --script=1 -- --c", (b"x",)),
        ("a\nb", {}, "SUBMIT --script=3", (b"a\nb",)),
        ("a\rb", {"key": "k"}, "SUBMIT --key=k --script=3", (b"a\rb",)),
        ("a\nb", {"stdin": b"in"}, "SUBMIT --stdin=2 --script=3", (b"a\nb", b"in")),
        (b"ls \xff", {}, "SUBMIT --script=4", (b"ls \xff",)),
        ("ls " + os.fsdecode(b"\xff"), {}, "SUBMIT --script=4", (b"ls \xff",)),
    ],
)
def test_submit_encodes_options_command_and_blocks(
    serve: Serve, command: Any, options: Any, line: str, blocks: tuple[bytes, ...]
) -> None:
    client, requests = serve(b"JOB_ID 7\r\n")
    assert client.submit(command, **options) == 7
    assert requests == [Request(line, blocks)]


@pytest.mark.parametrize("length,is_script", [(65_536, False), (65_537, True)])
def test_submit_sends_command_too_long_for_a_line_as_script(
    serve: Serve, length: int, is_script: bool
) -> None:
    client, requests = serve(b"JOB_ID 1\r\n")
    client.submit("x" * (length - len("SUBMIT ")))
    assert (requests[0].blocks != ()) is is_script


@pytest.mark.parametrize(
    "command,options,code,text",
    [
        ("a\0b", {}, "BAD_REQUEST", "NUL byte; this one has one at offset 1"),
        ("\ud800", {}, "BAD_REQUEST", "lone surrogate"),
        ([], {}, "BAD_REQUEST", "a program and its arguments, not an empty list"),
        (["a", "b\0"], {}, "BAD_REQUEST", "NUL byte"),
        ("a\nb", {"script": b"x"}, "BAD_REQUEST", "arguments of a script must be UTF-8 without line breaks"),
        ([b"\xff"], {"script": b"x"}, "BAD_REQUEST", "arguments of a script must be UTF-8"),
        ("a\0", {"script": b"x"}, "BAD_REQUEST", "cannot contain a NUL byte"),
        (None, {}, "BAD_REQUEST", "either a command or a script"),
        ("a", {"env": {"A B": "1"}}, "BAD_REQUEST", "name of a variable"),
        ("a", {"secret": {"A B": "1"}}, "BAD_REQUEST", "name of a variable"),
        (
            "a",
            {"env": {"A": "x" * 70_000}},
            "LINE_TOO_LONG",
            "shorten or remove some --env, --secret or arguments",
        ),
        ("a", {"stdin": bytes(64 * 1024**2 + 1)}, "TOO_LARGE", "let the job read a file"),
    ],
)
def test_submit_refuses_invalid_values_before_sending(
    serve: Serve, command: Any, options: Any, code: str, text: str
) -> None:
    client, _ = serve(b"OK\r\n")
    with pytest.raises(Refused, match=text) as refused:
        client.submit(command, **options)
    assert refused.value.code == code
    client.ping()


@pytest.mark.parametrize(
    "command,options,code,text",
    [
        (None, {}, "BAD_REQUEST", "either a command or a script"),
        ("a\0b", {}, "BAD_REQUEST", "NUL byte"),
        ("a", {"env": {"A": "x" * 70_000}}, "LINE_TOO_LONG", "the limit is 65536; shorten or remove some"),
    ],
)
def test_schedule_refuses_invalid_values_before_sending(
    serve: Serve, command: str | None, options: Any, code: str, text: str
) -> None:
    with pytest.raises(Refused, match=text) as refused:
        serve()[0].schedule(command, every=1, **options)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "command, options, words, blocks",
    [
        ("a\nb", {}, "--script=3", (b"a\nb",)),
        (b"\xff", {}, "--script=1", (b"\xff",)),
        (None, {"script": b"x"}, "--script=1", (b"x",)),
        (["a b"], {"script": b"x", "stdin": b""}, "--stdin=0 --script=1 'a b'", (b"x", b"")),
        ("cat", {"stdin": b"\r\n", "secret": {"A": "1"}}, "--secret=A=1 --stdin=2 cat", (b"\r\n",)),
    ],
)
def test_schedule_encodes_options_command_and_blocks(
    serve: Serve, command: Any, options: Any, words: str, blocks: tuple[bytes, ...]
) -> None:
    client, requests = serve(b"OK 4\r\n", b"OK 4\r\n")
    assert client.schedule(command, every=1, **options) == 4
    assert client.set_schedule(4, command, **options) == 4
    assert requests == [
        Request(f"SCHEDULE --every=1 {words}", blocks),
        Request(f"SCHEDULE --set=4 {words}", blocks),
    ]


@pytest.mark.parametrize(
    "changes, line, blocks",
    [
        ({"script": b"ls\n"}, "SET 7 --script=3", (b"ls\n",)),
        ({"script": b"", "command": ["a b", "c"]}, "SET 7 --command=\"'a b' c\" --script=0", (b"",)),
        ({"script": b"ls", "command": ""}, 'SET 7 --command="" --script=2', (b"ls",)),
        ({"command": "a\nb", "nice": 1}, "SET 7 --nice=1 --script=3", (b"a\nb",)),
        ({"command": b"a\xff"}, "SET 7 --script=2", (b"a\xff",)),
        ({"command": "x" * 65_000}, 'SET 7 --command="' + "x" * 65_000 + '"', ()),
        ({"command": '"' * 33_000}, "SET 7 --script=33000", (b'"' * 33_000,)),
        ({"script": None, "command": None, "nice": None}, "SET 7 --nice=none", ()),
    ],
    ids=range(8),
)
def test_set_encodes_a_command_or_a_script(
    serve: Serve, changes: Any, line: str, blocks: tuple[bytes, ...]
) -> None:
    client, requests = serve(b'JOB {"id":7}\r\n', b'JOB {"id":7}\r\n', b'JOB {"id":8}\r\n')
    assert client.set(7, **changes) == {"id": 7}
    assert list(client.act_on_each("SET", [7, 8], changes=changes)) == [{"id": 7}, {"id": 8}]
    assert requests == [
        *[Request(line, blocks)] * 2,
        Request(line.replace("SET 7", "SET 8"), blocks),
    ]


@pytest.mark.parametrize(
    "changes, code",
    [
        ({"command": "a\0"}, "BAD_REQUEST"),
        ({"command": []}, "BAD_REQUEST"),
        ({"command": "a\nb", "script": b"x"}, "BAD_REQUEST"),
        ({"command": "x" * 65_500, "script": b"x"}, "LINE_TOO_LONG"),
        ({"script": bytes(64 * 1024**2 + 1)}, "TOO_LARGE"),
    ],
    ids=range(5),
)
def test_set_refuses_invalid_values_before_sending(serve: Serve, changes: Any, code: str) -> None:
    client, _ = serve(b"OK\r\n")
    with pytest.raises(Refused) as refused:
        client.set(7, **changes)
    assert refused.value.code == code
    client.ping()


def test_unknown_option_raises_type_error(serve: Serve) -> None:
    client, _ = serve()
    with pytest.raises(TypeError, match="'colour'"):
        client.submit("a", colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'key'"):
        client.schedule("a", every=1, key="k")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'key'"):
        client.set_schedule(4, remove=["key"])
    for name in ("secret", "env", "script", "stdin"):
        with pytest.raises(TypeError, match=f"'{name}' cannot be removed"):
            client.set_schedule(4, remove=[name])
    with pytest.raises(TypeError, match="'cwd'"):
        client.set(7, cwd="/")  # type: ignore[call-arg]
    for changed in ({"command": "ls"}, {"script": b"ls"}):
        with pytest.raises(TypeError, match="is changed of one job, and not of all that match"):
            client.act_on_many("SET", status="PENDING", changes=changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("job", ["x", "7.", "7 8", "7\r\nPING", -1, "\u0667"])
def test_invalid_job_reference_is_refused_before_sending(serve: Serve, job: Any) -> None:
    client, requests = serve(b"OK\r\n")
    for method in (client.status, client.follow, lambda job: client.watch(job=job)):
        with pytest.raises(Refused, match="expected a job's id"):
            list(method(job))
    client.ping()
    assert len(requests) == 1


def test_invalid_queue_name_is_refused_before_sending(serve: Serve) -> None:
    with pytest.raises(Refused, match="expected a name"):
        serve()[0].pause("a b")
