"""The words of the protocol (docs/protocol.md §2): accepted and refused values; a refusal changes nothing."""

from pathlib import Path

import pytest

from tests.end_to_end.wire import Wire, quote

QUOTED = [
    (r'""', b""),
    (r'"plain"', b"plain"),
    (r'"two words"', b"two words"),
    (r'"\\ \" \n \r \t"', b'\\ " \n \r \t'),
    ('"pärl"', "pärl".encode()),
    (r'"\x01\x7F\x80\xff\xFf"', b"\x01\x7f\x80\xff\xff"),
    (r'"\x41\x22\x5c\x0a"', b'A"\\\n'),
    (r'"--name=\"x\" -- y"', b'--name="x" -- y'),
]

NOT_QUOTED = [
    r'"no end',
    r'"\q"',
    r'"\x4"',
    r'"\xZZ"',
    r'"\u0041"',
    '"\\"',
    r'"a"b',
    '"\x85"',
    '"\x01"',
    '"\t"',
]

DURATIONS = ["1", "1.5", "0.5", "500ms", "10s", "10m", "2h", "1d", "1.5h"]
NOT_DURATIONS = ["", "x", "-1", "1w", "1S", "m", ".", "1e3", "nan", "inf", "1m30s", "٣"]

SIZES = ["1", "4096", "64k", "1M", "2G"]
NOT_SIZES = ["", "x", "-1", "1.5M", "1K", "1m", "1g", "1T", "1kB", "M", "0x10"]

NAMES = ["a", "A-Z.a_z+0/9:x@y-", "x" * 200]
NOT_NAMES = ["", "x" * 201, "a,b", "a!", "ä", '"a b"']

NOT_IDS = ["0", "-1", "+1", "x", "1x", "01x", "#1", '"1"', "0.1", "1.", ".1", "1.x", "1.-1", "1.1.1"]

OPTIONS = [
    "--bogus true",
    "--bogus=1 true",
    "--timeout true",  # a value needs its =
    "--Timeout=1 true",
    "--retries=x true",
    "--retries=-1 true",
    "--retries=1.5 true",
    "--retries= true",
    "--umask=8 true",
    "--umask=9999 true",
    "--umask=x true",
    "--nice=x true",
    "--nice=1.5 true",
    "--nice= true",
    "--env=A true",
    "--env==x true",
    "--env= true",
    '--env=A="x true',
    '--label="x true',
    '--label="a"b true',
    '--cwd="/tmp true',
    "--cwd= true",
    "",
    "--",
    "-- ",
    "--timeout=1",
    "--timeout=1 --",
]


def _refused(wire: Wire, line: str) -> None:
    """Assert that the line is refused without making a job, and that the session continues."""
    last = max([job["id"] for job in wire.list("--reverse --limit=1")], default=0)
    reply = wire.ask(line)
    assert reply.startswith("ERROR BAD_REQUEST "), reply
    assert len(reply) > len("ERROR BAD_REQUEST expected"), "the text is for a person"
    assert wire.list(f"--from={last + 1}") == []


@pytest.mark.parametrize("text, value", QUOTED)
def test_quoted_value_is_decoded(wire: Wire, text: str, value: bytes) -> None:
    assert wire.run(f'--env=V={text} printf %s "$V"') == (value, b"", "0")


def test_quoted_value_may_have_any_byte_but_nul(wire: Wire) -> None:
    value = bytes(range(1, 256))
    assert wire.run(f'--env=V={quote(value)} printf %s "$V"').stdout == value


@pytest.mark.parametrize("text", NOT_QUOTED)
def test_invalid_quoted_value_is_refused(wire: Wire, text: str) -> None:
    _refused(wire, f"SUBMIT --label={text} true")
    _refused(wire, f"SUBMIT --env=V={text} true")


def test_result_is_quoted_in_canonical_form(wire: Wire) -> None:
    job = wire.submit(r"""printf 'a\\b"c\td\re\nf\001\177\200\377 ~!'; printf '\033[0m' >&2; exit 3""")
    assert wire.wait(job) == "FAILED"
    reply = wire.ask(f"RESULT {job}")
    assert reply.replace(r"\x1b", r"\x1B").replace(r"\x7f", r"\x7F").replace(r"\xff", r"\xFF") == (
        r'RESULT "a\\b\"c\td\re\nf\x01\x7F\x80\xFF ~!" "\x1B[0m" 3'
    )


@pytest.mark.parametrize("option", ["--timeout", "--kill-after", "--retry-delay"])
def test_duration_is_accepted_or_refused(wire: Wire, option: str) -> None:
    for text in DURATIONS:
        wire.submit(f"{option}={text} true")
    for text in NOT_DURATIONS:
        _refused(wire, f"SUBMIT {option}={text} true")


def test_duration_without_a_unit_is_in_seconds(wire: Wire) -> None:
    jobs = [wire.submit(f"--timeout={text} true") for text in ("90", "90s", "1.5m", "90000ms", "0.025h")]
    assert [wire.show(job)["timeout"] for job in jobs] == [90] * len(jobs)


