"""Admits the Starts of a daemon that may have jobs run as any user but root, and nothing else.

The runner is root, and the daemon an ordinary user. So everything that has an effect before the change of the
user is the runner's own: the user's ids, groups and limits, the programs in front of the job's, the names of
files. A Start that would decide about one of these is refused, not corrected. docs/security.md has the rules.
"""

import fcntl
import math
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskqd.execution import proc
from taskqd.execution.command_line import HIDDEN_PREFIX, setpriv_command
from taskqd.execution.messages import AttemptKey, File, Start
from taskqd.execution.proc import Process, make_mark
from taskqd.execution.run import MARK, CannotStart, Owner
from taskqd.execution.runner_directory import RunnerDirectory
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import Users, groups_of
from taskqd.runner.admission import Admitted, close_all
from taskqd.runner.attempt_files import INPUTS, AttemptFiles, Record
from taskqd.runner.sweep import sweep
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread
from taskqd.storage.spool.output import OutputWriter

ROOT = 0
OUTPUTS = ("stdout", "stderr")
MAX_COPY = 16 * 1024**2
"""Bytes of a script or of stdin: the highest value of the limit ``block``."""

_NAME = re.compile(r"[0-9a-f]{16}")
_STORE = re.compile(r"[0-9A-Za-z_-]{1,64}")
_VARIABLE = re.compile(rf"{HIDDEN_PREFIX}[A-Za-z0-9_]+")
_ENCODINGS = ("utf-8", "latin-1")
_OWN_FIELDS = ("mark", "stdin", "stdout", "stderr", "order", "uid", "cwd", "interpreter", "redirects")
"""The fields of a Start by which another daemon says what is the runner's own here."""


class UntrustedDaemon:
    """The admission of an unprivileged daemon; see the module."""

    changes_users = True
    _log = Logger()

    def __init__(
        self,
        directory: RunnerDirectory,
        files: AttemptFiles,
        runner: str,
        users: Users,
        limits: UserLimits,
        filesystem: Filesystem,
        clock: IReactorTime,
        in_thread: InThread,
    ) -> None:
        self._directory = directory
        self._files = files
        self._runner = runner
        self._users = users
        self._limits = limits
        self._filesystem = filesystem
        self._clock = clock
        self._in_thread = in_thread

    # Starts.

    def admit(self, start: Start, files: Sequence[int], store: str) -> Admitted:
        unused = list(files)
        try:
            check_values(start, store)
            owner = self._find_owner(start.user)
            check_files(start.files, files)
            if start.interactive and any(file.kind == "stdin" for file in start.files):
                raise CannotStart("the runner refuses it: it is interactive and has a file as its stdin")
            by_kind = {file.kind: descriptor for file, descriptor in zip(start.files, files, strict=True)}
            inputs = {kind: by_kind[kind] for kind in INPUTS if kind in by_kind}
            paths = self._files.provide(start.key, store, owner.uid, owner.gid, inputs)
            admitted = _trusted_start(start, store, owner, paths)
            output = self._make_output(start, by_kind)
            unused = list(inputs.values())
        except OSError as why:
            raise CannotStart(f"its files cannot be provided: {why}", why) from None
        except ValueError as why:  # a path of the directory that is not UTF-8
            raise CannotStart(f"its files cannot be named: {why}") from None
        finally:
            close_all(unused)
        return Admitted(admitted, output)

    def _find_owner(self, name: str | None) -> Owner:
        """Return the ids and limits of a user; raises CannotStart for root, and for members of group 0."""
        if not name:
            raise CannotStart("the runner refuses it: the daemon names no user")
        try:
            user = self._users.find(name)
            if user is None:
                raise CannotStart(f"the runner refuses it: this machine has no user {name}")
            groups = groups_of(user)
            if user.uid == ROOT:
                raise CannotStart(f"the runner refuses it: {name} is root, and it runs nothing as root")
            if ROOT in (user.gid, *groups):
                raise CannotStart(
                    f"the runner refuses it: {name} is in group 0, and it runs nothing with that"
                )
            limits = self._limits.prlimit_options(user)
        except OSError as why:
            raise CannotStart(f"its user {name} cannot be looked up: {why}", why) from None
        return Owner(user.uid, user.gid, user.home, tuple(limits), tuple(sorted(groups)))

    def _make_output(self, start: Start, by_kind: Mapping[str, int]) -> OutputWriter:
        names, descriptors = dict(enumerate(OUTPUTS, 1)), {}
        for stream, kind in names.items():
            descriptors[stream] = by_kind[kind]
        return OutputWriter(
            names, self._filesystem, self._clock, self._in_thread, start.max_output, [], descriptors
        )

    # What becomes of them.

    def on_spawned(self, key: AttemptKey, pid: int, started: int | None) -> None:
        started = proc.start_time(pid) if started is None else started
        if started is None:
            return
        try:
            self._files.record_process(key, pid, started)
        except OSError as why:
            self._log.warn("process {pid} of job {id} is not recorded: {why}", pid=pid, id=key.id, why=why)

    def on_ended(self, key: AttemptKey, *, has_leftovers: bool) -> None:
        if not _NAME.fullmatch(key.word):  # it was refused, and has no files
            return
        self._remove(self._files.remove_copies if has_leftovers else self._files.remove, key)

    def on_cleared(self, key: AttemptKey) -> None:
        self._remove(self._files.remove, key)

    def _remove(self, remove: Callable[[AttemptKey], None], key: AttemptKey) -> None:
        """Remove files of an attempt; a failure must not keep its end from the daemon."""
        try:
            remove(key)
        except OSError as why:
            self._log.error("the files of job {id} cannot be removed: {why}", id=key.id, why=why)

    # Dead runners.

    def sweep(self, runner: str) -> "Deferred[None] | None":
        if not self._is_dead(runner):
            return None
        return self._in_thread(self._sweep, runner).addCallback(self._on_swept)

    def _sweep(self, runner: str) -> tuple[list[Record], list[Process]]:
        records = self._files.records_of(runner)
        return records, sweep(records) if records else []

    def _on_swept(self, result: tuple[list[Record], list[Process]]) -> None:
        records, left = result
        for process in left:
            self._log.error(
                "process {pid} of a killed runner's job does not end though it was killed; look at it with "
                "`ps`",
                pid=process.pid,
            )
        for record in records:
            self._remove(self._files.remove, record.key)

    def settle(self, runner: str) -> None:
        if not self._is_dead(runner):
            return
        try:
            self._directory.remove(runner)
        except OSError as why:
            self._log.error("the files of runner {name} cannot be removed: {why}", name=runner, why=why)

    def _is_dead(self, runner: str) -> bool:
        """Whether a name is that of a runner that has ended; logs it if not."""
        if _NAME.fullmatch(runner) and runner != self._runner and not self._directory.is_alive(runner):
            return True
        self._log.error("the daemon names {runner} as a dead runner, which it is not", runner=runner)
        return False


