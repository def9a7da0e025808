"""Spawns processes in new sessions by posix_spawn(3), in threads (docs/speedups.md).

Twisted's own spawnProcess lists every open descriptor for each spawn, which costs more than the spawn itself
when many clients are connected, holds the GIL until the child has executed its program, and cannot start a
session. Not closing descriptors is correct because each one of this process is close-on-exec: Python opens
them so (PEP 446), and the daemon sets the flag on those that it inherited (proc.set_close_on_exec).
"""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReactorTime

from taskqd.speedups import child_process, posix_spawn
from taskqd.speedups.batch import BatchScope
from taskqd.speedups.child_process import ChildProcess, ChildReaper, SessionProtocol
from taskqd.speedups.posix_spawn import Spawning
from taskqd.speedups.worker_threads import WorkerThreads

MAX_SPAWNING = 2
"""Spawns that run at the same time: while one waits for a processor, another may get one."""

Spawned = tuple[int, int | None]
"""A pid, and the start time of the process (proc(5), starttime) if it is known."""

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def is_supported() -> bool:
    """Whether this Twisted and this C library behave as this module needs it."""
    return child_process.is_supported() and posix_spawn.is_supported()


class Spawner:
    """Starts processes and reaps them; starts and exits that are found together are one of ``batches``."""

    def __init__(self, reactor: IReactorFDSet, clock: IReactorTime, batches: BatchScope) -> None:
        self._children = ChildReaper(reactor, clock, batches)
        self._workers: WorkerThreads[Spawned] = WorkerThreads(reactor, MAX_SPAWNING, "taskqd-spawn", batches)

    def spawn(
        self, protocol: SessionProtocol, argv: Sequence[bytes], environ: Sequence[bytes], stdin: int
    ) -> "Deferred[ChildProcess]":
        """Start a program with ``stdin``, a descriptor, and with pipes for its stdout and stderr.

        ``environ`` has NAME=value. The pipes belong to the user ``protocol.pipe_owner`` if that is not None.
        The Deferred fires with the transport when the process exists and the protocol is connected to it; the
        process may have exited by then. It fails with OSError if the process cannot be started.
        """
        opened: list[int] = []
        try:
            opened.append(os.dup(stdin))  # the caller may close its own as soon as this returns
            opened += os.pipe()
            opened += os.pipe()
            child_in, out, child_out, err, child_err = opened
            if protocol.pipe_owner is not None:
                for descriptor in (child_out, child_err):
                    os.fchown(descriptor, protocol.pipe_owner, -1)
            spawning = Spawning(argv, environ, (child_in, child_out, child_err))
            spawned: Deferred[ChildProcess] = Deferred()
            on_spawned = partial(
                self._on_spawned, spawned, protocol, (out, err), (child_in, child_out, child_err)
            )
            self._workers.call(partial(_spawn, spawning), on_spawned)
        except BaseException:
            _close(opened)
            raise
        return spawned

    def stop(self) -> None:
        """Start nothing more; returns once the spawns that were asked for are done."""
        self._workers.stop()

    def _on_spawned(
        self,
        spawned: "Deferred[ChildProcess]",
        protocol: SessionProtocol,
        ours: tuple[int, int],
        of_child: tuple[int, ...],
        result: Spawned | Exception,
    ) -> None:
        _close(of_child)
        if isinstance(result, Exception):
            _close(ours)
            spawned.errback(result)
            return
        pid, protocol.started = result
        try:
            child = self._children.add(protocol, pid, ours)
        except Exception:  # noqa: BLE001 - a process that nothing would reap must not go on
            _close(ours)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            spawned.errback()
            return
        self._children.reap_if_exited(pid)  # a SIGCHLD that came before `add` has not reaped it
        spawned.callback(child)


def _spawn(spawning: Spawning) -> Spawned:
    """Start a process; its start time is that of the fork, known if the clock did not tick meanwhile.

    Reading the start time from /proc would cost a fifth of the spawn.
    """
    before = _ticks()
    pid = spawning.spawn()
    return pid, before if _ticks() == before else None


def _ticks() -> int:
    """Return the time since the boot in clock ticks, as start times are counted (proc(5), starttime)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS_PER_SECOND // 1_000_000_000


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