def test_size_is_accepted_or_refused(wire: Wire) -> None:
    for text in SIZES:
        wire.submit(f"--max-output={text} true")
    for text in NOT_SIZES:
        _refused(wire, f"SUBMIT --max-output={text} true")


def test_size_units_are_powers_of_1024(wire: Wire) -> None:
    jobs = [wire.submit(f"--max-output={text} head -c 3000000 /dev/zero") for text in ("1000", "1k", "1M")]
    assert {wire.wait(job) for job in jobs} == {"COMPLETED"}
    assert [wire.show(job)["stdout_bytes"] for job in jobs] == [1000, 1024, 1024**2]
    assert [wire.show(job)["stdout_dropped"] for job in jobs] == [
        3000000 - 1000,
        3000000 - 1024,
        3000000 - 1024**2,
    ]


def test_name_is_accepted_or_refused(wire: Wire) -> None:
    for text in NAMES:
        wire.submit(f"--key={text} true")
    for text in NOT_NAMES:
        _refused(wire, f"SUBMIT --key={text} true")


@pytest.mark.parametrize("verb", ["STATUS", "RESULT", "SHOW", "WAIT", "CANCEL", "RETRY", "OUTPUT"])
def test_id_must_be_a_positive_integer(wire: Wire, verb: str) -> None:
    rest = " stdout" if verb == "OUTPUT" else ""
    for text in NOT_IDS:
        _refused(wire, f"{verb} {text}{rest}")
    _refused(wire, verb)
    assert wire.ask(f"{verb} 999999999{rest}").startswith("ERROR NO_SUCH_JOB ")
    assert wire.ask(f"{verb} {'9' * 40}{rest}").split(" ")[1] in ("NO_SUCH_JOB", "BAD_REQUEST")


def test_task_of_a_job_that_is_not_an_array_is_refused(wire: Wire) -> None:
    plain = wire.submit("true")
    _refused(wire, f"STATUS {plain}.0")
    assert wire.ask("STATUS 999999999.0").startswith("ERROR NO_SUCH_JOB ")


@pytest.mark.parametrize("text", OPTIONS)
def test_invalid_submission_is_refused(wire: Wire, text: str) -> None:
    _refused(wire, f"SUBMIT {text}")


COMMANDS = [
    pytest.param("printf '%s|' a  \"b  c\"   d", b"a|b  c|d|", id="spaces"),
    pytest.param("printf '%s|' \"x\ty\"", b"x\ty|", id="a tab"),
    pytest.param(
        r"""printf '%s|' 'a"b' "c\"d" e\ f '\g' "\\h" """,
        b'a"b|c"d|e f|\\g|\\h|',
        id="quotes and backslashes",
    ),
    pytest.param(
        """V=1; printf '%s|' $V "$V" '$V' $((V+1)) `echo 3` $(echo 4)""", b"1|1|$V|2|3|4|", id="dollars"
    ),
    pytest.param("A=1 sh -c 'echo $A'", b"1\n", id="an assignment first"),
    pytest.param("echo --timeout=1 -- --x", b"--timeout=1 -- --x\n", id="options after its first word"),
    pytest.param("-- echo x", b"x\n", id="after a lone --"),
    pytest.param('-- --no-such-program; echo "$?"', b"127\n", id="beginning with --"),
    pytest.param("-no-such-program; echo $?", b"127\n", id="beginning with -"),
    pytest.param("--timeout=60 -- -- x; echo $?", b"127\n", id="beginning with a second --"),
    pytest.param("echo a; echo b # c", b"a\nb\n", id="a comment"),
    pytest.param("echo 'SUBMIT echo x'", b"SUBMIT echo x\n", id="a request"),
    pytest.param('"echo" x', b"x\n", id="a quoted first word"),
    pytest.param("=x; echo $?", b"127\n", id="beginning with ="),
    pytest.param("echo '%s %(x)s {0} {x!r} %%'", b"%s %(x)s {0} {x!r} %%\n", id="of other formats"),
]


@pytest.mark.parametrize("text, stdout", COMMANDS)
def test_command_is_unchanged_to_the_end_of_the_line(wire: Wire, text: str, stdout: bytes) -> None:
    job = wire.submit(text)
    wire.wait(job)
    assert wire.result(job).stdout == stdout
    assert wire.show(job)["command"] == text.removeprefix("--timeout=60 ").removeprefix("-- ")


@pytest.mark.parametrize("option", ['--env=A="a\\x00b"', '--cwd="/tmp\\x00"'])
def test_nul_is_refused_or_fails_the_job(wire: Wire, option: str) -> None:
    reply = wire.ask(f"SUBMIT {option} true")
    if not reply.startswith("ERROR BAD_REQUEST "):
        job = int(reply.removeprefix("JOB_ID "))
        assert wire.wait(job) == "FAILED"
        assert wire.show(job)["reason"] == "spawn"


def test_options_may_come_in_any_order(wire: Wire, tmp_path: Path) -> None:
    text = f'--nice=3 --label="a b" --cwd={tmp_path} --umask=077 --env=A=1 --env=B="2 3" --timeout=1m -- echo'
    assert wire.run(f'{text} "$A $B $(umask) $(pwd)"').stdout == f"1 2 3 0077 {tmp_path}\n".encode()
