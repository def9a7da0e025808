"""One spawn, in its own session: the fast way where Twisted is the one that we know, else the public way.

The fast way asks posix_spawn for a new session and makes a child (children.py) of what it has started. It
leaves out the listing of every open descriptor, which costs more than the spawn itself as soon as many
clients are connected, and what was used is told (docs/decisions/0002). The public way puts setsid(1) before
the command, and what was used is not told.

To leave out the listing is sound because every descriptor of this process is close-on-exec: Python makes so
those that it opens (PEP 446), and ``close_on_exec`` those that were inherited.
"""

import fcntl
import os
import signal
from collections.abc import Iterable, Mapping
from typing import Any

from twisted.internet.interfaces import IProcessTransport

from taskqd import children
from taskqd.children import Children, MeasuredProtocol

_DEFAULT_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def _spawn_in_session(argv: list[bytes], environment: Mapping[bytes, bytes], streams: Iterable[int]) -> int:
    """Return the pid; ``streams`` are what the process gets as its descriptors 0, 1 and 2."""
    return os.posix_spawnp(
        argv[0],
        argv,
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, ours) for ours, theirs in enumerate(streams)],
        setsid=True,
        setsigmask=[],
        setsigdef=_DEFAULT_SIGNALS,
    )


def _hand_over(pipes: Iterable[int], uid: int) -> None:
    """Let another user open pipes again that are theirs to write to: by /dev/stdout, for instance."""
    for descriptor in pipes:
        os.fchown(descriptor, uid, -1)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _is_known() -> bool:
    """Whether this Twisted and this C library are such that the fast way does what it should."""
    if not children.are_known():
        return False
    try:
        pid = os.posix_spawn("/bin/true", ["true"], {}, setsid=True)
    except (OSError, NotImplementedError, TypeError):
        return False
    os.waitpid(pid, 0)
    return True


IS_FAST_WAY_KNOWN = _is_known()


class Spawner:
    """Starts processes, the fast way if it ``is_fast``."""

    def __init__(self, reactor: Any, is_fast: bool = IS_FAST_WAY_KNOWN) -> None:
        self._reactor = reactor
        self._is_fast = is_fast
        self._children = Children(reactor)

    def spawn(
        self,
        protocol: MeasuredProtocol,
        line: list[str],
        environment: Mapping[str, str],
        stdin: int,
        uid: int | None = None,
    ) -> IProcessTransport:
        """Start the command line with ``stdin``, a descriptor, and with pipes for its stdout and stderr.

        ``uid`` is the user that it will become, None where it stays ours; on the public way such a user
        cannot open the pipes again. On that way the protocol's processExited may be called before this
        returns. Raises OSError if it cannot be started.
        """
        argv = [_as_sent(word) for word in line]
        environ = {_as_sent(name): _as_sent(value) for name, value in environment.items()}
        if self._is_fast:
            return self._spawn_child(protocol, argv, environ, stdin, uid)
        transport: IProcessTransport = self._reactor.spawnProcess(
            protocol, b"setsid", [b"setsid", *argv], env=environ, childFDs={0: stdin, 1: "r", 2: "r"}
        )
        return transport

    def _spawn_child(
        self,
        protocol: MeasuredProtocol,
        argv: list[bytes],
        environ: Mapping[bytes, bytes],
        stdin: int,
        uid: int | None,
    ) -> IProcessTransport:
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            out, its_out, err, its_err = opened
            if uid is not None:
                _hand_over((its_out, its_err), uid)
            pid = _spawn_in_session(argv, environ, (stdin, its_out, its_err))
        except BaseException:
            _close(opened)
            raise
        _close((its_out, its_err))
        return self._children.add(protocol, pid, (out, err))


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
