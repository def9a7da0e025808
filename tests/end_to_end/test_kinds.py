"""Many kinds of commands: their output is byte-exact, on the right stream, with their exit code."""

import gzip
import hashlib
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Result, Wire

PAGE = b"<!doctype html>\n<title>caf\xc3\xa9</title>\r\n\x00\xff" + bytes(range(256)) * 100

KINDS = [
    ("echo hello world", b"hello world\n", b"", "0"),
    ("expr 5 + 3", b"8\n", b"", "0"),
    ("expr 5 - 5", b"0\n", b"", "1"),
    ("factor 12345", b"12345: 3 5 823\n", b"", "0"),
    (
        "seq 2 30 | factor | awk 'NF == 2 { print $2 }' | tr '\\n' ' '",
        b"2 3 5 7 11 13 17 19 23 29 ",
        b"",
        "0",
    ),
    ("printf 'b\\na\\nc\\n' | sort | head -n 2 | tail -n 1", b"b\n", b"", "0"),
    ("false | true", b"", b"", "0"),
    ("true | false", b"", b"", "1"),
    ("true", b"", b"", "0"),
    (":", b"", b"", "0"),
    ("echo", b"\n", b"", "0"),
    ("printf 'no end of line'", b"no end of line", b"", "0"),
    ("echo out; echo err >&2; echo out2; echo err2 >&2", b"out\nout2\n", b"err\nerr2\n", "0"),
    ("exit 1", b"", b"", "1"),
    ("exit 42", b"", b"", "42"),
    ("exit 126", b"", b"", "126"),
    ("exit 137", b"", b"", "137"),
    ("exit 255", b"", b"", "255"),
    ("exit 256", b"", b"", "0"),
    ("kill -HUP $$", b"", b"", "-1"),
    ("kill -INT $$", b"", b"", "-2"),
    ("kill -KILL $$", b"", b"", "-9"),
    ("kill -TERM $$", b"", b"", "-15"),
    ("echo before; kill -ABRT $$; echo after", b"before\n", b"", "-6"),
    ("printf 'caf\\351\\n'; printf '\\200' >&2", b"caf\xe9\n", b"\x80", "0"),
    ("for i in 1 2 3; do echo $i; done", b"1\n2\n3\n", b"", "0"),
    ("f() { echo \"$1\"; return 7; }; f 'a  b'", b"a  b\n", b"", "7"),
    ("(exit 3) || echo recovered", b"recovered\n", b"", "0"),
    ("set -e; false; echo not reached", b"", b"", "1"),
    ("trap 'echo bye' EXIT; exit 9", b"bye\n", b"", "9"),
    ("sleep 0.1; echo slept", b"slept\n", b"", "0"),
    ("exec echo exec", b"exec\n", b"", "0"),
    ("(echo a; echo b >&2) 3>&1 1>&2 2>&3", b"b\n", b"a\n", "0"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with a few files for jobs."""
    (tmp_path / "words.txt").write_text("one two three\nfour five\n")
    (tmp_path / "all.bin").write_bytes(bytes(range(256)))
    (tmp_path / "reversed.bin").write_bytes(bytes(reversed(range(256))) * 2)
    return tmp_path


@pytest.mark.parametrize("command, stdout, stderr, exit_code", KINDS)
def test_command_has_the_result_that_it_has_in_a_shell(
    wire: Wire, command: str, stdout: bytes, stderr: bytes, exit_code: str
) -> None:
    job = wire.submit(command)
    assert wire.wait(job) == ("COMPLETED" if exit_code == "0" else "FAILED")
    assert wire.result(job) == Result(stdout, stderr, exit_code)


def test_missing_program_is_reported_by_the_shell(wire: Wire) -> None:
    result = wire.run("no-such-program --at-all")
    assert (result.stdout, result.exit_code) == (b"", "127")
    assert b"no-such-program" in result.stderr


def test_ls_runs(wire: Wire, place: Path) -> None:
    result = wire.run(f"--cwd={place} ls -la")
    assert (result.stderr, result.exit_code) == (b"", "0")
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == [
        b".",
        b"..",
        b"all.bin",
        b"reversed.bin",
        b"words.txt",
    ]
    result = wire.run(f"ls {place}/nothing")
    assert (result.stdout, result.exit_code) == (b"", "2")
    assert b"nothing" in result.stderr


def test_wc_runs(wire: Wire, place: Path) -> None:
    result = wire.run(f"wc {place}/words.txt")
    assert result.stdout.split() == [b"2", b"5", b"24", str(place / "words.txt").encode()]


def test_gzip_runs(wire: Wire, place: Path) -> None:
    whole = (place / "all.bin").read_bytes()
    assert wire.run(f"gzip {place}/all.bin") == (b"", b"", "0")
    assert not (place / "all.bin").exists()
    assert gzip.decompress((place / "all.bin.gz").read_bytes()) == whole
    assert (
        gzip.decompress(wire.run(f"gzip -c {place}/words.txt").stdout) == (place / "words.txt").read_bytes()
    )


@pytest.mark.needs("convert")
def test_convert_runs(wire: Wire, place: Path) -> None:
    pixels = bytes((x * 8, y * 8, 128)[channel] for y in range(24) for x in range(32) for channel in range(3))
    (place / "in.ppm").write_bytes(b"P6\n32 24\n255\n" + pixels)
    assert wire.run(f"--cwd={place} convert in.ppm -resize 50% out.png") == (b"", b"", "0")
    image = (place / "out.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", image[16:24]) == (16, 12)
    assert (
        wire.run(f"--cwd={place} convert in.ppm -flip -flip ppm:-").stdout == (place / "in.ppm").read_bytes()
    )
    result = wire.run(f"--cwd={place} convert words.txt.png out.png")
    assert result.exit_code == "1"
    assert b"words.txt.png" in result.stderr


@pytest.mark.needs("ping")
def test_ping_runs(wire: Wire) -> None:
    result = wire.run("ping -c1 127.0.0.1")
    assert (result.stderr, result.exit_code) == (b"", "0")
    assert re.search(rb"\b1 (packets )?received", result.stdout)


class _Page(BaseHTTPRequestHandler):
    """Answers ``/page`` with PAGE, anything else with 404."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/page" else 404)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in its signature)
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """Return the address of a web server on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.needs("curl")
def test_curl_gets_a_local_page(wire: Wire, web: str) -> None:
    assert wire.run(f"curl -sS --noproxy '*' {web}/page") == (PAGE, b"", "0")
    assert wire.run(f"curl -sS -f -o /dev/null --noproxy '*' {web}/nothing").exit_code == "22"


def test_script_may_have_a_here_document(wire: Wire, place: Path) -> None:
    script = b"cat > copy.txt <<'END'\n$HOME `x` \"y\" \\\\ \xe9\nEND\ncat copy.txt\n"
    script += b"wc -l <<END | tr -d ' '\na\nb\nEND\n"
    result = wire.run(f"--cwd={place} --script={len(script)}", script)
    assert result == (b'$HOME `x` "y" \\\\ \xe9\n2\n', b"", "0")


def test_binary_output_is_exact_on_both_streams(wire: Wire, place: Path) -> None:
    result = wire.run(f"--cwd={place} cat all.bin; cat reversed.bin >&2")
    assert result == ((place / "all.bin").read_bytes(), (place / "reversed.bin").read_bytes(), "0")


def test_output_of_100_mb_is_kept_whole_and_not_in_memory(running: Daemon, wire: Wire, place: Path) -> None:
    piece = bytes(range(256)) * 4096
    (place / "piece").write_bytes(piece)
    before = running.memory()
    job = wire.submit(
        f"cd {place}; i=0; while [ $i -lt 100 ]; do echo $i; cat piece; i=$((i + 1)); done; echo err >&2"
    )
    expected = hashlib.sha256()
    for number in range(100):
        expected.update(b"%d\n" % number + piece)
    assert wire.wait(job) == "COMPLETED"
    assert running.memory()["VmHWM"] - max(before.values()) < 64 << 20
    size = 100 * len(piece) + sum(len(f"{number}\n") for number in range(100))
    assert (wire.show(job)["stdout_bytes"], wire.show(job)["stdout_dropped"]) == (size, 0)
    assert wire.ask(f"RESULT {job}").startswith("ERROR TOO_LARGE ")
    read, found = 0, hashlib.sha256()
    while data := wire.output(job, "stdout", f"--offset={read} --limit=16M").data:
        assert len(data) == min(16 << 20, size - read)
        found.update(data)
        read += len(data)
    assert (read, found.hexdigest()) == (size, expected.hexdigest())
    assert wire.output(job, "stderr").data == b"err\n"
    assert running.memory()["VmRSS"] - before["VmRSS"] < 64 << 20
