"""The directory of the runners of one state directory: their locks, sockets and notes.

``lock`` is locked by the runner that accepts starts. Each runner has a random NAME, and NAME.lock, which it
locks as long as it lives; NAME.sock, its socket; and NAME.ends, its notes. A lock is flock(2): the kernel
releases it when the process ends, so a pid in it is valid exactly while it is locked.
"""

import fcntl
import os
import re
import signal
from contextlib import suppress
from typing import NamedTuple

ACTIVE_LOCK = "lock"
ERRORS = "errors"
"""The file for the stderr of a runner that the daemon starts."""

_NAME = re.compile(r"([0-9a-f]{16})\.(?:lock|sock|ends)")


class Access(NamedTuple):
    """The modes of the directory, of its files and of the sockets in it."""

    directory: int = 0o700
    file: int = 0o600
    socket: int = 0o600


PRIVATE = Access()
"""For a runner and a daemon of the same user."""
SHARED = Access(0o750, 0o640, 0o660)
"""For a runner of root's and a daemon of another user, whose group the files have."""


class ActiveRunner(NamedTuple):
    """The runner that accepts starts."""

    pid: int
    name: str


class RunnerDirectory:
    """The files in ``path``, the directory ``runner`` of a state directory or one of root's."""

    def __init__(self, path: str, access: Access = PRIVATE) -> None:
        self.path = os.path.abspath(path)
        self.access = access
        self._descriptor: int | None = None

    def open(self) -> None:
        """Make the directory if it is not there; raises OSError."""
        with suppress(FileExistsError):
            os.mkdir(self.path, self.access.directory)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def state(self) -> str:
        """The state directory."""
        return os.path.dirname(self.path)

    @property
    def command(self) -> str:
        """The command that starts a runner by hand."""
        return f"taskqd-runner --state {self.state} --stay"

    def file(self, name: str) -> str:
        """Return the path of a file."""
        return os.path.join(self.path, name)

    def address(self, name: str) -> str:
        """Return the path of a file by the open directory.

        It is short enough for the address of a socket (unix(7)), and stays right if the directory is moved.
        """
        return f"/proc/self/fd/{self._descriptor}/{name}"

    def socket_address(self, name: str) -> str:
        """Return the address of a runner's socket."""
        return self.address(f"{name}.sock")

    def notes_path(self, name: str) -> str:
        """Return the path of a runner's notes."""
        return self.file(f"{name}.ends")

    def active(self) -> ActiveRunner | None:
        """Return the runner that accepts starts, None if there is none or it is just starting."""
        if not is_locked(self.file(ACTIVE_LOCK)):
            return None
        pid, _, name = _read(self.file(ACTIVE_LOCK)).partition(" ")
        return ActiveRunner(int(pid), name) if pid.isdigit() and len(name) == 16 else None

    def has_active(self) -> bool:
        """Whether a runner accepts starts, or is just starting."""
        return is_locked(self.file(ACTIVE_LOCK))

    def is_alive(self, name: str) -> bool:
        """Whether the process of a runner exists."""
        return is_locked(self.file(f"{name}.lock"))

    def names(self) -> list[str]:
        """Return the names of all runners that have a file, dead ones included; raises OSError."""
        matches = map(_NAME.fullmatch, os.listdir(self.path))
        return sorted({match[1] for match in matches if match})

    def request_socket(self, name: str) -> bool:
        """Have a living runner make its socket again, as its file was removed; return whether it lives."""
        return self.signal(name, signal.SIGUSR1)

    def signal(self, name: str, number: int) -> bool:
        """Send a signal to a runner if it lives; return whether it does."""
        path = self.file(f"{name}.lock")
        pid = _read(path)
        if not pid.isdigit() or not is_locked(path):
            return False
        with suppress(ProcessLookupError):
            os.kill(int(pid), number)
        return True

    def remove(self, name: str) -> None:
        """Remove the files of a dead runner, whose notes are in the journal."""
        for kind in ("sock", "ends", "lock"):
            with suppress(FileNotFoundError):
                os.unlink(self.file(f"{name}.{kind}"))


def is_locked(path: str) -> bool:
    """Whether another process has locked a file; False if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
