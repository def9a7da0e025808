"""Sanitizing output for a terminal: text and colours are kept, other controls are shown as text."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.cli.display.sanitize import MAX_SEQUENCE_LENGTH, Sanitizer, sanitize_output
from tests.fakes.daemon import FakeDaemon, Request, data, job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import CHECKOUT, Process

RESET = b"\x1b[0m"

UNCHANGED = [
    b"plain text\n",
    b"a\tb\r\n10%\r20%\r",
    "Grüße, 日本語 ∑ — ž 🙂\n".encode(),
    b"\x1b[0m",
    b"\x1b[m",
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[01;38;5;8;48;5;200mof many\x1b[m",
    b"\x1b[38;2;8;8;8mtrue\x1b[38:2::8:8:8m\x1b[58:5:8m\x1b[4:3m\x1b[0m",
    b"\x1b[;97;107;2;3;4;5;7;9mall\x1b[0m",
]
SHOWN = [
    (b"\x1b]0;owned\x07", b"^[]0;owned^G"),
    (b"\x1b]52;c;cm0gLXJm\x1b\\", b"^[]52;c;cm0gLXJm^[\\"),
    (b"\x1b[2J\x1b[1;1H\x1b[A\x1b[K", b"^[[2J^[[1;1H^[[A^[[K"),
    (b"\x1b[?1049h\x1b[6n\x1b[>c\x1b[!p", b"^[[?1049h^[[6n^[[>c^[[!p"),
    (b"\x1bc\x1b(0\x1b#8\x1b7", b"^[c^[(0^[#8^[7"),
    (b"\x1bP+q544e\x1b\\\x1b_G\x1b^p\x1bXs", b"^[P+q544e^[\\^[_G^[^p^[Xs"),
    (b"\x1b", b"^["),
    (b"\x1b[", b"^[["),
    (b"\x1b[31", b"^[[31"),
    (b"\x1b\x1b[31mx\x1b[0m", b"^[\x1b[31mx\x1b[0m"),
    (b"\x1b[31;\x1b[31mx\x1b[0m", b"^[[31;\x1b[31mx\x1b[0m"),
    (b"\x1b[8mhidden", b"^[[8mhidden"),
    (b"\x1b[0;08mhidden", b"^[[0;08mhidden"),
    (b"\x1b[38;8mhidden", b"^[[38;8mhidden"),
    (b"\x1b[38;5;8;8mhidden", b"^[[38;5;8;8mhidden"),
    (b"\x1b[38;5mx", b"^[[38;5mx"),
    (b"\x1b[11mother font", b"^[[11mother font"),
    (b"\x1b[31 m\x1b[?31m\x1b[>4;1m\x1b[31\nm", b"^[[31 m^[[?31m^[[>4;1m^[[31\nm"),
    (b"\x1b[" + b"1;" * 200 + b"1m", b"^[[" + b"1;" * 200 + b"1m"),
    (b"\0\x01\x05\x07\x08\x0b\x0c\x0e\x0f\x11\x1f\x7f", b"^@^A^E^G^H^K^L^N^O^Q^_^?"),
    (b"\x9b31m\x80", rb"\x9b31m\x80"),
    ("\x9b31m\x9d0;x\x9c\x85".encode(), rb"\u009b31m\u009d0;x\u009c\u0085"),
    (b"caf\xe9", rb"caf\xe9"),
    (b"\xe2\x9b[31m", rb"\xe2\x9b[31m"),
    (b"\xc0\x9b\xf8\x88\x80\x80\x9b", rb"\xc0\x9b\xf8\x88\x80\x80\x9b"),
    (b"\xed\xb2\x9b", rb"\xed\xb2\x9b"),
    ("\u202egpj.exe\u202c\u2066\u2069".encode(), rb"\u202egpj.exe\u202c\u2066\u2069"),
]


@pytest.mark.parametrize("text", UNCHANGED)
def test_text_line_ends_and_colours_are_unchanged(text: bytes) -> None:
    assert sanitize_output(text) == text


@pytest.mark.parametrize("text, shown", SHOWN)
def test_other_sequences_are_shown_as_text(text: bytes, shown: bytes) -> None:
    assert sanitize_output(text) == shown


@pytest.mark.parametrize("text, shown", [*((text, text) for text in UNCHANGED), *SHOWN])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_sanitizer_result_does_not_depend_on_pieces(text: bytes, shown: bytes, size: int) -> None:
    sanitizer = Sanitizer()
    pieces = [sanitizer.sanitize(text[at : at + size]) for at in range(0, len(text), size)]
    assert b"".join([*pieces, sanitizer.finish()]) == shown


def test_sanitizer_holds_back_only_incomplete_sequences() -> None:
    sanitizer = Sanitizer()
    assert sanitizer.sanitize(b"a\x1b") == b"a"
    assert sanitizer.sanitize(b"[3") == b""
    assert sanitizer.sanitize(b"1mb") == b"\x1b[31mb"
    assert sanitizer.sanitize(b"\x1b[" + b"1;" * MAX_SEQUENCE_LENGTH) == b"^[[" + b"1;" * MAX_SEQUENCE_LENGTH
    assert sanitizer.finish() == RESET


@pytest.mark.parametrize(
    "text, is_reset",
    [
        (b"\x1b[31mred", True),
        (b"\x1b[31mred\x1b[0m", False),
        (b"\x1b[31mred\x1b[m and not", False),
        (b"\x1b[0m\x1b[4m", True),
        (b"\x1b[31mred\n\x1b[39m", True),
        (b"\x1b[2Jno colour\x1b[8m", False),
    ],
)
def test_reset_colours_resets_only_colours_that_are_set(text: bytes, is_reset: bool) -> None:
    sanitizer = Sanitizer()
    sanitizer.sanitize(text)
    assert sanitizer.reset_colours() == RESET * is_reset
    assert sanitizer.reset_colours() == b""
    assert sanitizer.finish() == b""


@pytest.mark.parametrize(
    "encoding, text, shown",
    [
        ("iso-8859-1", b"caf\xe9 \x9b31m", b"caf\xe9 \\u009b31m"),
        ("shift_jis", "表示".encode("shift_jis") + b"\x1b[2J", "表示".encode("shift_jis") + b"^[[2J"),
        ("ascii", "ž".encode(), rb"\xc5\xbe"),
    ],
)
def test_sanitize_output_decodes_with_the_encoding_of_the_terminal(
    encoding: str, text: bytes, shown: bytes
) -> None:
    """In Latin-1, the second byte of a UTF-8 character may be a C1 control that starts a sequence."""
    assert sanitize_output(text, encoding) == shown


SCRAPS = st.sampled_from(
    [
        b"\x1b",
        b"[",
        b"3",
        b"8",
        b"5",
        b";",
        b":",
        b"m",
        b"]0;",
        b"\x07",
        b"\x9b",
        b"\xc2",
        b"\xe2\x80",
        b"\xae",
    ]
)


@given(st.lists(st.one_of(SCRAPS, st.binary(max_size=8)), max_size=60))
def test_sanitizer_outputs_only_text_and_colours(pieces: list[bytes]) -> None:
    sanitizer = Sanitizer()
    shown = b"".join([*map(sanitizer.sanitize, pieces), sanitizer.finish()])
    assert shown == sanitize_output(b"".join(pieces))
    text = shown.decode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert all(re.match(r"\x1b\[[0-9;:]*m", text[at.start() :]) for at in re.finditer("\x1b", text))


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)), st.integers(1, 5))
def test_plain_text_is_never_changed(text: str, size: int) -> None:
    sanitizer = Sanitizer()
    sent = text.encode()
    assert (
        b"".join(
            [
                *(sanitizer.sanitize(sent[at : at + size]) for at in range(0, len(sent), size)),
                sanitizer.finish(),
            ]
        )
        == sent
    )


# the commands

EVIL = b"a\x1b]0;owned\x07b\x1b[31mc\r\n\x9b2J"
HARMLESS = rb"a^[]0;owned^Gb" + b"\x1b[31mc\r\r\n" + rb"\x9b2J" + RESET
"""EVIL as a terminal gets it; the terminal adds a carriage return to each line end."""
DONE = b"STATUS COMPLETED 100\r\n"


def evil_output(request: Request) -> bytes | Iterator[bytes]:
    """Reply for a job 7 that has printed EVIL; the pieces of a FOLLOW split sequences."""
    quoted = b"".join(b"\\x%02X" % byte for byte in EVIL)
    if request.verb == "FOLLOW":
        cuts = (2, 5, 18, len(EVIL))
        at = [0, *cuts[:-1]]
        return (
            b"".join(data("stdout", begin, EVIL[begin:end]) for begin, end in zip(at, cuts, strict=True))
            + DONE
        )
    if request.verb == "LOG":
        return b"DATA stdout 0 %d -\r\n%b\r\nEND 0 0 0 0 0\r\n" % (len(EVIL), EVIL)
    if request.verb == "OUTPUT":
        return data("stdout", 0, b"" if "--offset" in request.line else EVIL)
    return {"SHOW": job(7), "SUBMIT": b"JOB_ID 7\r\n", "RESULT": b'RESULT "%b" "" 0\r\n' % quoted}[
        request.verb
    ]


@pytest.mark.parametrize(
    "words", [("output", "7"), ("result", "7"), ("follow", "7"), ("log", "7"), ("run", "x")]
)
def test_output_on_a_terminal_is_sanitized(tmp_path: Path, words: tuple[str, ...]) -> None:
    with (
        FakeDaemon(evil_output, tmp_path) as daemon,
        Process(daemon.address, *words, on_terminal=("stdout", "stderr")) as process,
    ):
        assert process.end() == (0, b"", b"", HARMLESS)


@pytest.mark.parametrize("words", [("output", "7"), ("result", "7"), ("follow", "7"), ("log", "7"), ("run",)])
def test_raw_output_on_a_terminal_is_unchanged(tmp_path: Path, words: tuple[str, ...]) -> None:
    command = () if words != ("run",) else ("x",)
    with (
        FakeDaemon(evil_output, tmp_path) as daemon,
        Process(daemon.address, *words, "--raw", *command, on_terminal=("stdout", "stderr")) as process,
    ):
        assert process.end() == (0, b"", b"", EVIL.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    "words", [("output", "7"), ("result", "7"), ("follow", "7"), ("log", "7"), ("run", "x")]
)
def test_piped_output_is_unchanged(serve: Serve, call: Call, words: tuple[str, ...]) -> None:
    serve(evil_output)
    assert call(*words) == (0, EVIL, "")


def test_each_stream_is_sanitized_if_it_is_a_terminal(tmp_path: Path) -> None:
    both = data("stdout", 0, EVIL) + data("stderr", 0, EVIL) + DONE
    with (
        FakeDaemon(replies({"SHOW": job(7), "FOLLOW": both}), tmp_path) as daemon,
        Process(daemon.address, "follow", "7", on_terminal=("stderr",)) as process,
    ):
        assert process.end() == (0, EVIL, b"", HARMLESS)


def test_streams_are_sanitized_separately(tmp_path: Path) -> None:
    halves = data("stdout", 0, b"\x1b") + data("stderr", 0, b"]0;x\x07") + data("stdout", 1, b"[3") + DONE
    with (
        FakeDaemon(replies({"SHOW": job(7), "FOLLOW": halves}), tmp_path) as daemon,
        Process(daemon.address, "follow", "7", on_terminal=("stdout", "stderr")) as process,
    ):
        assert process.end().terminal == b"]0;x^G^[[3"


def test_messages_do_not_have_the_colours_of_a_job(tmp_path: Path) -> None:
    black = data("stdout", 0, b"\x1b[30;40mdark") + b"STATUS FAILED 0\r\n"
    failed = job(7, "FAILED", None, reason="timeout")
    with (
        FakeDaemon(replies({"SHOW": failed, "FOLLOW": black}), tmp_path) as daemon,
        Process(daemon.address, "follow", "7", on_terminal=("stdout", "stderr")) as process,
    ):
        shown = process.end().terminal
    assert shown.startswith(b"\x1b[30;40mdark" + RESET + b"taskq: job 7 is FAILED")


def test_question_does_not_have_the_colours_of_a_job(tmp_path: Path) -> None:
    is_over = threading.Event()

    def runs() -> Iterator[bytes]:
        yield data("stdout", 0, b"\x1b[30;40mdark")
        while not is_over.wait(0.1):
            yield b""

    def answer(request: Request) -> bytes | Iterator[bytes]:
        if request.verb == "FOLLOW":
            return runs()
        return job(7, "RUNNING", None) if request.verb == "SHOW" else b"JOB_ID 7\r\n"

    with (
        FakeDaemon(answer, tmp_path) as daemon,
        Process(daemon.address, "run", "x", on_terminal=("stdin", "stdout", "stderr")) as process,
    ):
        process.read("terminal", b"dark")
        process.interrupt()
        shown = process.read("terminal", b"[y/N] ")
        assert b"dark" + RESET + b"\r\nCancel job 7?" in shown
        process.type(b"n\n")
        assert process.end().code == 130
        is_over.set()


def test_later_attempt_starts_without_colours_of_the_earlier_one(tmp_path: Path) -> None:
    attempts = data("stdout", 0, b"\x1b[31mred\x1b") + data("stdout", 0, b"plain\n") + DONE
    with (
        FakeDaemon(replies({"SHOW": job(7), "FOLLOW": attempts}), tmp_path) as daemon,
        Process(daemon.address, "follow", "7", on_terminal=("stdout",)) as process,
    ):
        assert process.end().terminal == b"\x1b[31mred^[" + RESET + b"plain\r\n"


@pytest.mark.parametrize("options, is_sanitized", [((), True), (("--raw",), False)])
def test_lines_of_several_jobs_are_sanitized_individually(
    tmp_path: Path, options: tuple[str, ...], is_sanitized: bool
) -> None:
    text = b"\x1b[31mred\n\x1b]0;x\x07\n"

    def answer(request: Request) -> bytes:
        number = int(request.line.split(" ")[1])
        return job(number) if request.verb == "SHOW" else data("stdout", 0, text) + DONE

    with (
        FakeDaemon(answer, tmp_path) as daemon,
        Process(
            daemon.address, "follow", *options, "3", "4", on_terminal=("stdout",), NO_COLOR="1"
        ) as process,
    ):
        shown = process.end().terminal
    red, title = (b"\x1b[31mred" + RESET, b"^[]0;x^G") if is_sanitized else (b"\x1b[31mred", b"\x1b]0;x\x07")
    assert b"3| " + red + b"\r\n3| " + title + b"\r\n" in shown
    assert b"4| " + red + b"\r\n4| " + title + b"\r\n" in shown


def test_sanitize_imports_no_further_modules() -> None:
    code = (
        "import sys, taskqd.cli.app; before = set(sys.modules); import taskqd.cli.display.sanitize;"
        "print(*set(sys.modules) - before)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, check=True)
    assert shown.stdout.decode().split() in (["taskqd.cli.display.sanitize"], [])
