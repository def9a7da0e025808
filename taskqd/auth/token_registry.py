"""The tokens that are good now: what the file has, looked at whenever somebody AUTHs and every second.

A look is one stat(2); the file is read again where it has changed. One that others may read, or of which a
line cannot be right, lets nobody in until it is mended; one that cannot be read now is read at a later look.
"""

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from taskqd.auth import tokens
from taskqd.auth.principal import Principal
from taskqd.auth.token_file import Stamp, TokenFile
from taskqd.auth.tokens import Entry
from taskqd.errors import StartRefused


class TokenRegistry:
    """Has the entries of ``file`` by id, and ``nobody``'s for tokens that have none.

    Nothing is there before ``open``.
    """

    _log = Logger()

    def __init__(self, file: TokenFile, clock: Any, nobody: Entry) -> None:
        self.entries: dict[str, Entry] = {}
        self._file = file
        self._clock = clock
        self._nobody = nobody
        self._bare: Entry | None = None
        self._stamp: Stamp | None = None
        self._complaint: str | None = None
        self._next_end: float | None = None
        self._told: list[Callable[[], object]] = []
        self._changing: frozenset[str] = frozenset()

    def open(self) -> None:
        """Read the file, and take over the token of an older version; raises StartRefused."""
        try:
            adopted = self._file.adopt(self._clock.now())
            self._stamp = (
                self._file.stamp()
            )  # before the reading: what changes meanwhile is seen at the next look
            entries = self._file.read()
        except OSError as why:
            raise StartRefused(f"the tokens in {self._file.path} cannot be read: {why}") from None
        if adopted is not None:
            self._log.info(
                "the token in {plain} is in {path} now, as {id}: the plain file may be removed once no "
                "client reads it any more",
                plain=self._file.plain_path,
                path=self._file.path,
                id=adopted.id,
            )
        self._take(entries)

    def changed(self, told: Callable[[], object]) -> None:
        """Have ``told`` called when a token was added, changed or revoked, or has expired.

        While it is called, whoever came with an entry that was changed is not valid.
        """
        self._told.append(told)

    def look(self) -> None:
        """Take in what has changed."""
        try:
            stamp = self._file.stamp()
            if stamp != self._stamp:
                self._reload(stamp)
        except OSError as why:
            self._complain(f"cannot be read, so what it had before counts: {why}")
        if self._next_end is not None and self._clock.now() >= self._next_end:
            self._set_next_end()
            self._tell(frozenset())

    def find(self, text: str) -> Entry:
        """Return the entry that a token must be checked with, whether it is right or not."""
        identity = tokens.id_of(text)
        entry = None if identity is None else self.entries.get(identity)
        return entry or self._bare or self._nobody

    def known_id(self, text: str) -> str | None:
        """Return the id that a token claims, if there is a token of that id; it may be wrong all the same."""
        identity = tokens.id_of(text)
        return identity if identity in self.entries else None

    def has(self, entry: Entry) -> bool:
        """Whether an entry that was found is still there, and as it was."""
        return self.entries.get(entry.id) == entry

    def is_valid(self, principal: Principal) -> bool:
        """Whether the token by which somebody came is still theirs, and has not expired."""
        if principal.token is None:
            return True
        entry = self.entries.get(principal.token)
        return (
            entry is not None
            and entry.id not in self._changing
            and (entry.name, entry.role, entry.queue) == (principal.name, principal.role, principal.queue)
            and not entry.is_over(self._clock.now())
        )

    def _reload(self, stamp: Stamp | None) -> None:
        entries: list[Entry] = []
        try:
            entries = self._file.read()
        except StartRefused as why:
            self._complain(f"lets nobody in until it is mended: {why}")
        else:
            self._complaint = None
            self._log.info("{path}: tokens known now: {count}", path=self._file.path, count=len(entries))
        self._stamp = stamp
        self._take(entries)

    def _take(self, entries: list[Entry]) -> None:
        before, self.entries = self.entries, {entry.id: entry for entry in entries}
        self._bare = next((entry for entry in entries if entry.is_bare), None)
        self._set_next_end()
        if before != self.entries:
            self._tell(frozenset(name for name, entry in self.entries.items() if before.get(name) != entry))

    def _set_next_end(self) -> None:
        now = self._clock.now()
        ends = (entry.expires_at for entry in self.entries.values())
        self._next_end = min((end for end in ends if end is not None and end > now), default=None)

    def _tell(self, changing: frozenset[str]) -> None:
        self._changing = changing
        try:
            for told in self._told:
                told()
        finally:
            self._changing = frozenset()

    def _complain(self, complaint: str) -> None:
        """Log what is wrong, once until it is something else."""
        if complaint != self._complaint:
            self._complaint = complaint
            self._log.error("{path} {complaint}", path=self._file.path, complaint=complaint)
