"""The daemon that is fuzzed: how it is started, what there is to look at, how it is cleaned between rounds.

Fuzzed jobs never run: everything is paused, but while the jobs to be looked at are made, and then there are
no others. That nothing which is sent can end the pause is session.py's.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from tests.end_to_end.daemon import Daemon, free_port
from tests.end_to_end.wire import Wire, until
from tests.fuzz.hearing import Broken
from tests.fuzz.player import Place

WAYS: dict[str, tuple[str, ...]] = {
    "unix": ("",),
    "tcp": ("admin", "submit", "read", ""),
    "tls": ("admin", "submit", ""),
    "raw": ("",),
}
"""By transport, the roles of those who come over it; empty is who says nothing of themselves.

``raw`` is the TLS port, spoken to without TLS.
"""
ROLES = ("admin", "submit", "read")
OVER_TLS = frozenset({"tls", "raw"})

KEPT = [
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
"""Jobs for the fuzzers to look at: they run before everything is paused, the last two all the while."""
_RUNNING = 2
GONE_WITHIN = 120.0
"""A client that is gone while it waits is found out by keep-alive probes, in half a minute or so."""
PAGE = 1000


def has_tls() -> bool:
    """Whether taskqd[tls] is installed."""
    return importlib.util.find_spec("OpenSSL") is not None


class Victim(Daemon):
    """A daemon that listens to these transports, and has a token of each role.

    ``kept`` are the ids of the jobs to look at.
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

    def begin(self) -> Place:
        """Start it, pause everything but the kept jobs, and return where it is and how to get in."""
        self.start()
        tokens = {role: self.make_token(f"fuzz-{role}", "--role", role) for role in ROLES}
        self.restart()  # so that it knows them now, and not only soon
        wire = self.connect()
        word, _, hello = wire.ask("HELLO").partition(" 1 ")
        wire.close()
        if word != "TASKQ":
            raise Broken(f"HELLO is answered TASKQ 1, not {word}")
        self._make_kept()
        addresses: dict[str, str | int] = {
            "unix": str(self.socket),
            "tcp": self.port,
            "tls": self._tls_port,
            "raw": self._tls_port,
        }
        return Place(addresses, tokens, frozenset(verb.encode() for verb in json.loads(hello)["verbs"]))

    def sweep(self) -> None:
        """Remove all jobs, schedules and pauses of queues, once nobody is left; then make the kept jobs anew.

        Raises Broken where something started, or is not removed.
        """
        wire = self.connect()
        most = self._connections or 0
        until(lambda: wire.stats()["connections"] <= most, "connections without a client to end", GONE_WITHIN)
        if wire.stats()["counters"]["started"] != self._started:
            raise Broken("a job was started while everything is paused")
        for number in wire.schedules():
            _ask(wire, f"UNSCHEDULE {number}")
        for name, queue in wire.queues().items():
            if queue["paused"] or queue["slots"] is not None:
                _ask(wire, f"SET-QUEUE --slots=default -- {name}")
                _ask(wire, f"RESUME -- {name}")
        _ask_of_all(wire, "--status=PENDING,RUNNING", ("CANCEL", "WAIT"))
        _ask_of_all(wire, "", ("REMOVE",))
        if left := wire.list():
            raise Broken(f"jobs were removed and are there: {left[:3]}")
        wire.close()
        self._make_kept()

    def _make_kept(self) -> None:
        wire = self.connect()
        if (jobs := wire.stats()["jobs"])["pending"] or wire.schedules():
            raise Broken(f"nothing is pending or scheduled before the pause ends, but there are {jobs}")
        _ask(wire, "RESUME")
        self.kept = [wire.submit(text) for text in KEPT]
        for job in self.kept[:-_RUNNING]:
            wire.wait(job)
        running = self.kept[-_RUNNING:]
        wire.wait_running(*running)
        until(lambda: all(wire.show(job)["pid"] for job in running), "what runs to be counted as started")
        _ask(wire, "PAUSE")
        stats = wire.stats()
        self._started = stats["counters"]["started"]
        if self._connections is None:
            self._connections = stats["connections"]
        wire.close()


def _ask(wire: Wire, request: str) -> None:
    if (reply := wire.ask(request)).startswith("ERROR "):
        raise Broken(f"{request} was answered {reply}")


def _ask_of_all(wire: Wire, which: str, verbs: Sequence[str]) -> None:
    """Do something to all jobs of a list, of an array as a whole, page by page.

    What comes after a job that is cancelled may have failed before it can be cancelled itself.
    """
    first = 1
    while jobs := wire.list(f"{which} --from={first} --limit={PAGE}"):
        first = jobs[-1]["id"] + 1
        for verb in verbs:
            wire.send("".join(f"{verb} {job['id']}\r\n" for job in jobs).encode())
            for job in jobs:
                reply = wire.line()
                if reply.startswith("ERROR ") and (verb, reply.split(" ")[1]) != ("CANCEL", "WRONG_STATE"):
                    raise Broken(f"{verb} {job['id']} was answered {reply}")
