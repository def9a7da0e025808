"""Makes a store of this version for ``tests/test_released_stores.py``, once per release.

``python -m tests.stores.make`` runs a real daemon several times, with a snapshot in between, and writes its
store to ``tests/stores/VERSION``. A store that exists there is not replaced: released formats do not change.
"""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from taskqd import __version__

HERE = Path(__file__).parent


FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
"""From Debian's package faketime."""


class Daemon:
    """twistd with one slot on a state directory; the file ``ahead`` has the offset of its time of day."""

    def __init__(
        self, state: Path, ahead: Path | None = None, on_stop: str = "requeue", options: tuple[str, ...] = ()
    ) -> None:
        self.socket = state / "s"
        self._runner_lock = state / "runner" / "lock"
        environment = dict(os.environ)
        if ahead is not None:
            environment |= {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(ahead)}
            environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
        twistd = [
            str(Path(sys.executable).with_name("twistd")),
            "-n",
            "--pidfile",
            str(state / "pid"),
            "taskq",
        ]
        where = ["--state", str(state), "--listen", f"unix:{self.socket}"]
        how = ["--slots", "1", "--stop-grace", "0", "--on-stop", on_stop, *options]
        self._process = subprocess.Popen([*twistd, *where, *how], stdout=subprocess.DEVNULL, env=environment)
        while not self._listens():
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    @property
    def runner_pid(self) -> int:
        """The process id of the runner that gets the daemon's jobs."""
        while True:  # it may be starting
            words = self._runner_lock.read_text().split()
            if words and Path("/proc", words[0]).exists():
                return int(words[0])
            time.sleep(0.02)

    def ask(self, *lines: bytes) -> bytes:
        """Send lines and return all replies."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(b"".join(line + b"\n" for line in lines))
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def make(state: Path) -> None:
    """Run daemons that record every kind of event."""
    daemon = Daemon(state)
    daemon.ask(b"SUBMIT --key=first --label=hello echo hello", b"WAIT 1")
    daemon.ask(b"SUBMIT seq 1 3000", b"WAIT 2")
    daemon.ask(b"SUBMIT printf '\\377\\000'; echo oh >&2; exit 3", b"WAIT 3", b"RETRY 3", b"WAIT 3")
    daemon.ask(b'SUBMIT --script=28 --stdin=3 --env=NAME=v\n#!/bin/sh\ncat; echo "$NAME"\n\nin\n', b"WAIT 4")
    daemon.ask(b"SUBMIT --retries=1 --retry-delay=0 kill -9 $$", b"WAIT 5")
    daemon.ask(b"SUBMIT sleep 1000", b"SUBMIT --timeout=9 --nice=1 true", b"CANCEL 7", b"CANCEL 6", b"WAIT 6")
    daemon.ask(b"SUBMIT echo gone", b"WAIT 8", b"REMOVE 8")
    daemon.stop()
    daemon = Daemon(state)
    subprocess.run(
        [sys.executable, "-m", "taskqd.storage.journal.snapshot", str(state / "journal"), "1"], check=True
    )
    daemon.ask(b"SUBMIT echo second run", b"WAIT 9", b"RETRY 1", b"WAIT 1")
    daemon.ask(b"SUBMIT sleep 1000", b"SUBMIT --retries=2 --stdin=4 wc -c\nlast\n", b"SHOW 11")
    _await_start(daemon, 10)
    daemon.stop()
    daemon = Daemon(state)
    _use_queues(daemon)
    daemon.stop()
    daemon = Daemon(state)
    _have_secrets(daemon)
    daemon.stop()
    ahead = state / "ahead"
    ahead.write_text("+0")
    daemon = Daemon(state, ahead)
    _have_zones(daemon)
    _set_the_clock(daemon, ahead)
    _lack_descriptors(daemon)
    daemon.stop()
    _leave_a_job(state)
    daemon = Daemon(state)
    _share_a_queue(daemon)
    daemon.stop()
    daemon = Daemon(state)
    _expire_jobs(daemon)
    daemon.stop()
    daemon = Daemon(state, options=("--resource", "tape=left,right"))
    _have_units(daemon)
    _change_what_is_executed(daemon)
    _have_input_and_environment(daemon)
    daemon.stop()
    _check_records(state)


def _use_queues(daemon: Daemon) -> None:
    """Features of version 0.2.0: order, queues, arrays, dependencies, schedules."""
    _await_start(daemon, 10)
    daemon.ask(b"CANCEL 10", b"WAIT 10", b"WAIT 11")
    daemon.ask(
        b"SUBMIT --hold --queue=q true", b'SET 12 --priority=5 --label="a b"', b"RELEASE 12", b"WAIT 12"
    )
    daemon.ask(b"SUBMIT --array=1-3%1 exit $((TASKQ_INDEX == 2))", b"WAIT 13", b"RETRY 13", b"WAIT 13")
    daemon.ask(b"SUBMIT --after=13 true", b"WAIT 17", b"SUBMIT --after-fail=13 echo sorry", b"WAIT 18")
    daemon.ask(b"SUBMIT --array=1-2 true", b"WAIT 19", b"REMOVE 19")
    daemon.ask(b"PAUSE q", b"SET-QUEUE q --slots=3", b"SCHEDULE --cron=@yearly true", b"PAUSE --schedule=1")
    daemon.ask(b"SCHEDULE --every=1h true", b"UNSCHEDULE 2", b"SUBMIT --delay=36500d true", b"HOLD 22")


def _have_secrets(daemon: Daemon) -> None:
    """Features of version 0.3.0: origins and secrets."""
    daemon.ask(b"SUBMIT --hold --secret=KEY=value --key=again true")


def _have_zones(daemon: Daemon) -> None:
    """Features of version 0.5.0: time zones, and directories whose names are not UTF-8."""
    daemon.ask(b"SUBMIT --hold --at=2030-03-31T02:30 --tz=Europe/Berlin true")
    daemon.ask(b'SCHEDULE --cron="30 4 * * *" --tz=Australia/Lord_Howe true')
    daemon.ask(b'SUBMIT --hold --cwd="/tmp/\\xff" true')


def _set_the_clock(daemon: Daemon, ahead: Path) -> None:
    """Feature of version 0.5.0: set the time of day by an hour during a delay, and wait for its record."""
    daemon.ask(b"SUBMIT --delay=36500d true")
    ahead.write_text("+3600")
    while b'"type":"clocked"' not in b"".join(path.read_bytes() for path in _segments(ahead.parent)):
        time.sleep(0.1)


def _segments(state: Path) -> list[Path]:
    return sorted((state / "journal").glob("*.journal"))


def _lack_descriptors(daemon: Daemon) -> None:
    """Feature of version 0.5.0: a start without a descriptor is voided and repeated."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        pid = daemon.runner_pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 2, before[1]))
        connection.sendall(b"SUBMIT true\nSTATS\n")
        replies = connection.makefile("rb")
        while b'"shortage":null' in (reply := replies.readline()) or not reply.startswith(b"STATS "):
            connection.sendall(b"STATS\n" * reply.startswith(b"STATS "))
            time.sleep(0.02)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    daemon.ask(b"WAIT 27")


