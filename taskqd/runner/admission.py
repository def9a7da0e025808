"""Makes an attempt and its output writer from a Start, for a daemon that the runner trusts."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from taskqd.execution.messages import UTF_8, AttemptKey, Start
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread
from taskqd.storage.spool.output import OutputWriter


class Admitted(NamedTuple):
    """The Start that is executed, and the writer of its output."""

    start: Start
    output: OutputWriter


class Admission(Protocol):
    """Decides how the Starts of a daemon are executed, and hears what becomes of their attempts.

    With ``changes_users`` each attempt runs as another user than the runner.
    """

    changes_users: bool

    def admit(self, start: Start, files: Sequence[int], store: str) -> Admitted:
        """Return what to execute; raises CannotStart.

        ``files`` are the descriptors that came with the Start; they are closed by this object.
        """

    def on_spawned(self, key: AttemptKey, pid: int, started: int | None) -> None:
        """Note the first process of an attempt."""

    def on_ended(self, key: AttemptKey, *, has_leftovers: bool) -> None:
        """Note that an attempt has ended, and whether processes of it are left."""

    def on_cleared(self, key: AttemptKey) -> None:
        """Note that nothing is left of an ended attempt."""

    def sweep(self, runner: str) -> "Deferred[None] | None":
        """Kill all that a dead runner has left; None if that cannot be requested."""

    def settle(self, runner: str) -> None:
        """Remove the files of a dead runner."""


class TrustedDaemon:
    """The admission of a daemon that has the rights of the runner: everything is executed as it says."""

    changes_users = False

    def __init__(self, filesystem: Filesystem, clock: IReactorTime, in_thread: InThread) -> None:
        self._filesystem = filesystem
        self._clock = clock
        self._in_thread = in_thread

    def admit(self, start: Start, files: Sequence[int], store: str) -> Admitted:
        close_all(files)
        paths = {1: start.stdout, 2: start.stderr}
        order = start.order
        if start.encoding != UTF_8:
            paths = {stream: os.fsdecode(path.encode(start.encoding)) for stream, path in paths.items()}
            order = None if order is None else os.fsdecode(order.encode(start.encoding))
        output = OutputWriter(
            paths,
            self._filesystem,
            self._clock,
            self._in_thread,
            start.max_output,
            [],
            order_path=order,
        )
        return Admitted(start, output)

    def on_spawned(self, key: AttemptKey, pid: int, started: int | None) -> None:
        """Do nothing: the daemon sweeps by its journal."""

    def on_ended(self, key: AttemptKey, *, has_leftovers: bool) -> None:
        """Do nothing: the daemon removes the files of attempts."""

    def on_cleared(self, key: AttemptKey) -> None:
        """Do nothing."""

    def sweep(self, runner: str) -> "Deferred[None] | None":
        return None

    def settle(self, runner: str) -> None:
        """Do nothing: the daemon removes the files of runners."""


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors that nothing needs."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
