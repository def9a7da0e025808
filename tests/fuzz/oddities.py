"""Values, words and bytes that parsers often handle wrongly, and ways to damage bytes."""

import random
from collections.abc import Callable, Sequence

HUGE = [
    b"0", b"-0", b"-1", b"1e9", b"0x10", b"1_000", b"+1", b"00000000000000000000000000000000001",
    b"2147483648", b"4294967296", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616",
    b"999999999999999999", b"1000000000000000000", b"9" * 400, b"1." + b"0" * 300 + b"1",
    b"-" + b"9" * 5000, b"1e309", b"nan", b"inf", b"NaN", b"0.0000000001", b".5", b"5.", b"1,000",
]  # fmt: skip

WORDS = [
    b"", b" ", b"\t", b"-", b"--", b"---", b"--=", b"--=x", b"--x=", b"--X=1", b"--a-", b"-- --", b"--\t",
    b"=", b"==", b'"', b'""', b'"a', b'a"', b'"a"b', b'"\\', b'"\\x', b'"\\x0"', b'"\\x00"', b'"\\xff"',
    b'"\\q"', b"'", b"\\", b"\\\\", b"%s%n", b"%", b"{}", b"{0}", b"{verb}", b"$(id)", b"`id`", b";", b"|",
    b"&", b"<", b">", b"*", b"~", b"#", b"!", b"\x00", b"\x01", b"\x07", b"\x08", b"\x0b", b"\x0c", b"\r",
    b"\x1b[2J", b"\x1b]0;x\x07", b"\x7f", b"\x80", b"\x9b31m", b"\xc3", b"\xc3\x28", b"\xc0\xaf",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xff\xf4", b"\xff\xfd\x06", b"\xef\xbb\xbf",
    b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xc2\x85", b"\xc2\x9b31m", b"\xef\xbc\x91", b"\xd9\xa1\xd9\xa2",
    b"\xc2\xb2", b"\xc5\xbf", b"\xc4\xb1", b"\xc3\x9f", b"\xef\xac\x81", b"\xe1\xba\x9e",
    b"\xf0\x9f\x92\xa9", b"e\xcc\x81", b"\xcc\x81" * 300, b"A" * 201, b"a" * 1001, b"x" * 5000, b"(" * 3000,
    b"[" * 3000, b"{" * 3000, b'{"a":' * 1000, b"../" * 500, b"--hold " * 900, b"--env=A=1 " * 800,
    b"-" * 4000, b'\\"' * 1000,
]  # fmt: skip

PATHS = [
    b"/", b"//", b"///tmp//", b"/..", b"/../../..", b"/tmp/../..", b"/tmp/./././.", b"/proc/self/fd/0",
    b"/proc/self/fd/../../1", b"/proc/self/cwd", b"/proc/1/root", b"/dev/null", b"/dev/stdin", b"/dev/fd/3",
    b"/dev/full", b"/etc/passwd", b"/root", b"/nonexistent", b"relative", b"./x", b"~", b"~root", b"$HOME",
    b"/$(id)", b"/tmp/%n", b"/" + b"a" * 300, b"/" + b"a/" * 2500, b"/" * 5000, b'"/tmp/\\x00"',
    b'"/a\\nb"', b'"/\\xff"', b'"/ "', b"/\xff", b"/\x00", b"file:///tmp", b"/tmp\r", b"/.", b"",
]  # fmt: skip

