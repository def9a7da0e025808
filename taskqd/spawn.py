"""One spawn, in its own session: the fast way where Twisted is the one that we know, else the public way.

The fast way overrides the one private method of Twisted's Process that calls posix_spawn, to ask it for a new
session and to leave out the listing of every open descriptor, which costs more than the spawn itself as soon
as many clients are connected (docs/decisions/0002). The public way puts setsid(1) before the command.
"""

import fcntl
import inspect
import os
import signal
from collections.abc import Mapping
from typing import Any

from twisted.internet import main
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.process import Process, ProcessReader
from twisted.internet.protocol import ProcessProtocol

READ_BYTES = 65_536
"""A pipe is read in pieces of up to so many bytes."""

_KNOWN_METHOD = ["self", "path", "uid", "gid", "executable", "args", "environment", "kwargs"]
_DEFAULT_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class _Reader(ProcessReader):
    """Reads a pipe in larger pieces than Twisted does, and passes them on alike."""

    def doRead(self) -> Any:
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            return main.CONNECTION_DONE
        self.dataReceived(data)
        return None


class _SessionProcess(Process):
    """A Process that posix_spawn puts into a session of its own.

    Sound because every descriptor of this process is close-on-exec: Python makes those that it opens so
    (PEP 446), and ``close_on_exec`` those that were inherited.
    """

    processReaderFactory = _Reader  # noqa: N815 - Twisted's name

    def _trySpawnInsteadOfFork(
        self,
        path: object,
        uid: object,
        gid: object,
        executable: bytes,
        args: list[bytes],
        environment: Mapping[bytes, bytes],
        kwargs: Mapping[str, Any],
    ) -> bool:
        actions = [(os.POSIX_SPAWN_DUP2, theirs, ours) for ours, theirs in sorted(kwargs["fdmap"].items())]
        self.pid = os.posix_spawnp(
            executable,
            args,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=_DEFAULT_SIGNALS,
        )
        self.status = -1
        return True


def _is_known() -> bool:
    """Whether this Twisted and this C library are such that the fast way does what it should."""
    method = getattr(Process, "_trySpawnInsteadOfFork", None)
    if method is None or list(inspect.signature(method).parameters) != _KNOWN_METHOD:
        return False
    try:
        pid = os.posix_spawn("/bin/true", ["true"], {}, setsid=True)
    except (OSError, NotImplementedError, TypeError):
        return False
    os.waitpid(pid, 0)
    return True


IS_FAST_WAY_KNOWN = _is_known()


def spawn(
    reactor: Any,
    protocol: ProcessProtocol,
    line: list[str],
    environment: Mapping[str, str],
    stdin: int,
    is_fast: bool = IS_FAST_WAY_KNOWN,
) -> IProcessTransport:
    """Start the command line with ``stdin``, a descriptor, and with pipes for its stdout and stderr.

    The protocol's processExited may be called before this returns. Raises OSError if it cannot be started.
    """
    descriptors = {0: stdin, 1: "r", 2: "r"}
    argv = [_as_sent(word) for word in line]
    environ = {_as_sent(name): _as_sent(value) for name, value in environment.items()}
    if is_fast:
        return _SessionProcess(reactor, argv[0], argv, environ, None, protocol, childFDs=descriptors)
    argv = [b"setsid", *argv]
    transport: IProcessTransport = reactor.spawnProcess(
        protocol, argv[0], argv, env=environ, childFDs=descriptors
    )
    return transport


def _as_sent(text: str) -> bytes:
    """Return the bytes that came over the wire, whatever this process's locale is."""
    return text.encode("utf-8", "surrogateescape")


def close_on_exec() -> None:
    """Keep inherited descriptors from this process's children, and take 0 to 2 where they are free.

    Were 0 to 2 free, a pipe would get one of them, and the child's end of it would be in its own way.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            try:
                flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
                fcntl.fcntl(descriptor, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
            except OSError:
                continue  # the listing's own descriptor, closed by now
