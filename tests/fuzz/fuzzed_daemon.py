"""The daemon that is fuzzed: its start, the jobs in it, and the cleaning between rounds.

Fuzzed jobs never run: everything is paused, except while the kept jobs are made, when there are
no others. session.py ensures that no session ends the pause.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from tests.end_to_end.daemon import Daemon, free_port
from tests.end_to_end.wire import Wire, until
from tests.fuzz.player import Target
from tests.fuzz.reply_checker import RuleBroken

WAYS: dict[str, tuple[str, ...]] = {
    "unix": ("",),
    "tcp": ("admin", "submit", "read", ""),
    "tls": ("admin", "submit", ""),
    "raw": ("",),
}
"""For each transport the roles of its clients; empty for clients that do not authenticate.

``raw`` is the TLS port, without TLS.
"""
ROLES = ("admin", "submit", "read")
OVER_TLS = frozenset({"tls", "raw"})

KEPT_JOBS = [
    "echo hello",
    "echo out; echo err >&2; exit 3",
    "head -c 300000 /dev/zero",
    "head -c 2000000 /dev/zero",
    r"printf '\033[2J\000\377\r\n'",
    "kill -9 $$",
    "--cwd=/nonexistent true",
    "--array=0-4 echo $TASKQ_INDEX",
    '--key=kept --label="a b" --env=A="x y" true',
    "--retries=1 --retry-delay=0 false",
    "sleep 100000",
    "sleep 100000",
]
"""Jobs that the fuzzers may query: they run before everything is paused, the last two during the campaign."""
_RUNNING = 2
HANGUP_TIMEOUT = 120.0
"""Seconds after which vanished clients must be noticed; keep-alive probes take about half a minute."""
PAGE = 1000


def has_tls() -> bool:
    """Whether taskqd[tls] is installed."""
    return importlib.util.find_spec("OpenSSL") is not None


class FuzzedDaemon(Daemon):
    """A daemon that listens on some transports, and has a token for each role.

    ``kept`` are the ids of the kept jobs.
    """

    def __init__(self, place: Path, transports: set[str]) -> None:
        self.kept: list[int] = []
        self._started = 0
        self._connections: int | None = None
        self._tls_port = 0
        options: list[str] = []
        if transports & OVER_TLS:
            from tests.support.certificates import Authority  # noqa: PLC0415 - it needs taskqd[tls]

            pair = Authority(place).issue("localhost", "localhost")
            self._tls_port = free_port()
            listen = f"tls:{self._tls_port}:interface=127.0.0.1:key={pair.key}:cert={pair.cert}"
            options = ["--listen", listen]
        super().__init__(place, *options, slots=4, tcp="tcp" in transports)

    def set_up(self) -> Target:
        """Start it, make the kept jobs, pause everything, and return how to connect."""
        self.start()
        tokens = {role: self.make_token(f"fuzz-{role}", "--role", role) for role in ROLES}
        self.restart()  # so that it has read the tokens
        wire = self.connect()
        word, _, hello = wire.ask("HELLO").partition(" 1 ")
        wire.close()
        if word != "TASKQ":
            raise RuleBroken(f"HELLO is answered TASKQ 1, not {word}")
        self._make_kept()
        addresses: dict[str, str | int] = {
            "unix": str(self.socket),
            "tcp": self.port,
            "tls": self._tls_port,
            "raw": self._tls_port,
        }
        return Target(addresses, tokens, frozenset(verb.encode() for verb in json.loads(hello)["verbs"]))

    def clean_up(self) -> None:
        """Remove all jobs, schedules and pauses of queues once all clients are gone, and make new kept jobs.

        Raises RuleBroken if a job was started, or something cannot be removed.
        """
        wire = self.connect()
        expected = self._connections or 0
        until(
            lambda: wire.stats()["connections"] <= expected,
            "connections without a client to end",
            HANGUP_TIMEOUT,
        )
        if wire.stats()["counters"]["started"] != self._started:
            raise RuleBroken("a job was started while everything is paused")
        for number in wire.schedules():
            _request(wire, f"UNSCHEDULE {number}")
        for name, queue in wire.queues().items():
            if queue["paused"] or queue["slots"] is not None:
                _request(wire, f"SET-QUEUE --slots=default -- {name}")
                _request(wire, f"RESUME -- {name}")
        _request_for_all(wire, "--status=PENDING,RUNNING", ("CANCEL", "WAIT"))
        _request_for_all(wire, "", ("REMOVE",))
        if left := wire.list():
            raise RuleBroken(f"jobs are still there after their removal: {left[:3]}")
        wire.close()
        self._make_kept()

    def _make_kept(self) -> None:
        wire = self.connect()
        if (jobs := wire.stats()["jobs"])["pending"] or wire.schedules():
            raise RuleBroken(f"nothing is pending or scheduled before the pause ends, but there are {jobs}")
        _request(wire, "RESUME")
        self.kept = [wire.submit(text) for text in KEPT_JOBS]
        for job in self.kept[:-_RUNNING]:
            wire.wait(job)
        running = self.kept[-_RUNNING:]
        wire.wait_running(*running)
        until(lambda: all(wire.show(job)["pid"] for job in running), "what runs to be counted as started")
        _request(wire, "PAUSE")
        stats = wire.stats()
        self._started = stats["counters"]["started"]
        if self._connections is None:
            self._connections = stats["connections"]
        wire.close()


def _request(wire: Wire, request: str) -> None:
    if (reply := wire.ask(request)).startswith("ERROR "):
        raise RuleBroken(f"{request} was answered {reply}")


def _request_for_all(wire: Wire, which: str, verbs: Sequence[str]) -> None:
    """Send requests for all jobs of a list, page by page; for an array only as a whole.

    The dependents of a cancelled job may have failed before they can be cancelled.
    """
    first = 1
    while jobs := wire.list(f"{which} --from={first} --limit={PAGE}"):
        first = jobs[-1]["id"] + 1
        for verb in verbs:
            wire.send("".join(f"{verb} {job['id']}\r\n" for job in jobs).encode())
            for job in jobs:
                reply = wire.line()
                if reply.startswith("ERROR ") and (verb, reply.split(" ")[1]) != ("CANCEL", "WRONG_STATE"):
                    raise RuleBroken(f"{verb} {job['id']} was answered {reply}")
