"""The demo that ``bin/demo`` runs: a real daemon, one job of each kind, a crash, and every result checked.

It needs only the standard library and the environment in which taskqd is installed. What goes over the wire
is shown line by line, `>` before requests and `<` before replies.
"""

import functools
import http.server
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests import programs

HERE = Path(sys.executable).parent
DEADLINE = 20.0
"""Seconds that anything may take here before the demo calls it broken."""

WIDTH = 150
"""Characters of a line that are shown."""


class Unexpected(Exception):
    """The daemon did not do what the demo was sure of."""


class Checks:
    """Counts what was as expected, and remembers what was not."""

    def __init__(self) -> None:
        self.passed = 0
        self.wrong: list[str] = []
        self.skipped: list[str] = []

    def equal(self, what: str, found: object, expected: object) -> None:
        """Note whether ``found`` is what was expected; say so at once if it is not."""
        if found == expected:
            self.passed += 1
            return
        self.wrong.append(what)
        print(f"  WRONG: {what}: expected {expected!r}, found {found!r}")

    def can_run(self, program: str) -> bool:
        """Whether ``program`` is there; say so if it is not."""
        if programs.is_there(program):
            return True
        name = {"convert": "ImageMagick"}.get(program, program)
        self.skipped.append(name)
        print(f"  skipped: {name} is not installed (apt-get install {programs.PACKAGES[program]})")
        return False

    def conclusion(self) -> list[str]:
        """Return what was as expected, what was not and what was left out."""
        lines = [f"{self.passed} results were as expected, {len(self.wrong)} were not."]
        lines += [f"WRONG: {what}" for what in self.wrong]
        if self.skipped:
            lines.append(f"Left out, because not installed: {', '.join(self.skipped)}.")
        return lines


class Wire:
    """A connection to the daemon that shows its lines."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(address)
        self._replies = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._replies.close()
        self._socket.close()

    def ask(self, request: str, *, show: bool = True, shown_as: str = "") -> str:
        """Send a request line and return its reply line."""
        self._socket.sendall(request.encode() + b"\r\n")
        reply = self._replies.readline()
        if not reply.endswith(b"\r\n"):
            raise Unexpected(f"{request}: the connection ended with {reply!r}")
        text = reply[:-2].decode()
        if show:
            print("  > " + shortened(shown_as or request))
            print("  < " + shortened(text))
        return text

    def submit(self, request: str) -> int:
        """Send a SUBMIT and return the job's id."""
        return int(expect(r"JOB_ID (\d+)", self.ask(f"SUBMIT {request}")))

    def ended(self, job: int) -> str:
        """Wait for the end of a job and return its status."""
        return expect(r"STATUS (\w+) \d+", self.ask(f"WAIT {job} --timeout={DEADLINE:.0f}"))

    def job(self, job: int) -> dict[str, Any]:
        """Return all that is known of a job."""
        known: dict[str, Any] = json.loads(expect("JOB (.*)", self.ask(f"SHOW {job}", show=False)))
        return known

    def output(self, job: int, offset: int) -> bytes:
        """Return up to 16 MiB of what a job has printed, from an offset."""
        reply = self.ask(f"OUTPUT {job} stdout --offset={offset} --limit=16M", show=False)
        length = int(expect(rf"DATA stdout {offset} (\d+)", reply))
        data = self._replies.read(length)
        expect("\r\n", self._replies.read(2).decode("latin-1"))
        return data


