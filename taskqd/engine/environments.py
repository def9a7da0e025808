"""Keeps the environments that clients pass on: each is stored once, before the first job that has it.

The file of an environment is removed with the last job that has it. It is pinned while a submission that is
not durable yet needs it, and while a connection may name it by its hash.
"""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.engine.locks import KeyedLock
from taskqd.model.environment import Environment
from taskqd.state.environment_uses import EnvironmentUses
from taskqd.storage.interfaces import IEnvironmentFiles


class Pin:
    """Keeps the file of an environment until it is released."""

    def __init__(self, environment: Environment, on_release: Callable[[str], None]) -> None:
        self.environment = environment
        self._on_release: Callable[[str], None] | None = on_release

    def release(self) -> None:
        """Let the file be removed, unless something else needs it; does nothing the second time."""
        if self._on_release is not None:
            on_release, self._on_release = self._on_release, None
            on_release(self.environment.sha256)


class Environments:
    """Stores environments in ``files``, and removes those that no job has (``uses``) and that are not pinned.

    One environment is written or removed at a time, so that none is removed that a submission has just found.
    """

    _log = Logger()

    def __init__(self, files: IEnvironmentFiles, uses: EnvironmentUses) -> None:
        self._files = files
        self._uses = uses
        uses.on_unused = self._remove_unused
        self._pins: dict[str, int] = {}
        self._stored: set[str] = set()  # of those that are pinned
        self._locks: KeyedLock[str] = KeyedLock()

    @property
    def pinned(self) -> frozenset[str]:
        """The hashes of the environments that are pinned."""
        return frozenset(self._pins)

    def pin(self, environment: Environment) -> Pin:
        """Keep the file of an environment until the pin is released."""
        self._pins[environment.sha256] = self._pins.get(environment.sha256, 0) + 1
        return Pin(environment, self._unpin)

    def _unpin(self, sha256: str) -> None:
        self._pins[sha256] -= 1
        if not self._pins[sha256]:
            del self._pins[sha256]
            self._stored.discard(sha256)
            self._remove_unused(sha256)

    async def store(self, environment: Environment, block: bytes) -> None:
        """Make the file of a pinned environment durable, if it is not; raises OSError."""
        sha256 = environment.sha256
        if self._is_durable(environment):
            return
        await self._locks.acquire(sha256)
        try:
            if not self._is_durable(environment):
                await self._files.store(environment, block)
                self._stored.add(sha256)
        finally:
            self._locks.release(sha256)

    def _is_durable(self, environment: Environment) -> bool:
        is_known = environment.sha256 in self._uses or environment.sha256 in self._stored
        return is_known and self._files.exists(environment)

    def _remove_unused(self, sha256: str) -> None:
        """Remove the file of an environment, unless it is needed."""
        if not self._is_needed(sha256):
            Deferred.fromCoroutine(self._remove(sha256)).addErrback(self._on_remove_failed, sha256)

    def _is_needed(self, sha256: str) -> bool:
        return sha256 in self._uses or sha256 in self._pins

    async def _remove(self, sha256: str) -> None:
        await self._locks.acquire(sha256)
        try:
            if not self._is_needed(sha256):
                await self._files.remove(sha256)
        finally:
            self._locks.release(sha256)

    def _on_remove_failed(self, failure: Failure, sha256: str) -> None:
        failure.trap(OSError)
        self._log.warn(
            "environment {sha256} is left for the next start: {why}", sha256=sha256, why=failure.value
        )
