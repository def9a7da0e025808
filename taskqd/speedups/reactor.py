"""A reactor with faster replacements for two of its methods; everything else is the real reactor's."""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IProcessProtocol, IReactorProcess
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from taskqd.speedups.batch import BatchScope
from taskqd.speedups.spawn import Spawner, is_supported


@implementer(IReactorProcess)
class AcceleratedReactor:
    """Delegates to ``reactor``, and spawns processes in threads of its own.

    ``batches`` notifies its observers of I/O events that are handled together: processes that have started
    or exited. ``starts_sessions`` is False if this Twisted or this C library is unknown; ``spawnProcess`` is
    then the real reactor's.
    """

    _log = Logger()

    def __init__(self, reactor: Any, *, starts_sessions: bool | None = None) -> None:
        directlyProvides(self, providedBy(reactor))
        self.batches = BatchScope()
        self.starts_sessions = is_supported() if starts_sessions is None else starts_sessions
        self._reactor = reactor
        self._spawner = Spawner(reactor, self.batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def spawnProcess(  # noqa: PLR0913, PLR0917 - as IReactorProcess has it
        self,
        processProtocol: IProcessProtocol,
        executable: bytes | str,
        args: Sequence[bytes | str] = (),
        env: Mapping[Any, Any] | None = None,
        path: bytes | str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: object = 0,
        childFDs: Mapping[int, int | str] | None = None,
    ) -> Any:
        """Start a process as the leader of a new session, if its protocol has ``processNotStarted``.

        This returns None at once. The protocol is called when the process exists: ``connectionMade``, then
        ``processRunning`` (it may have exited by then); or ``processNotStarted(failure)``. Set on it are
        ``started``, the start time in clock ticks since boot if it is known, before ``connectionMade``, and
        ``rusage``, as wait4(2) returns it, before ``processExited``. The user with the uid ``pipe_owner``,
        if that is not None, may open the pipes by their names, such as /dev/stdout.

        Such a protocol needs ``args`` and ``env`` in bytes, and ``childFDs`` that are a descriptor for 0, and
        "r" for 1 and 2. All others are started by the real reactor.
        """
        protocol: Any = processProtocol
        if not self.starts_sessions or not hasattr(protocol, "processNotStarted"):
            return self._reactor.spawnProcess(
                processProtocol, executable, args, env, path, uid, gid, usePTY, childFDs
            )
        environ = [name + b"=" + value for name, value in (env or {}).items()]
        stdin: Any = (childFDs or {})[0]
        argv: Any = args
        spawning = maybeDeferred(self._spawner.spawn, protocol, argv, environ, stdin)
        spawning.addCallbacks(lambda _: protocol.processRunning(), protocol.processNotStarted)
        spawning.addErrback(self._log_error)
        return None

    def _log_error(self, failure: Failure) -> None:
        self._log.failure("unexpected error in reporting that a process runs", failure)

    def stop_spawning(self) -> None:
        """Start nothing more; returns once the spawns that were asked for are done."""
        self._spawner.stop()