def check_values(start: Start, store: str) -> None:
    """Raise CannotStart if the daemon decides about something that is the runner's own."""
    wrong = None
    if start.id < 1 or start.attempt < 1 or not _NAME.fullmatch(start.word):
        wrong = "its id, its attempt or its word is malformed"
    elif not _STORE.fullmatch(store):
        wrong = "the name of the store is malformed"
    elif start.encoding not in _ENCODINGS:
        wrong = "its encoding is unknown"
    elif given := [name for name in _OWN_FIELDS if getattr(start, name)]:
        wrong = f"the daemon must not set {', '.join(given)}"
    elif not start.argv:
        wrong = "it has no program"
    elif names := [name for name in start.env if not _VARIABLE.fullmatch(name)]:
        wrong = f"its variable {names[0]} does not begin with {HIDDEN_PREFIX}"
    elif not _are_durations([start.kill_after, start.timeout or 0, start.idle_timeout or 0]):
        wrong = "one of its durations is negative or infinite"
    elif start.max_output < 0 or (start.memory_max is not None and start.memory_max < 1):
        wrong = "its limit of output is negative, or that of memory below 1"
    if wrong is not None:
        raise CannotStart(f"the runner refuses it: {wrong}")


def _are_durations(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) and value >= 0 for value in values)


def check_files(files: Sequence[File], descriptors: Sequence[int]) -> None:
    """Raise CannotStart unless the descriptors are regular files, open for what they are used for.

    A pipe, a socket or a device could block the runner. A file of the kernel's, in /proc or a control group,
    could do for root what it refuses to the daemon; their file systems have no blocks. Raises OSError.
    """
    kinds = tuple(file.kind for file in files)
    if kinds[:2] != OUTPUTS or kinds[2:] not in ((), INPUTS, *((each,) for each in INPUTS)):
        raise CannotStart(f"the runner refuses it: its files are {', '.join(kinds) or 'none'}")
    for kind, descriptor in zip(kinds, descriptors, strict=True):
        status, flags = os.fstat(descriptor), fcntl.fcntl(descriptor, fcntl.F_GETFL)
        writes, access = kind in OUTPUTS, flags & os.O_ACCMODE
        if not stat.S_ISREG(status.st_mode):
            raise CannotStart(f"the runner refuses it: its {kind} is no regular file")
        if not os.fstatvfs(descriptor).f_blocks:
            raise CannotStart(f"the runner refuses it: its {kind} is in a file system without blocks")
        if flags & os.O_PATH or access not in (os.O_WRONLY if writes else os.O_RDONLY, os.O_RDWR):
            raise CannotStart(f"the runner refuses it: its {kind} is not open for that")
        if not writes and status.st_size > MAX_COPY:
            raise CannotStart(f"the runner refuses it: its {kind} has more than {MAX_COPY} bytes")


def _trusted_start(start: Start, store: str, owner: Owner, paths: Mapping[str, str]) -> Start:
    """Return the Start that is executed as root; the daemon's words come after the change of the user."""
    mark = make_mark(store, start.key)
    try:
        line = setpriv_command(owner)
    except FileNotFoundError as why:
        raise CannotStart(str(why), why) from None
    stdin = paths.get("stdin")
    return replace(
        start,
        argv=[*line, *start.argv],
        env={**start.env, MARK: mark},
        mark=mark,
        uid=owner.uid,
        stdin=None if stdin is None else os.fsencode(stdin).decode(start.encoding),
        user=None,
        files=[],
    )