class Daemon:
    """The daemon, as its operator would start it, in a temporary place."""

    def __init__(self, place: Path) -> None:
        self.socket = str(place / "taskq.sock")
        self.state = place / "state"
        self.port = free_port()
        self.log = place / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [f"--state={self.state}", f"--listen=unix:{self.socket}", "--slots=2"]
        options.append(f"--listen=tcp:{self.port}:interface=127.0.0.1")
        print(f"  $ twistd -n --pidfile= taskq {' '.join(options)}")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [HERE / "twistd", "-n", "--pidfile=", "taskq", *options],
                cwd=self.state.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + DEADLINE
        while not self._answers():
            if self._process.poll() is not None:
                raise Unexpected(f"the daemon ended with {self._process.returncode}")
            if time.monotonic() > end:
                raise Unexpected(f"the daemon did not answer within {DEADLINE:.0f} s")
            time.sleep(0.02)

    def end(self, how: signal.Signals) -> int:
        """Send it a signal, wait for its end and return its exit code; nothing happens if it does not run."""
        if self._process is None:
            return 0
        self._process.send_signal(how)
        try:
            return self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _answers(self) -> bool:
        try:
            wire = Wire(self.socket)
        except OSError:
            return False
        wire.close()
        return True


class Demo:
    """The chapters of the demo; all share one daemon, whose ids go on from one to the next."""

    def __init__(self, place: Path) -> None:
        self.check = Checks()
        self.daemon = Daemon(place)
        self.files = place / "files"
        self.files.mkdir()

    def run(self) -> None:
        """Run it all; the daemon is left running."""
        chapter("The daemon starts")
        self.daemon.start()
        self.wire = Wire(self.daemon.socket)
        chapter("Over the wire, as a person would type it at a telnet prompt")
        self.over_the_wire()
        chapter("What does not go well")
        self.trouble()
        chapter("Through the client, taskq")
        self.through_the_client()
        chapter("100 MB of output, read by offset and counted")
        self.big_output()
        chapter("kill -9 while two jobs run and five wait; then a new daemon on the same state")
        self.crash()
        chapter("From TCP, with the token that the daemon made")
        self.over_tcp()
        self.wire.close()

    def over_the_wire(self) -> None:
        """One request, one reply: SUBMIT, STATUS, WAIT, RESULT."""
        self.check.equal("an unknown job", self.wire.ask("STATUS 1").split()[:2], ["ERROR", "NO_SUCH_JOB"])
        self.finished("echo hello world", r'RESULT "hello world\n" "" 0')
        self.finished("expr 5 + 3", r'RESULT "8\n" "" 0')
        self.finished("factor 12345", r'RESULT "12345: 3 5 823\n" "" 0')
        self.finished("printf 'pear\\napple\\nfig\\n' | sort | head -n 2", r'RESULT "apple\nfig\n" "" 0')
        self.finished(r"printf '\000\001\377 binary'", r'RESULT "\x00\x01\xFF binary" "" 0')
        self.finished("echo to stderr >&2", r'RESULT "" "to stderr\n" 0')
        self.finished("true", 'RESULT "" "" 0')

    def finished(self, command: str, result: str) -> None:
        """Submit a command, wait for its end and compare its result."""
        job = self.wire.submit(command)
        self.check.equal(f"status of {command}", self.wire.ended(job), "COMPLETED")
        self.check.equal(f"result of {command}", self.wire.ask(f"RESULT {job}"), result)

    def trouble(self) -> None:
        """Jobs that fail, with retries; that take too long; that are cancelled."""
        failing = self.wire.submit("--retries=2 --retry-delay=200ms echo again; exit 3")
        late = self.wire.submit("--timeout=1 --kill-after=1 echo started; sleep 60")
        self.check.equal("status of the failing job", self.wire.ended(failing), "FAILED")
        self.check.equal("its result", self.wire.ask(f"RESULT {failing}"), r'RESULT "again\n" "" 3')
        self.known(failing, reason="exit", attempts=3, exit_code=3)
        self.check.equal("status of the late job", self.wire.ended(late), "FAILED")
        self.known(late, reason="timeout", exit_code=-15)
        unwanted = self.wire.submit("sleep 60")
        self.wire.ask(f"CANCEL {unwanted}")
        self.check.equal("status of the cancelled job", self.wire.ended(unwanted), "CANCELLED")

    def known(self, job: int, **expected: object) -> None:
        """Compare some of what SHOW tells of a job."""
        known = self.wire.job(job)
        found = {name: known.get(name) for name in expected}
        print(f"  > SHOW {job}\n  < JOB {{… {json.dumps(found)[1:-1]} …}}")
        self.check.equal(f"what SHOW {job} says", found, expected)

    def through_the_client(self) -> None:
        """The everyday programs, each with ``taskq run``, which submits, follows and ends with the job."""
        words = self.files / "words.txt"
        words.write_text("a durable queue\nfor shell commands\n")
        self.client("words.txt", "run", "ls", "-la")
        self.client("2  6 35 words.txt", "run", "wc", "words.txt")
        self.client("durable", "run", "gzip -k words.txt && zcat words.txt.gz")
        self.client("2 3 5 7 11 13 17 19 23 29 ", "run", PRIMES)
        script = self.files / "greet.sh"
        script.write_text("cat <<TEXT\nHello from job $TASKQ_JOB_ID,\nin a here-document.\nTEXT\n")
        self.client("in a here-document.", "run", "--script", str(script))
        self.picture()
        self.ping()
        self.page()
        self.client("CANCELLED", "list", "--limit", "20")

    def client(self, expected: str, *words: str) -> None:
        """Run ``taskq``, which must exit with 0, and look for a text in what it prints."""
        command = shlex.join(["taskq", *words])
        print(f"  $ {shortened(command)}")
        done = subprocess.run(
            [HERE / "taskq", *words],
            cwd=self.files,
            env={**os.environ, "TASKQ_ADDRESS": f"unix:{self.daemon.socket}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        for line in text.splitlines():
            print(f"    {shortened(line)}")
        self.check.equal(f"exit code of {command}", done.returncode, 0)
        self.check.equal(f"{expected!r} in what {command} prints", expected in text, True)

    def picture(self) -> None:
        """ImageMagick makes a picture smaller."""
        (self.files / "red.ppm").write_bytes(b"P6 64 64 255\n" + b"\xff\x00\x00" * 64 * 64)
        if self.check.can_run("convert"):
            self.client("PNG 8x8", "run", "convert red.ppm -resize 8x8 small.png && identify small.png")

    def ping(self) -> None:
        """One packet to this machine."""
        if self.check.can_run("ping"):
            self.client("1 received", "run", "ping", "-c1", "127.0.0.1")

    def page(self) -> None:
        """A page of a web server that the demo runs on loopback."""
        if not self.check.can_run("curl"):
            return
        (self.files / "index.html").write_text("<h1>a local page</h1>\n")
        handler = functools.partial(QuietHandler, directory=str(self.files))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/"
            self.client("<h1>a local page</h1>", "run", "curl", "-sS", "--max-time", "10", url)
            server.shutdown()

    def big_output(self) -> None:
        """OUTPUT reads any part of what was printed, up to 16 MiB a time; RESULT says that it is too much."""
        size = 100_000_000
        job = self.wire.submit(f"yes | head -c {size}")
        self.check.equal("status of the big job", self.wire.ended(job), "COMPLETED")
        refused = self.wire.ask(f"RESULT {job}").split()[:2]
        self.check.equal("RESULT of the big job", refused, ["ERROR", "TOO_LARGE"])
        offset = blocks = 0
        right = True
        while data := self.wire.output(job, offset):
            right = right and data == (b"y\n" * (len(data) // 2 + 1))[offset % 2 :][: len(data)]
            offset += len(data)
            blocks += 1
        print(f"  OUTPUT {job} stdout --offset=… read {blocks} blocks, {offset:,} bytes")
        self.check.equal("bytes of the big job", (offset, right), (size, True))

    def crash(self) -> None:
        """What was acknowledged is done, what ran says `interrupted`, ids go on."""
        running = [self.wire.submit(f"echo {number} begins; sleep 300") for number in (1, 2)]
        waiting = [self.wire.submit(f"echo waited {number}") for number in range(1, 6)]
        for job in running:
            self.becomes(job, "STATUS RUNNING 0")
        self.becomes(waiting[-1], "STATUS PENDING 0")
        print("  $ kill -9 <the daemon>")
        self.wire.close()
        self.daemon.end(signal.SIGKILL)
        self.daemon.start()
        self.wire = Wire(self.daemon.socket)
        for job in running:
            self.check.equal(f"status of job {job}, which ran", self.wire.ended(job), "FAILED")
            self.known(job, reason="interrupted", attempts=1)
        for number, job in enumerate(waiting, 1):
            self.check.equal(f"status of job {job}, which waited", self.wire.ended(job), "COMPLETED")
            expected = rf'RESULT "waited {number}\n" "" 0'
            self.check.equal(f"result of job {job}", self.wire.ask(f"RESULT {job}"), expected)
        self.check.equal("an old result", self.wire.ask("RESULT 1"), r'RESULT "hello world\n" "" 0')
        self.check.equal("the next id", self.wire.submit("echo the ids go on"), waiting[-1] + 1)

    def becomes(self, job: int, status: str) -> None:
        """Wait until STATUS answers so."""
        end = time.monotonic() + DEADLINE
        while (found := self.wire.ask(f"STATUS {job}", show=False)) != status and time.monotonic() < end:
            time.sleep(0.02)
        self.check.equal(f"status of job {job}", self.wire.ask(f"STATUS {job}"), found and status)

    def over_tcp(self) -> None:
        """A TCP client is nobody until it has shown the token."""
        wire = Wire(("127.0.0.1", self.daemon.port))
        refused = wire.ask("SUBMIT echo let me in").split()[:2]
        self.check.equal("SUBMIT without AUTH", refused, ["ERROR", "AUTH_REQUIRED"])
        token = (self.daemon.state / "token").read_text().strip()
        allowed = wire.ask(f"AUTH {token}", shown_as="AUTH <what stands in STATE/token>").split()
        self.check.equal("AUTH", (allowed[0], allowed[-1]), ("OK", "admin"))
        job = wire.submit("echo let me in")
        self.check.equal("status of the job from TCP", wire.ended(job), "COMPLETED")
        self.check.equal("its result", wire.ask(f"RESULT {job}"), r'RESULT "let me in\n" "" 0')
        wire.close()

    def summary(self) -> list[str]:
        """Return what the daemon has done, in a few lines."""
        wire = Wire(self.daemon.socket)
        last = wire.submit("true")
        statuses = [wire.job(job)["status"] for job in range(1, last)]
        wire.close()
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
        return [f"{len(statuses)} jobs over the wire and through taskq: {counts}."]


PRIMES = "seq 2 30 | factor | awk 'NF == 2 {printf \"%s \", $2}'"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A web server that does not log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def chapter(title: str) -> None:
    """Print a heading."""
    print(f"\n{title}")


def shortened(text: str) -> str:
    """Return what fits a line of the demo."""
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def expect(form: str, reply: str) -> str:
    """Return the first group of ``form`` in a reply, "" if it has none; another reply is unexpected."""
    found = re.fullmatch(form, reply)
    if not found:
        raise Unexpected(f"expected {form}, the daemon said {shortened(reply)!r}")
    return found[1] if found.groups() else ""


def free_port() -> int:
    """Return a TCP port of this machine that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def main() -> int:
    """Run the demo and return its exit code: 0 if every result was as expected."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="taskqd-demo-") as place:
        demo = Demo(Path(place))
        check = demo.check
        done: list[str] = []
        try:
            demo.run()
            done = demo.summary()
            chapter("The daemon is asked to stop (SIGTERM)")
            check.equal("exit code of the daemon", demo.daemon.end(signal.SIGTERM), 0)
        except (Unexpected, OSError, subprocess.SubprocessError) as error:
            check.wrong.append(str(error))
            print(f"  WRONG: {error}\n\nthe daemon's log ends so:")
            print(*demo.daemon.log.read_text("utf-8", "replace").splitlines()[-20:], sep="\n")
        finally:
            demo.daemon.end(signal.SIGKILL)
    chapter("What it did")
    for line in [*done, *check.conclusion(), f"{time.monotonic() - began:.0f} seconds."]:
        print(f"  {line}")
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
