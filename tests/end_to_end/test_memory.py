"""The daemon's memory, when many clients send the request with the largest reply of a verb and do not read.

One user, with the role ``submit``, has jobs that make every reply as large as the limits allow, or so large
that forty complete replies would be several times MAX_GROWTH.
"""

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskqd.auth.principal import user_name
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, quote, until
from tests.support import every_verb

CONNECTIONS = 40
MAX_GROWTH = 64 * 1024**2
"""Bytes by which the daemon may grow during the requests of forty connections."""
MAX_SENT = 2 * 1024**2
"""Bytes of requests that a connection sends, unless the daemon stops reading before."""
QUIET_TIME = 0.5
"""Seconds without a successful write on any connection after which the daemon has stopped reading."""
QUEUES = 15_000
LONG = "x" * 50_000
WIDE = "\N{GRINNING FACE}" * 1000

JOB, LOUD, ESCAPED, LARGE = 1, 2, 3, 4
WAITED_FOR = " ".join(str(number) for number in range(10, 1010))

HEAVY = {
    **{verb: verb for verb in ("HELLO", "PING", "HELP", "STATS", "QUEUES", "SCHEDULES", "QUIT", "DRAIN")},
    "SHUTDOWN": "SHUTDOWN now",
    **{verb: f"{verb} {JOB}" for verb in ("STATUS", "WHY", "HISTORY", "HOLD", "RELEASE", "REMOVE", "RETRY")},
    **{verb: f"{verb} {JOB}" for verb in ("SUSPEND", "CONTINUE")},
    "SHOW": f"SHOW {LARGE}",
    "LIST": "LIST --limit=100000",
    "AUTH": "AUTH wrong",
    "RESULT": f"RESULT {ESCAPED}",
    "OUTPUT": f"OUTPUT {LOUD} stdout --limit=16M",
    "LOG": f"LOG {LOUD} --limit=16M",
    "WAIT": f"WAIT {WAITED_FOR}",
    "FOLLOW": f"FOLLOW {LOUD}",
    "SEND": f"SEND {LOUD} --eof",
    "WATCH": "WATCH --since=0",
    "SET": f"SET {LARGE} --priority=-1",
    "CANCEL": f"CANCEL {LOUD} --cascade",
    "UNSCHEDULE": "UNSCHEDULE 999999",
    "PAUSE": "PAUSE --schedule=1",
    "RESUME": "RESUME --schedule=2",
    "SUBMIT": f"SUBMIT --queue=on_end --env=A={LONG} true",
    "SCHEDULE": "SCHEDULE --every=36500d true",
    "SET-QUEUE": "SET-QUEUE q --slots=2",
    "SET-SLOTS": "SET-SLOTS 3",
}
"""For each verb, a request with a large reply, or a large request that waits."""

GROWING = ("SUBMIT", "SCHEDULE")
"""Tested last: the memory that they leave behind would hide the growth by others."""


@pytest.fixture(scope="module", name="heavy")
def a_heavy_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("memory")
    # Not an admin, since limits per user do not apply to admins.
    one = Daemon(place, "--role", f"{user_name(os.getuid())}=submit", "--limit", "submissions=none")
    try:
        one.start()
        fill(one.connect())
        yield one
    finally:
        complaints = one.close()
        if complaints:
            pytest.fail("\n".join(complaints), pytrace=False)


def fill(wire: Wire) -> None:
    """Submit jobs and schedules that make the replies large."""
    assert wire.submit("--hold true") == JOB
    assert wire.submit("head -c 20000000 /dev/zero") == LOUD
    escaped = r"head -c 1048576 /dev/zero | tr '\0' '\377' | tee /dev/stderr"
    assert wire.submit(escaped) == ESCAPED
    assert wire.submit(f"--hold --env=A={LONG} true") == LARGE
    lines = [f"SUBMIT --hold --queue={'q' * 190}{number} true" for number in range(QUEUES)]
    lines += [f"SUBMIT --hold --env=A={LONG} true"] * 200
    lines += [f"SCHEDULE --every=36500d --env=A={LONG} true"] * 200
    lines += [f"SET {JOB} --label={quote(WIDE.encode())}"] * 1500
    ask_all(wire, lines)
    for job in (LOUD, ESCAPED):
        assert wire.ask(f"WAIT {job} --timeout=60").startswith("STATUS COMPLETED")


def ask_all(wire: Wire, lines: list[str]) -> None:
    """Send requests with replies of one line, 25 at a time, and check that none is refused."""
    for at in range(0, len(lines), 25):
        some = lines[at : at + 25]
        wire.send("".join(line + "\n" for line in some).encode())
        assert not [reply for reply in (wire.line() for _ in some) if reply.startswith("ERROR")]


def flood(sockets: list[socket.socket], line: str) -> None:
    """Repeat a request on all connections without reading, until the daemon reads no more."""
    data = f"{line}\n".encode()
    data *= MAX_SENT // len(data)
    left = {connection: memoryview(data) for connection in sockets}
    last = time.monotonic()
    while left and time.monotonic() - last < QUIET_TIME:
        _, ready, _ = select.select([], list(left), [], QUIET_TIME / 4)
        for connection in ready:
            try:
                sent = connection.send(left[connection][:65_536])
            except BlockingIOError:
                continue
            except OSError:  # the daemon has closed it, as after QUIT
                del left[connection]
                continue
            last = time.monotonic()
            left[connection] = left[connection][sent:]
            if not left[connection]:
                del left[connection]


@pytest.mark.parametrize("verb", sorted(HEAVY, key=lambda verb: (verb in GROWING, verb)))
def test_verb_takes_little_memory_when_many_clients_do_not_read(heavy: Daemon, verb: str) -> None:
    watcher = heavy.connect()
    Path(f"/proc/{heavy.pid}/clear_refs").write_text("5")  # resets VmHWM: proc(5)
    before = heavy.memory()["VmRSS"]
    wires = [heavy.connect() for _ in range(CONNECTIONS)]
    for wire in wires:
        wire.socket.setblocking(False)
    flood([wire.socket for wire in wires], HEAVY[verb])
    assert watcher.ask("PING") == "OK"
    grown = heavy.memory()["VmHWM"] - before
    for wire in wires:
        wire.close()
    until(lambda: watcher.stats()["connections"] <= 3, "the connections to end")
    assert watcher.ask("PING") == "OK"
    watcher.close()
    assert grown <= MAX_GROWTH, f"{grown / 1024**2:.1f} MiB"


def test_memory_is_tested_for_every_verb() -> None:
    assert set(HEAVY) == set(every_verb.LINES)
