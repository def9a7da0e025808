"""The files with the environments that clients pass on: one for all jobs that have the same environment.

A file is named by the SHA-256 of its content in ``input/environments``, private to the daemon's user, and
never changed. The contents that were read last are kept, since many jobs in a row have the same one.
"""

import os
import re
from collections import OrderedDict
from collections.abc import Collection, Container, Iterator, Mapping

from twisted.internet.defer import Deferred
from zope.interface import implementer

from taskqd.model.environment import Environment, unpack_environment
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import IEnvironmentFiles, InThread

ENVIRONMENTS = "environments"
"""The directory in ``input`` for environments."""
MAX_CACHED = 8
"""Environments whose values are kept in memory: up to half a megabyte each, mostly a few kilobytes."""

_FILE = re.compile(r"[0-9a-f]{64}(?:\.new)?")


@implementer(IEnvironmentFiles)
class EnvironmentFiles:
    """Writes, reads and removes the files of environments; ``directory`` is ``input``."""

    def __init__(self, directory: str, filesystem: Filesystem, in_thread: InThread) -> None:
        self._directory = os.path.join(directory, ENVIRONMENTS)
        self._filesystem = filesystem
        self._in_thread = in_thread
        self._cached: OrderedDict[str, Mapping[str, str]] = OrderedDict()

    def exists(self, environment: Environment) -> bool:
        return self._filesystem.size(self._path(environment.sha256)) == environment.size

    def store(self, environment: Environment, block: bytes) -> "Deferred[None]":
        return self._in_thread(self._store, self._path(environment.sha256), block)

    def _store(self, path: str, block: bytes) -> None:
        descriptor = self._filesystem.create_with_parents(f"{path}.new")
        try:
            self._filesystem.write(descriptor, block)
            self._filesystem.sync(descriptor)
        finally:
            self._filesystem.close(descriptor)
        self._filesystem.rename(f"{path}.new", path)

    def read(self, environment: Environment) -> Mapping[str, str]:
        values = self._cached.get(environment.sha256)
        if values is None:
            path = self._path(environment.sha256)
            block = self._filesystem.read_file(path, environment.size + 1)
            values = self._cached[environment.sha256] = unpack_environment(block, environment)
            if len(self._cached) > MAX_CACHED:
                self._cached.popitem(last=False)
        self._cached.move_to_end(environment.sha256)
        return values

    def remove(self, sha256: str) -> "Deferred[None]":
        self._cached.pop(sha256, None)
        return self._in_thread(self._remove, self._path(sha256))

    def _remove(self, path: str) -> None:
        self._filesystem.remove(path)
        self._filesystem.remove(f"{path}.new")  # of a write that failed

    def missing(self, known: Collection[str]) -> int:
        """Return how many of the ``known`` hashes have no file."""
        return len(set(known).difference(_names(self._directory, self._filesystem))) if known else 0

    def _path(self, sha256: str) -> str:
        return os.path.join(self._directory, sha256)


def find_stray_environments(
    directory: str, filesystem: Filesystem, known: Container[str], foreign: list[str]
) -> Iterator[str]:
    """Yield the paths of files of environments that are not ``known``; add those of others to ``foreign``.

    ``directory`` is ``input``.
    """
    top = os.path.join(directory, ENVIRONMENTS)
    for name in _names(top, filesystem):
        path = os.path.join(top, name)
        if not _FILE.fullmatch(name):
            foreign.append(path)
        elif name not in known:
            yield path


def _names(directory: str, filesystem: Filesystem) -> list[str]:
    return filesystem.list_directory(directory) if os.path.isdir(directory) else []
