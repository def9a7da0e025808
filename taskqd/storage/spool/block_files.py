"""The files with the blocks of jobs and schedules, private to the daemon's user.

The files of a schedule are in ``input/schedules``. Each of its jobs has its own names of them (hard links),
and so removes only its own; what is in the files is never changed. Where links are not possible, it has
copies.
"""

import os
import re
from collections.abc import Container, Iterator, Mapping
from hashlib import sha256

from taskqd.model.schedule import ScheduleBlocks
from taskqd.model.submission import SECRET_BLOCK
from taskqd.storage.filesystem import Filesystem

SCHEDULES = "schedules"
"""The directory in ``input`` for the blocks of schedules."""

_FILE = re.compile(r"[0-9]+\.[0-9]+\.(?:script|stdin|secret)")


class BlockFiles:
    """Writes, links and removes files with blocks; ``directory`` is ``input``. All methods raise OSError."""

    def __init__(self, directory: str, filesystem: Filesystem) -> None:
        self._schedules = os.path.join(directory, SCHEDULES)
        self._filesystem = filesystem

    def write(self, paths: Mapping[str, str], blocks: Mapping[str, bytes]) -> None:
        """Write blocks durably; ``paths`` and ``blocks`` are by name."""
        for name, content in blocks.items():
            self._write(name, paths[name], content)
            self._filesystem.sync_directory(os.path.dirname(paths[name]))

    def link(self, paths: Mapping[str, str], blocks: ScheduleBlocks) -> None:
        """Give the files of a schedule other names too, durably; ``paths`` has these by name."""
        for name in blocks.names:
            self._link(name, self.path(blocks, name), paths[name])
            self._filesystem.sync_directory(os.path.dirname(paths[name]))

    def store(
        self, blocks: ScheduleBlocks, contents: Mapping[str, bytes], before: ScheduleBlocks
    ) -> str | None:
        """Make the files of a schedule durable, and return the SHA-256 of script and stdin, None without.

        Those that ``contents`` lacks are those of the blocks ``before``.
        """
        digest = sha256()
        for name in blocks.names:
            path = self.path(blocks, name)
            if name in contents:
                self._write(name, path, contents[name])
            else:
                self._link(name, self.path(before, name), path)
            if name != SECRET_BLOCK:
                digest.update(contents[name] if name in contents else self._filesystem.read_file(path))
        if blocks.names:
            self._filesystem.sync_directory(self._schedules)
        return digest.hexdigest() if set(blocks.names) - {SECRET_BLOCK} else None

    def replace_script(self, path: str, script: bytes | None, stdin_path: str | None) -> str | None:
        """Write the new script of a job durably, if it has one; return the SHA-256 of script and stdin."""
        digest = sha256()
        if script is not None:
            self.write({"script": path}, {"script": script})
            digest.update(script)
        if stdin_path is not None:
            digest.update(self._filesystem.read_file(stdin_path))
        return None if script is None and stdin_path is None else digest.hexdigest()

    def read(self, blocks: ScheduleBlocks, name: str) -> bytes:
        """Return the content of a small block of a schedule."""
        return self._filesystem.read_file(self.path(blocks, name))

    def remove(self, blocks: ScheduleBlocks) -> None:
        """Remove the files of a schedule; its jobs keep theirs."""
        for name in blocks.names:
            self._filesystem.remove(self.path(blocks, name))

    def path(self, blocks: ScheduleBlocks, name: str) -> str:
        """Return the path of a block of a schedule."""
        return os.path.join(self._schedules, blocks.file_name(name))

    def _write(self, name: str, path: str, content: bytes) -> None:
        is_program = name == "script" and content.startswith(b"#!")
        descriptor = self._filesystem.create_with_parents(path, 0o700 if is_program else 0o600)
        try:
            self._filesystem.write(descriptor, content)
            self._filesystem.sync(descriptor)
        finally:
            self._filesystem.close(descriptor)

    def _link(self, name: str, path: str, new_path: str) -> None:
        """Link a file, or copy it where the file system has no links or no more of them (EMLINK)."""
        try:
            self._filesystem.link_with_parents(path, new_path)
        except FileNotFoundError:
            raise
        except OSError:
            self._write(name, new_path, self._filesystem.read_file(path))


def find_strays(
    directory: str, filesystem: Filesystem, known: Container[str], foreign: list[str]
) -> Iterator[str]:
    """Yield the paths of files of schedules that are not ``known``; add those of others to ``foreign``.

    ``directory`` is ``input``.
    """
    top = os.path.join(directory, SCHEDULES)
    for name in filesystem.list_directory(top) if os.path.isdir(top) else ():
        path = os.path.join(top, name)
        if not _FILE.fullmatch(name):
            foreign.append(path)
        elif name not in known:
            yield path
