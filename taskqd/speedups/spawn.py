"""One spawn, in its own session: the fast way where Twisted is the one that we know, else the public way.

The fast way asks posix_spawn(3) for a new session, in a thread, since that waits for the child
(posix_spawn.py), and makes a child (children.py) of what it has started. It leaves out the listing of every
open descriptor, which costs more than the spawn itself as soon as many clients are connected, and what was
used is told (docs/decisions/0002, 0028). The public way puts setsid(1) before the command, and what was used
is not told.

To leave out the listing is sound because every descriptor of this process is close-on-exec: Python makes so
those that it opens (PEP 446), and ``close_on_exec`` those that were inherited.
"""

import fcntl
import os
import signal
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed

from taskqd.execution import proc
from taskqd.speedups import child_process, posix_spawn
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.child_process import ChildReaper, MeasuredProtocol
from taskqd.speedups.posix_spawn import Spawning
from taskqd.speedups.worker_threads import WorkerThreads

AT_ONCE = 2
"""So many spawns are under way at once: while one waits for a processor, another may get one."""


Born = tuple[int, int | None]
"""A process's pid, and its start time (proc(5)) where that is known without a look at the process."""


def _hand_over(pipes: Iterable[int], uid: int) -> None:
    """Let another user open pipes again that are theirs to write to: by /dev/stdout, for instance."""
    for descriptor in pipes:
        os.fchown(descriptor, uid, -1)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _is_known() -> bool:
    """Whether this Twisted and this C library are such that the fast way does what it should."""
    return child_process.are_known() and posix_spawn.is_known()


IS_FAST_WAY_KNOWN = _is_known()


def _bear(spawning: Spawning) -> Born:
    """Start a process, whose start time is that of the fork; to read that costs a fifth of the spawn."""
    before = proc.ticks()
    pid = spawning.spawn()
    return pid, before if proc.ticks() == before else None


class Spawner:
    """Starts processes, the fast way if it ``is_fast``; of ends and starts it is told ``together``."""

    def __init__(self, reactor: Any, together: BatchScope, is_fast: bool = IS_FAST_WAY_KNOWN) -> None:
        self._reactor = reactor
        self._is_fast = is_fast
        self._children = ChildReaper(reactor, together)
        self._workers: WorkerThreads[Born] = WorkerThreads(reactor, AT_ONCE, "taskqd-spawn", together)

    def spawn(
        self,
        protocol: MeasuredProtocol,
        line: list[str],
        environment: Mapping[str, str],
        stdin: int,
        uid: int | None = None,
    ) -> "Deferred[Any]":
        """Start the command line with ``stdin``, a descriptor, and with pipes for its stdout and stderr.

        ``uid`` is the user that it will become, None where it stays ours; on the public way such a user
        cannot open the pipes again. What this returns fires once the process is there and the protocol knows
        it; until then ``stdin`` must stay open. It fails with OSError if it cannot be started. The protocol's
        processExited may be called before it fires.
        """
        argv = [_as_sent(word) for word in line]
        if self._is_fast:
            variables = [_as_sent(f"{name}={value}") for name, value in environment.items()]
            return self._spawn_child(protocol, argv, variables, stdin, uid)
        environ = {_as_sent(name): _as_sent(value) for name, value in environment.items()}
        transport = self._reactor.spawnProcess(
            protocol, b"setsid", [b"setsid", *argv], env=environ, childFDs={0: stdin, 1: "r", 2: "r"}
        )
        return succeed(transport)

    def stop(self) -> None:
        """Start nothing more."""
        self._workers.stop()

    def _spawn_child(
        self, protocol: MeasuredProtocol, argv: list[bytes], environ: list[bytes], stdin: int, uid: int | None
    ) -> "Deferred[Any]":
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            out, its_out, err, its_err = opened
            if uid is not None:
                _hand_over((its_out, its_err), uid)
            spawning = Spawning(argv, environ, (stdin, its_out, its_err))
            spawned: Deferred[Any] = Deferred()
            ended = partial(self._spawned, spawned, protocol, (out, err), (its_out, its_err))
            self._workers.call(partial(_bear, spawning), ended)
        except BaseException:
            _close(opened)
            raise
        return spawned

    def _spawned(
        self,
        spawned: "Deferred[Any]",
        protocol: MeasuredProtocol,
        ours: tuple[int, int],
        theirs: tuple[int, int],
        result: Born | Exception,
    ) -> None:
        _close(theirs)
        if isinstance(result, Exception):
            _close(ours)
            spawned.errback(result)
            return
        pid, protocol.started = result
        try:
            child = self._children.add(protocol, pid, ours)
        except Exception:  # noqa: BLE001 - a process that is not ours to reap must not go on
            _close(ours)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            spawned.errback()
            return
        self._children.look_at(pid)  # it may have exited before anybody knew that it is one of ours
        spawned.callback(child)


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
