"""Removes, at the start of the daemon, the files of jobs and schedules that the journal does not know."""

import os
import re
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from twisted.logger import Logger

from taskqd.storage.filesystem import Filesystem
from taskqd.storage.spool.block_files import SCHEDULES, find_strays
from taskqd.storage.spool.environment_files import ENVIRONMENTS, find_stray_environments

MAX_LOGGED_PATHS = 5
"""Paths of foreign entries that one log line names."""

_log = Logger()
_DIRECTORY = re.compile(r"[0-9]+")
_FILE = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:\.(stdout|stderr|order|script|stdin|secret))?")


class _SpoolFile(NamedTuple):
    """A file of a job; ``number`` is the attempt, of a script that of the file, 0 if its name has none."""

    path: str
    job_id: int
    number: int
    is_progress: bool
    is_script: bool


def remove_stray_files(
    directory: str,
    filesystem: Filesystem,
    attempts_of: Callable[[int], int | None],
    running: Container[int],
    schedule_files: Container[str],
    script_file_of: Callable[[int], int | None],
    environments: Container[str],
) -> int:
    """Remove the files of unknown jobs and attempts below ``directory``; return how many. Raises OSError.

    ``attempts_of(job_id)`` returns the number of attempts of a job, None if there is no such job, and
    ``script_file_of(job_id)`` the number of the file with its script, None if it has none. Progress
    files are removed unless their job is ``running``, files of schedules unless their names are among
    ``schedule_files``, and those of environments unless their hashes are among ``environments``. Entries that
    the daemon has not made are logged and not removed.
    """
    count = 0
    foreign: list[str] = []
    strays = [
        file.path
        for file in _find_files(directory, filesystem, foreign)
        if not _is_needed(file, attempts_of, script_file_of, running)
    ]
    blocks = os.path.join(directory, "input")
    strays += find_strays(blocks, filesystem, schedule_files, foreign)
    strays += find_stray_environments(blocks, filesystem, environments, foreign)
    for path in strays:
        try:
            filesystem.remove(path)
            count += 1
        except (IsADirectoryError, PermissionError):
            foreign.append(path)
    for kind in ("output", "input"):
        for path in _find_directories(os.path.join(directory, kind), filesystem):
            filesystem.remove_empty_directory(path)
    if foreign:
        _log.warn(
            "{count} entries in {directory} are not the daemon's and are left alone: {paths}",
            count=len(foreign),
            directory=directory,
            paths=" ".join(sorted(foreign)[:MAX_LOGGED_PATHS]),
        )
    return count


def _is_needed(
    file: _SpoolFile,
    attempts_of: Callable[[int], int | None],
    script_file_of: Callable[[int], int | None],
    running: Container[int],
) -> bool:
    attempts = attempts_of(file.job_id)
    if file.is_script:
        return attempts is not None and file.number == script_file_of(file.job_id)
    is_known = attempts is not None and file.number <= attempts
    return is_known and (not file.is_progress or file.job_id in running)


def _find_files(directory: str, filesystem: Filesystem, foreign: list[str]) -> Iterator[_SpoolFile]:
    """Yield all files of jobs; add the paths of other entries to ``foreign``."""
    for kind in ("output", "input", "progress"):
        top = os.path.join(directory, kind)
        parents = [top] if kind == "progress" else list(_find_directories(top, filesystem, foreign))
        for parent in parents:
            for name in filesystem.list_directory(parent):
                path = os.path.join(parent, name)
                match = _FILE.fullmatch(name)
                if match:
                    yield _SpoolFile(
                        path, int(match[1]), int(match[2] or 0), kind == "progress", match[3] == "script"
                    )
                else:
                    foreign.append(path)


def _find_directories(top: str, filesystem: Filesystem, foreign: list[str] | None = None) -> Iterator[str]:
    """Yield the numbered directories in ``top``; add the paths of other entries to ``foreign``."""
    for name in filesystem.list_directory(top):
        path = os.path.join(top, name)
        if _DIRECTORY.fullmatch(name) and os.path.isdir(path) and not os.path.islink(path):
            yield path
        elif foreign is not None and not path.endswith((f"input/{SCHEDULES}", f"input/{ENVIRONMENTS}")):
            foreign.append(path)