ENVIRONMENTS = [
    b"A=1", b"A=", b"=", b"", b"A", b"=1", b"1A=1", b"A-B=1", b"A B=1", b'A="x y"', b'A="\\xff"',
    b'A="\\x00"', b"LD_PRELOAD=/tmp/x.so", b"LD_LIBRARY_PATH=/tmp", b"LD_AUDIT=/tmp/x.so",
    b"GLIBC_TUNABLES=x=y", b"BASH_ENV=/tmp/x", b"ENV=/tmp/x", b"IFS=x", b"PATH=", b"PATH=/tmp:.", b"HOME=/",
    b"PYTHONPATH=/tmp", b"TASKQ_JOB_ID=1", b"TASKQ_=", b"TASKQ_TOKEN=x", b"LISTEN_FDS=3", b"PS4=$(id)",
    b"SHELLOPTS=xtrace", b"A" * 201 + b"=1", b"A=" + b"x" * 30000, b"BASH_FUNC_x%%=() { :; }", b"A=\xff",
    b"\xc3\xa9=1",
]  # fmt: skip

TIMES = [
    b"2026-11-24T07:00:00Z", b"1970-01-01T00:00:00Z", b"9998-12-31T23:59:60Z", b"2026-02-30T00:00:00Z",
    b"2026-11-24T25:00:00Z", b"2026-11-24T07:00:00", b"2026-11-24T07:00:00.123456789+23:59",
    b"0001-01-01T00:00:00Z", b"9999-12-31T23:59:59Z", b"2026-11-24t07:00:00z", b"1969-12-31T23:59:59Z",
    b"2026-W01-1", b"now",
]  # fmt: skip

ZONES = [
    b"UTC", b"Europe/Berlin", b"Australia/Lord_Howe", b"America/Santiago", b"Mars/Olympus",
    b"../../etc/passwd", b"/etc/localtime", b"", b"right/UTC", b"posixrules", b"America", b"UTC-1",
    b"a" * 5000,
]  # fmt: skip

TELNET = [
    b"\xff\xf6",
    b"\xff\xf4", b"\xff\xf1", b"\xff\xf2", b"\xff\xf3\xff\xfd\x06", b"\xff\xfd\x01", b"\xff\xfd\x06",
    b"\xff\xfb\x18", b"\xff\xfb\x1f", b"\xff\xfe\x01", b"\xff\xfc\x03", b"\xff\xfa\x18\x00xterm\xff\xf0",
    b"\xff\xff", b"\xff\xfd\xff", b"\xff\xfa\x1f\x00\x0a\x00\x0d\x0a\xff\xf0",
    b"\xff\xfa\x18\xff\xff\xf0\xff\xf0", b"\xff\xfb\x0a", b"\xff\xfd\x0d", b"\xff\xfa" + b"\n" * 1100,
    b"\xff\x0a", b"\xff\xfa\x18" * 40 + b"\xff\xf0",
]  # fmt: skip

_BYTES = b"\x00\n\r\xff\xfd\xfa\xf0\"\\=- \t\x7f\x80\xc3%'0919azAZ\x1b"

Damage = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _flip(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _overwrite(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([chance.choice(_BYTES)]) + data[at + 1 :]


def _insert(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    found = chance.choice(chance.choice((WORDS, HUGE, TELNET, PATHS, [bytes([byte]) for byte in _BYTES])))
    return data[:at] + found + data[at:]


def _delete(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.choice((1, 1, 2, 8, 100)) :]


def _repeat(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    part = data[at : at + chance.choice((1, 3, 10, 100))]
    return data[:at] + part * chance.choice((2, 3, 10, 100, 1000)) + data[at:]


def _cut(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data))]


def _behead(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[chance.randrange(len(data)) :]


def _splice(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others)
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other) + 1) :]


def _noise(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(chance.randrange(1, 60)) + data[at:]


DAMAGES: tuple[Damage, ...] = (_flip, _overwrite, _insert, _delete, _repeat, _cut, _behead, _splice, _noise)
"""Each changes bytes, which must not be empty; ``others`` are whole sessions."""

MAX_SIZE = 400_000
"""Bytes to which damaged input may grow."""


def damaged(chance: random.Random, data: bytes, others: Sequence[bytes], times: int) -> bytes:
    """Return bytes after some damages."""
    for _ in range(times):
        if data:
            data = chance.choice(DAMAGES)(chance, data, others)[:MAX_SIZE]
    return data
