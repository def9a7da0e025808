"""Cleans up the files of a journal after they have been replayed at the start of the daemon."""

import os
from typing import NamedTuple

from twisted.logger import Logger

from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.replay import Replay
from taskqd.storage.journal.segments import Layout, Segments

_log = Logger()


class FileSizes(NamedTuple):
    """The sizes of a journal's files; ``snapshot_number`` is 0 if there is no snapshot."""

    snapshot_number: int
    snapshot_bytes: int
    segments: dict[int, int]


def clean_up(segments: Segments, filesystem: Filesystem, layout: Layout, replay: Replay) -> FileSizes:
    """Remove files that a snapshot replaces and segments that were just begun, and truncate the last segment.

    ``replay`` has read the files of ``layout``. Raises OSError; the next start then does the rest.
    """
    _remove_obsolete(segments, filesystem, layout)
    numbers = _remove_unfinished(segments, filesystem, layout)
    sizes = {number: filesystem.size(segments.path(number)) or 0 for number in numbers}
    if numbers and replay.good_bytes < sizes[numbers[-1]]:
        _truncate(segments.path(numbers[-1]), filesystem, replay)
        sizes[numbers[-1]] = replay.good_bytes
    snapshot_bytes = 0
    if layout.snapshot:
        snapshot_bytes = filesystem.size(segments.path(-layout.snapshot)) or 0
    return FileSizes(layout.snapshot, snapshot_bytes, sizes)


def _remove_obsolete(segments: Segments, filesystem: Filesystem, layout: Layout) -> None:
    for name in layout.obsolete:
        path = os.path.join(segments.directory, name)
        try:
            filesystem.remove(path)
        except IsADirectoryError:
            _log.warn("{path} is a directory, which the daemon has not made; it is ignored", path=path)


def _remove_unfinished(segments: Segments, filesystem: Filesystem, layout: Layout) -> list[int]:
    """Remove segments at the end whose first record is not complete; return the numbers of the others."""
    numbers = list(layout.segments)
    while numbers and segments.first_sequence(numbers[-1]) is None:
        filesystem.remove(segments.path(numbers.pop()))
    return numbers


def _truncate(path: str, filesystem: Filesystem, replay: Replay) -> None:
    if replay.torn_bytes:
        _log.warn(
            "{path}: cut off {bytes} bytes of a last write that was not finished when the daemon stopped; "
            "it had not been acknowledged",
            path=path,
            bytes=replay.torn_bytes,
        )
    filesystem.truncate(path, replay.good_bytes)
