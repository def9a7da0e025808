"""Fifty clients at once: each id is returned once, and each result is right, byte for byte."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import Result, Wire

CLIENTS = 50
EACH = 20

Kind = tuple[str, bytes, Result]
"""The arguments of SUBMIT, the block that follows, and the expected result."""


def _kinds(client: int, place: Path) -> list[Kind]:
    """Return a client's submissions, which differ from those of all other clients."""
    chance = random.Random(client)
    kinds: list[Kind] = []
    for number in range(EACH):
        a, b, code = chance.randrange(1000), chance.randrange(1, 1000), chance.randrange(256)
        data = chance.randbytes(chance.choice([0, 10, 1_000, 70_000]))
        octal = "".join(f"\\{byte:03o}" for byte in data[:300])
        script = f"cat <<END\n{client} $(({a} + {b}))\nEND\nexit {code}\n".encode()
        kinds.append(
            [
                (f"echo {client} {number}", b"", Result(b"%d %d\n" % (client, number), b"", "0")),
                (f"expr {a} + {b}", b"", Result(b"%d\n" % (a + b), b"", "0")),
                (f"echo {a}; echo {b} >&2; exit {code}", b"", Result(b"%d\n" % a, b"%d\n" % b, str(code))),
                (f"--stdin={len(data)} cat", data, Result(data, b"", "0")),
                (f"--stdin={len(data)} cat >&2", data, Result(b"", data, "0")),
                (f"printf '{octal}'", b"", Result(data[:300], b"", "0")),
                (f"echo {a}; kill -9 $$; echo {b}", b"", Result(b"%d\n" % a, b"", "-9")),
                (f"seq {a} | tail -n 1 | tr 0-9 a-j", b"", Result(_letters(a), b"", "0")),
                ("true", b"", Result(b"", b"", "0")),
                (
                    f'--env=V="{a} {b}" --cwd={place} echo "$V" | tee {client}-{number}',
                    b"",
                    Result(b"%d %d\n" % (a, b), b"", "0"),
                ),
                (f"--script={len(script)}", script, Result(b"%d %d\n" % (client, a + b), b"", str(code))),
                ("factor 12345", b"", Result(b"12345: 3 5 823\n", b"", "0")),
                (f"head -c {a * 100} /dev/zero", b"", Result(bytes(a * 100), b"", "0")),
            ][number % 13]
        )
    if client % 10 == 0:
        kinds[0] = ("ping -q -c1 127.0.0.1 | grep -c '1.*received'", b"", Result(b"1\n", b"", "0"))
        kinds[1] = (
            f"cd {place} && convert in.ppm -flip -flip ppm:-",
            b"",
            Result((place / "in.ppm").read_bytes(), b"", "0"),
        )
        kinds[2] = (
            f"curl -sS file://{place}/in.ppm | gzip | gzip -d | wc -c",
            b"",
            Result(b"59\n", b"", "0"),
        )
    return kinds


def _letters(number: int) -> bytes:
    letters = str(number).translate(str.maketrans("0123456789", "abcdefghij"))
    return f"{letters}\n".encode() if number else b""


@pytest.mark.needs("ping", "convert", "curl")
def test_fifty_clients_submit_a_thousand_jobs_of_every_kind(daemon: DaemonFactory, tmp_path: Path) -> None:
    (tmp_path / "in.ppm").write_bytes(b"P6\n4 4\n255\n" + bytes(range(48)))
    one = daemon(slots=4, tcp=True)
    wires = [one.connect_tcp() if client % 5 == 0 else one.connect() for client in range(CLIENTS)]
    barrier = threading.Barrier(CLIENTS)

    def play(client: int, wire: Wire) -> list[int]:
        kinds = _kinds(client, tmp_path)
        barrier.wait()
        for text, block, _ in kinds:
            has_block = text.startswith(("--stdin", "--script"))
            wire.send(f"SUBMIT {text}\r\n".encode() + (block + b"\r\n" if has_block else b""))
        jobs = [int(wire.line().removeprefix("JOB_ID ")) for _ in kinds]
        wire.send(b"".join(b"WAIT %d\r\nRESULT %d\r\nSTATUS %d\r\n" % (job, job, job) for job in jobs))
        for job, (text, _, expected) in zip(jobs, kinds, strict=True):
            ended = wire.line()
            assert (text, *wire.read_result()) == (text, *expected)
            status = "COMPLETED 100" if expected.exit_code == "0" else "FAILED 0"
            assert (job, ended, wire.line()) == (job, f"STATUS {status}", f"STATUS {status}")
        return jobs

    with ThreadPoolExecutor(CLIENTS) as pool:
        answered = [job for jobs in pool.map(play, range(CLIENTS), wires) for job in jobs]
    assert sorted(answered) == list(range(1, CLIENTS * EACH + 1))
    assert sum(1 for _ in tmp_path.glob("*-*")) > 0
