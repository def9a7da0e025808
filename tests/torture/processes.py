"""Finds the processes of a state directory: its runners, and those of the attempts that run."""

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.daemon import is_alive

_MARK = re.compile(rb"(?:^|\0)TASKQ_RUN=([0-9a-f]+)\.([0-9]+)\.([0-9]+)\.([0-9a-f]{16})(?:\0|$)")
_RUNNER = re.compile(rb"(?:^|\0|/)(?:taskqd\.runner|taskqd-runner)\0")


class Mark(NamedTuple):
    """The attempt that a process belongs to, by its environment."""

    job: int
    attempt: int
    word: str


def marked(store: str) -> dict[int, Mark]:
    """Return the attempts of the processes that have the mark of a store, by pid."""
    found = {}
    for pid in _pids():
        mark = _MARK.search(_read(pid, "environ"))
        if mark and mark[1].decode() == store and is_alive(pid):
            found[pid] = Mark(int(mark[2]), int(mark[3]), mark[4].decode())
    return found


def command_line(pid: int) -> str:
    return _read(pid, "cmdline").replace(b"\0", b" ").decode("latin-1").strip()


def store_of(journal: Path) -> str:
    """Return the name of the store from the first record of a segment; an empty string if there is none."""
    for path in sorted(journal.glob("*.journal"), reverse=True):
        words = path.read_bytes().split(b"\n", 1)[0].split(b" ", 2)
        if len(words) == 3:
            return str(json.loads(words[2]).get("store", ""))
    return ""


class Runners:
    """The runners of a state directory. ``ended`` has the names of those that were killed or stopped."""

    def __init__(self, state: Path) -> None:
        self.ended: set[str] = set()
        self._state = state

    def pids(self) -> list[int]:
        """Return the pids of the runners, also of those that have no name yet."""
        lines = {pid: _read(pid, "cmdline") for pid in _pids()}
        place = os.fsencode(self._state)
        found = {pid for pid, line in lines.items() if _RUNNER.search(line) and place in line}
        pids = set(filter(is_alive, found))
        # Between vfork(2) and exec, the process of a job has the command line of its runner.
        return [pid for pid in sorted(pids) if _parent(pid) not in pids]

    def names(self, pids: list[int]) -> set[str]:
        """Return the names of these runners, from their lock files."""
        found = set()
        for path in (self._state / "runner").glob("*.lock"):
            with suppress(FileNotFoundError):
                words = path.read_text().split()
                if words and int(words[0]) in pids:
                    found.add(path.stem)
        return found

    def note_ended(self) -> None:
        """Note the names of all runners: from now on their attempts may be interrupted."""
        self.ended |= self.names(self.pids())

    def kill(self) -> int:
        """Kill all runners by SIGKILL and return how many there were.

        They are stopped first, so that none takes a name between the reading of the names and its end.
        """
        pids = self.pids()
        for pid in pids:
            _send(pid, signal.SIGSTOP)
        self.ended |= self.names(pids)
        for pid in pids:
            _send(pid, signal.SIGKILL)
        return len(pids)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _parent(pid: int) -> int:
    stat = _read(pid, "stat").rpartition(b")")[2].split()
    return int(stat[1]) if stat else 0


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):  # it has ended meanwhile
        return Path("/proc", str(pid), name).read_bytes()
    return b""