def _leave_a_job(state: Path) -> None:
    """Feature of version 0.7.0: an attempt outlives its daemon, and ends while there is none."""
    begun, left, ended = (state / name for name in ("begun", "left", "ended"))
    daemon = Daemon(state, on_stop="leave")
    daemon.ask(
        b"SUBMIT touch %b; until test -e %b; do sleep 0.1; done; echo late; touch %b"
        % (bytes(begun), bytes(left), bytes(ended))
    )
    _await(begun)
    daemon.stop()
    left.touch()
    _await(ended)
    time.sleep(2)  # the end is recorded as late only if it is
    daemon = Daemon(state)
    daemon.ask(b"WAIT 28")
    daemon.stop()


def _await(path: Path, seconds: float = 60.0) -> None:
    """Wait until a file exists; exit if that takes longer than some seconds."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{path.name} was not made within {seconds:g} s: a job did not do what it should")
        time.sleep(0.05)


def _share_a_queue(daemon: Daemon) -> None:
    """Features of version 0.8.0: a fair queue, and one with a start rate."""
    daemon.ask(b"SET-QUEUE q --fair=true --rate=10/m")


def _expire_jobs(daemon: Daemon) -> None:
    """Features of version 0.9.0: expiry, an exclusive label, arguments of a script, schedules with blocks."""
    daemon.ask(b"SUBMIT --hold --expires=10ms true", b"WAIT 29", b"SUBMIT --hold --expires=36500d true")
    daemon.ask(b"SUBMIT --hold --unless=nightly true", b"SUBMIT --unless=nightly true")
    daemon.ask(b'SUBMIT --script=10 "a b" c\necho "$@"\n\n', b"WAIT 32")
    content = b'echo "$1$KEY"; cat\n\nold\n'
    options = b"--script=19 --stdin=3 --secret=KEY=value"
    daemon.ask(b"SCHEDULE --every=36500d --label=before %b a\n%b" % (options, content))
    daemon.ask(b"SCHEDULE --run-now=4", b"WAIT 33")
    daemon.ask(b"SCHEDULE --set=4 --cron=@yearly --label=after --stdin=3\nnew", b"PAUSE --schedule=4")


def _have_units(daemon: Daemon) -> None:
    """Features of version 0.10.0: named units, slots that are set, a text with the progress, both streams."""
    daemon.ask(b"SET-SLOTS 2")
    submitted = daemon.ask(b'SUBMIT --need=tape:2 echo "40 half" > "$TASKQ_PROGRESS"; exit 1')
    daemon.ask(b"WAIT " + submitted.split()[1])
    daemon.ask(b"SET-SLOTS default", b"SET-SLOTS 3")
    daemon.ask(b"WAIT " + daemon.ask(b"SUBMIT --merge --stdout=/dev/null --retries=1 true").split()[1])
    for text in (b"echo one; echo two >&2", b"echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three"):
        daemon.ask(b"WAIT " + daemon.ask(b"SUBMIT " + text).split()[1])


def _change_what_is_executed(daemon: Daemon) -> None:
    """Features of version 0.10.0: another command, another script, dependencies by name."""
    daemon.ask(b"SUBMIT --hold --key=changed --label=build true", b'SET 38 --command="echo new"')
    daemon.ask(b"SUBMIT --hold --script=6\nfalse\n", b"SET 39 --script=5\ntrue\n")
    daemon.ask(b"SUBMIT --after-label=build --after-key=changed true")


def _have_input_and_environment(daemon: Daemon) -> None:
    """Features of version 0.10.0: an environment, input, measured memory, a suspended job."""
    daemon.ask(b"SUBMIT --hold --environment=4 env\nA=1\0")
    daemon.ask(b"SUBMIT --interactive cat")
    _await_start(daemon, 42)
    daemon.ask(b"SEND 42 --data=3 --eof\nhi\n", b"WAIT 42")
    daemon.ask(b"SUBMIT --memory-max=1G sleep 1.5", b"WAIT 43")
    daemon.ask(b"SUBMIT sleep 1000")
    _await_start(daemon, 44)
    daemon.ask(b"SUSPEND 44", b"CONTINUE 44", b"SUSPEND 44")


def _await_start(daemon: Daemon, job: int) -> None:
    """Wait until a job runs and its attempt has a process."""
    while b"RUNNING" not in daemon.ask(b"STATUS %d" % job):
        time.sleep(0.05)
    while b'"type":"spawned"' not in daemon.ask(b"HISTORY %d" % job).rpartition(b'"type":"started"')[2]:
        time.sleep(0.05)


PARTS = (
    *(b'"word":', b'"runner":', b'"ended_at":'),
    *(b'"compacted"', b'"configured"'),
    *(b'"expires":', b'"expired"', b'"unless":', b'"script_line":', b'"rescheduled"', b'"version":2'),
    *(b'"units":{"tape":["left","right"]}', b'"rescaled"', b'"progress_text":"half"', b'"order":'),
    *(b'"merge":true', b'"stdout":"/dev/null"', b'"script_file":1', b'"named":', b'"environment":'),
    *(b'"interactive":true', b'"memory_used_peak":', b'"suspended"', b'"continued"'),
)
"""Parts of records that some circumstances write only, of 0.7.0, 0.8.0, 0.9.0 and 0.10.0."""


def _check_records(state: Path) -> None:
    """Exit if the journal lacks a part that only some circumstances write."""
    text = b"".join(path.read_bytes() for path in state.glob("journal/*"))
    missing = [part.decode() for part in PARTS if part not in text]
    if missing:
        sys.exit(f"no record has {', '.join(missing)}: the store would not test them")


def main() -> None:
    """Write the store of this version."""
    target = HERE / __version__
    if target.exists():
        sys.exit(f"{target} exists; released stores are not replaced")
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        make(state)
        for name in ("journal", "input", "output"):
            shutil.copytree(state / name, target / name)


if __name__ == "__main__":
    main()
