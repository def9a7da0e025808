"""The files that root's runner keeps for the attempts that it runs as other users.

All are in one directory, which users can enter but neither list nor change (storage/spool/user_files.py).
``ID.ATTEMPT.WORD.progress`` belongs to the user, and the daemon's group may read it; ``….script`` and
``….stdin`` are copies for the user. ``….run`` is root's own record of the attempt. It is made before all
others and removed after them, so it names every process and file that a killed runner has left.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from taskqd.execution.messages import AttemptKey
from taskqd.execution.proc import make_mark
from taskqd.storage.spool.user_files import PROGRESS, copy_file, create_file, open_directory

INPUTS = ("script", "stdin")
"""The kinds of files that are copied for an attempt."""
RECORD = "run"

_RECORD_NAME = re.compile(rf"([0-9]+)\.([0-9]+)\.([0-9a-f]{{16}})\.{RECORD}")
_PROGRESS_MODE = 0o640
_MAX_RECORD = 4096


class Record(NamedTuple):
    """An attempt that a runner has started.

    ``pid`` and ``started`` are None if they were not recorded, or before the machine was restarted: another
    process may have both since.
    """

    key: AttemptKey
    runner: str
    store: str
    uid: int
    pid: int | None = None
    started: int | None = None

    @property
    def mark(self) -> str:
        """The mark of its processes."""
        return make_mark(self.store, self.key)


class AttemptFiles:
    """The files of attempts in ``path``; ``runner`` is the name of this runner, ``gid`` the daemon's.

    ``boot`` is the kernel's id of this boot.
    """

    def __init__(self, path: str, runner: str, gid: int, boot: str) -> None:
        self._boot = boot or "unknown"
        self._path = path
        self._runner = runner
        self._gid = gid
        self._directory: int | None = None

    def open(self) -> None:
        """Make or open the directory; raises StartRefused and OSError."""
        self._directory = open_directory(self._path)

    def provide(
        self, key: AttemptKey, store: str, uid: int, gid: int, blocks: Mapping[str, int]
    ) -> Mapping[str, str]:
        """Make the files of an attempt, and return the paths of its copies by kind.

        ``blocks`` has the descriptors to copy, by kind. After an OSError none of the files exists.
        """
        self.remove(key)
        try:
            self._write(key, os.O_CREAT | os.O_EXCL, f"{self._runner} {store} {uid} {self._boot}\n")
            create_file(self._directory, _name(key, PROGRESS), uid, self._gid, _PROGRESS_MODE)
            for kind, descriptor in blocks.items():
                copy_file(self._directory, _name(key, kind), uid, gid, descriptor)
        except BaseException:
            self.remove(key)
            raise
        return {kind: os.path.join(self._path, _name(key, kind)) for kind in blocks}

    def record_process(self, key: AttemptKey, pid: int, started: int) -> None:
        """Add the first process to the record of an attempt; raises OSError."""
        self._write(key, os.O_APPEND, f"{pid} {started}\n")

    def remove_copies(self, key: AttemptKey) -> None:
        """Remove the user's files of an attempt, and keep its record."""
        for kind in (*INPUTS, PROGRESS):
            self._unlink(_name(key, kind))

    def remove(self, key: AttemptKey) -> None:
        """Remove all files of an attempt, its record last."""
        self.remove_copies(key)
        self._unlink(_name(key, RECORD))

    def records_of(self, runner: str) -> list[Record]:
        """Return the records of a runner's attempts; raises OSError."""
        found = []
        for name in os.listdir(self._directory):
            match = _RECORD_NAME.fullmatch(name)
            record = None if match is None else self._read(name, match)
            if record is not None and record.runner == runner:
                found.append(record)
        return found

    def _write(self, key: AttemptKey, flags: int, text: str) -> None:
        name = _name(key, RECORD)
        descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600, dir_fd=self._directory)
        try:
            os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)

    def _read(self, name: str, match: "re.Match[str]") -> Record | None:
        """Return a record; None if its attempt has just ended, or it was not completely written."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        try:
            lines = os.read(descriptor, _MAX_RECORD).decode("ascii").split("\n")[:-1]
        finally:
            os.close(descriptor)
        if not lines:
            return None
        runner, store, uid, boot = lines[0].split(" ")
        has_process = len(lines) > 1 and boot == self._boot
        pid, started = map(int, lines[1].split(" ")) if has_process else (None, None)
        key = AttemptKey(int(match[1]), int(match[2]), match[3])
        return Record(key, runner, store, int(uid), pid, started)

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)


def _name(key: AttemptKey, kind: str) -> str:
    return f"{key.id}.{key.attempt}.{key.word}.{kind}"
