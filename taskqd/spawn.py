"""One spawn, in its own session: the fast way where Twisted is the one that we know, else the public way.

The fast way sets up a Process of Twisted's itself: it asks posix_spawn for a new session, leaves out the
listing of every open descriptor, which costs more than the spawn itself as soon as many clients are
connected, and reaps by wait4(2), which tells what was used (docs/decisions/0002). The public way puts
setsid(1) before the command, and what was used is not told.

What is counted is what wait4(2) counts: the CPU time of the process itself, nice(1) and prlimit(1) before it
included, and of those of its descendants that were waited for, each by its parent. Not counted is whoever was
not waited for: what is left in the background, what goes on after the end, what has a parent that ignores
SIGCHLD. The peak of memory is the largest resident set that any single one of them had, shared libraries
included; it is no sum. Linux lets that peak begin with the daemon's own, since the process has the daemon's
memory until its exec: where the peak is no larger than that it is not known, and 0 here.
"""

import dis
import fcntl
import inspect
import os
import resource
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet import main, process
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.process import Process, ProcessReader
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger

from taskqd.job import Usage

READ_BYTES = 65_536
"""A pipe is read in pieces of up to so many bytes."""
MARGIN = 4 * 1024**2
"""The kernel adds up what it counts by processor only now and then: two looks may differ by so many bytes."""

_DEFAULT_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})

_KNOWN: list[tuple[Any, str, list[str]]] = [
    (Process, "reapProcess", ["self"]),
    (Process, "processEnded", ["self", "status"]),
    (process, "unregisterReapProcessHandler", ["pid", "process"]),
    (ProcessReader, "__init__", ["self", "reactor", "proc", "name", "fileno"]),
]
"""What the fast way overrides and calls: where it is, its name and its parameters."""
_KNOWN_ATTRIBUTES = {"_reactor", "proto", "pipes"}
"""What Process's own constructor sets, in whose place ours is."""


class MeasuredProtocol(ProcessProtocol):
    """What is told of a process; ``usage`` is there before processExited is called, where it is known."""

    usage: Usage | None = None


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
    """A Process in a session of its own, whose end says what it has used.

    Sound because every descriptor of this process is close-on-exec: Python makes those that it opens so
    (PEP 446), and ``close_on_exec`` those that were inherited.

    Twisted's constructor is not called, since it would reap what has exited by then without asking what was
    used; this one does the same for a stdin that is there and pipes to read from.
    """

    _log = Logger()
    proto: Any
    pid: Any

    def __init__(
        self,
        reactor: Any,
        protocol: MeasuredProtocol,
        argv: list[bytes],
        environment: Mapping[bytes, bytes],
        stdin: int,
        uid: int | None,
    ) -> None:
        super(Process, self).__init__(protocol)
        self._reactor = reactor
        self.pipes: dict[int, Any] = {}
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            if uid is not None:
                _hand_over(opened[1::2], uid)
            self.pid = _spawn_in_session(argv, environment, (stdin, opened[1], opened[3]))
        except BaseException:
            _close(opened)
            raise
        self._floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MARGIN
        _close(opened[1::2])
        for stream, descriptor in enumerate(opened[::2], 1):
            self.pipes[stream] = _Reader(reactor, self, stream, descriptor)
        try:
            protocol.makeConnection(self)
        except Exception:  # noqa: BLE001 - whatever a bug raises, the process is there and must be reaped
            self._log.failure("a process has started, and whom it was for cannot take it")
        process.reapProcessHandlers[self.pid] = self
        self.reapProcess()

    def reapProcess(self) -> None:
        """Reap the process if it has exited, and say what it has used and how it ended.

        Called for every child whenever one has exited, and once it has closed its pipes.
        """
        try:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            return  # reaped by somebody else, who keeps to himself how it ended: Twisted, too, waits on
        if pid:
            process.unregisterReapProcessHandler(pid, self)
            peak = used.ru_maxrss * 1024  # KiB: getrusage(2)
            self.proto.usage = Usage(
                round(used.ru_utime, 6), round(used.ru_stime, 6), peak if peak > self._floor else 0
            )
            self.processEnded(status)


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
    if not all(_takes(getattr(where, name, None), parameters) for where, name, parameters in _KNOWN):
        return False
    if _attributes_set_by(Process.__init__) != _KNOWN_ATTRIBUTES:
        return False
    try:
        pid = os.posix_spawn("/bin/true", ["true"], {}, setsid=True)
    except (OSError, NotImplementedError, TypeError):
        return False
    os.waitpid(pid, 0)
    return True


def _takes(function: Callable[..., Any] | None, parameters: list[str]) -> bool:
    return function is not None and list(inspect.signature(function).parameters) == parameters


def _attributes_set_by(function: Callable[..., Any]) -> set[str]:
    """Return the names of the attributes, of whatever object, that a function sets."""
    return {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"}


IS_FAST_WAY_KNOWN = _is_known()


def spawn(
    reactor: Any,
    protocol: MeasuredProtocol,
    line: list[str],
    environment: Mapping[str, str],
    stdin: int,
    uid: int | None = None,
    is_fast: bool = IS_FAST_WAY_KNOWN,
) -> IProcessTransport:
    """Start the command line with ``stdin``, a descriptor, and with pipes for its stdout and stderr.

    ``uid`` is the user that it will become, None where it stays ours; on the public way such a user cannot
    open the pipes again. The protocol's processExited may be called before this returns. Raises OSError if it
    cannot be started.
    """
    argv = [_as_sent(word) for word in line]
    environ = {_as_sent(name): _as_sent(value) for name, value in environment.items()}
    if is_fast:
        return _SessionProcess(reactor, protocol, argv, environ, stdin, uid)
    argv = [b"setsid", *argv]
    transport: IProcessTransport = reactor.spawnProcess(
        protocol, argv[0], argv, env=environ, childFDs={0: stdin, 1: "r", 2: "r"}
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
