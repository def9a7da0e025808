"""The chapters of the demo, and its end."""

import functools
import http.server
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from demo.checks import Checks, Unexpected
from demo.daemon import BIN, Daemon
from demo.wire import DEADLINE, Wire, shortened

PRIMES = "seq 2 30 | factor | awk 'NF == 2 {printf \"%s \", $2}'"


class Demo:
    """Runs the chapters of the demo. They share one daemon, so job IDs continue from chapter to chapter."""

    def __init__(self, place: Path) -> None:
        self.check = Checks()
        self.daemon = Daemon(place)
        self.files = place / "files"
        self.files.mkdir()

    def run(self) -> None:
        """Run all chapters; the daemon is still running afterwards."""
        chapter("The daemon starts")
        self.daemon.start()
        self.wire = Wire(self.daemon.socket)
        chapter("Over the wire, as a person would type it at a telnet prompt")
        self.over_the_wire()
        chapter("Failures, timeouts and cancels")
        self.trouble()
        chapter("Through the client, taskq")
        self.through_the_client()
        chapter("100 MB of output, read by offset and counted")
        self.big_output()
        chapter(
            "kill -9 of the daemon while two jobs run and five wait; then a new daemon, and their own results"
        )
        self.crash()
        chapter("From TCP, with a token")
        self.over_tcp()
        self.wire.close()

    def over_the_wire(self) -> None:
        """Send SUBMIT, STATUS, WAIT and RESULT, and compare each reply."""
        self.check.equal("an unknown job", self.wire.ask("STATUS 1").split()[:2], ["ERROR", "NO_SUCH_JOB"])
        self.finished("echo hello world", r'RESULT "hello world\n" "" 0')
        self.check.equal("status of job 1", self.wire.ask("STATUS 1"), "STATUS COMPLETED 100")
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
        """Run jobs that fail with retries, exceed their timeout, and are cancelled."""
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
        """Compare some fields of SHOW."""
        known = self.wire.job(job)
        found = {name: known.get(name) for name in expected}
        print(f"  > SHOW {job}\n  < JOB {{… {json.dumps(found)[1:-1]} …}}")
        self.check.equal(f"fields of SHOW {job}", found, expected)

    def through_the_client(self) -> None:
        """Run everyday programs, mostly with ``taskq run``, which submits, follows and exits with the job."""
        words = self.files / "words.txt"
        words.write_text("a durable queue\nfor shell commands\n")
        job = self.client("", "submit", "ls", "-la").strip()
        self.client("COMPLETED", "wait", job)
        self.client("words.txt", "result", job)
        self.client("2  6 35 words.txt", "run", "wc", "words.txt")
        self.client("durable", "run", "gzip -k words.txt && zcat words.txt.gz")
        self.client("2 3 5 7 11 13 17 19 23 29 ", "run", PRIMES)
        script = self.files / "greet.sh"
        script.write_text("cat <<TEXT\nHello from job $TASKQ_JOB_ID,\nin a here-document.\nTEXT\n")
        self.client("in a here-document.", "run", "--script", script.name)
        self.picture()
        self.ping()
        self.page()
        self.client("CANCELLED", "list", "--limit", "20")

    def client(self, expected: str, *words: str) -> str:
        """Run ``taskq``, which must exit with 0 and print ``expected``; return its output."""
        command = shlex.join(["taskq", *words])
        print(f"  $ {shortened(command)}")
        done = subprocess.run(
            [BIN / "taskq", *words],
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
        self.check.equal(f"{expected!r} in the output of {command}", expected in text, True)
        return text

    def picture(self) -> None:
        """Resize a picture with ImageMagick."""
        (self.files / "red.ppm").write_bytes(b"P6 64 64 255\n" + b"\xff\x00\x00" * 64 * 64)
        if self.check.can_run("convert"):
            self.client("PNG 8x8", "run", "convert red.ppm -resize 8x8 small.png && identify small.png")

    def ping(self) -> None:
        """Ping this machine once."""
        if self.check.can_run("ping"):
            self.client("1 received", "run", "ping", "-c1", "127.0.0.1")

    def page(self) -> None:
        """Fetch a page from a web server that the demo runs on loopback."""
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
        """Read 100 MB by OUTPUT, up to 16 MiB per request; RESULT refuses them as too large."""
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
        """Kill the daemon: running jobs go on in the runner, pending ones run after the restart."""
        running = [self.wire.submit("echo $$; sleep 3; echo I went on; exit 7") for _ in range(2)]
        waiting = [self.wire.submit(f"echo waited {number}") for number in range(1, 6)]
        pids = [self.first_line(job) for job in running]
        self.check.equal("status of a running job", self.wire.ask(f"STATUS {running[0]}"), "STATUS RUNNING 0")
        self.check.equal("status of a waiting job", self.wire.ask(f"STATUS {waiting[0]}"), "STATUS PENDING 0")
        print("  $ kill -9 <the daemon>")
        self.wire.close()
        self.daemon.end(signal.SIGKILL)
        self.check.equal("processes that go on", [pid for pid in pids if is_alive(pid)], pids)
        self.daemon.start()
        self.wire = Wire(self.daemon.socket)
        for job, pid in zip(running, pids, strict=True):
            self.check.equal(f"status of job {job}, which was running", self.wire.ended(job), "FAILED")
            self.known(job, reason="exit", exit_code=7, attempts=1)
            expected = rf'RESULT "{pid}\nI went on\n" "" 7'
            self.check.equal(f"result of job {job}", self.wire.ask(f"RESULT {job}"), expected)
        for number, job in enumerate(waiting, 1):
            self.check.equal(f"status of job {job}, which was pending", self.wire.ended(job), "COMPLETED")
            expected = rf'RESULT "waited {number}\n" "" 0'
            self.check.equal(f"result of job {job}", self.wire.ask(f"RESULT {job}"), expected)
        self.check.equal("an old result", self.wire.ask("RESULT 1"), r'RESULT "hello world\n" "" 0')
        self.check.equal("the next id", self.wire.submit("echo the ids go on"), waiting[-1] + 1)

    def first_line(self, job: int) -> str:
        """Wait until a running job has printed a line, and return it."""
        end = time.monotonic() + DEADLINE
        while not (printed := self.wire.output(job, 0)):
            if time.monotonic() > end:
                raise Unexpected(f"job {job} printed nothing within {DEADLINE:.0f} s")
            time.sleep(0.02)
        return printed.decode().strip()

    def over_tcp(self) -> None:
        """Submit over TCP, which is refused before AUTH and accepted after it."""
        wire = Wire(("127.0.0.1", self.daemon.port))
        refused = wire.ask("SUBMIT echo let me in").split()[:2]
        self.check.equal("SUBMIT without AUTH", refused, ["ERROR", "AUTH_REQUIRED"])
        token = self.daemon.make_token("demo", "submit")
        allowed = wire.ask(f"AUTH {token}", shown_as="AUTH <the token>")
        self.check.equal("AUTH", allowed, "OK demo submit")
        job = wire.submit("echo let me in")
        self.check.equal("status of the job from TCP", wire.ended(job), "COMPLETED")
        self.check.equal("its result", wire.ask(f"RESULT {job}"), r'RESULT "let me in\n" "" 0')
        wire.close()

    def summary(self) -> str:
        """Return one line with the number of jobs by status."""
        wire = Wire(self.daemon.socket)
        statuses: list[str] = []
        while (reply := wire.ask(f"SHOW {len(statuses) + 1}", show=False)).startswith("JOB "):
            statuses.append(json.loads(reply[4:])["status"])
        wire.close()
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
        return f"{len(statuses)} jobs over the wire and through taskq: {counts}."


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without logging."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def is_alive(pid: str) -> bool:
    """Whether a process runs. One that has ended may stay in /proc until it is reaped."""
    try:
        return Path("/proc", pid, "stat").read_text("latin-1").rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def chapter(title: str) -> None:
    """Print a heading."""
    print(f"\n{title}")


def main() -> int:
    """Run the demo and return its exit code: 0 if every result was as expected."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="taskqd-demo-") as place:
        demo = Demo(Path(place))
        check = demo.check
        done = []
        try:
            demo.run()
            done = [demo.summary()]
            chapter("The daemon is asked to stop (SIGTERM)")
            # After an orderly stop twistd ends itself by the signal that it received.
            code = demo.daemon.end(signal.SIGTERM)
            check.equal(f"an orderly stop, not {code}", code in (0, -signal.SIGTERM), True)
        except (Unexpected, OSError, subprocess.SubprocessError) as error:
            check.wrong.append(str(error))
            print(f"  WRONG: {error}\n\nthe last lines of the daemon's log:")
            print(*demo.daemon.log.read_text("utf-8", "replace").splitlines()[-20:], sep="\n")
        finally:
            demo.daemon.end(signal.SIGTERM)
    chapter("Summary")
    for line in [*done, *check.conclusion(), f"{time.monotonic() - began:.0f} seconds."]:
        print(f"  {line}")
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
