"""The valid tokens in memory. The file is checked for changes at every AUTH and every second.

A check is one stat(2); the file is read again if it has changed. If other users may read the file, or a line
is invalid, no token is valid until it is corrected. If it cannot be read, the known tokens stay valid, and
the next check tries again.
"""

from collections.abc import Callable

from twisted.logger import Logger

from taskqd.auth import tokens
from taskqd.auth.principal import Principal
from taskqd.auth.token_file import Stamp, TokenFile
from taskqd.auth.tokens import Entry
from taskqd.errors import StartRefused
from taskqd.storage.interfaces import IClock


class TokenRegistry:
    """Has the entries of a token file by id; empty before `open`.

    A token without an entry is checked against `placeholder`, so that it takes as long as any other.
    """

    _log = Logger()

    def __init__(self, file: TokenFile, clock: IClock, placeholder: Entry) -> None:
        self.entries: dict[str, Entry] = {}
        self._file = file
        self._clock = clock
        self._placeholder = placeholder
        self._bare_entry: Entry | None = None
        self._stamp: Stamp | None = None
        self._logged_problem: str | None = None
        self._next_expiry: float | None = None
        self._observers: list[Callable[[], object]] = []
        self._changed_ids: frozenset[str] = frozenset()

    def open(self) -> None:
        """Read the file, and import the token of an older version; raises StartRefused."""
        try:
            imported = self._file.import_plain_token(self._clock.now())
            # Taken before reading: a change during the reading is then found by the next check.
            self._stamp = self._file.stamp()
            entries = self._file.read()
        except OSError as error:
            raise StartRefused(f"the tokens in {self._file.path} cannot be read: {error}") from None
        if imported is not None:
            self._log.info(
                "the token in {plain} was added to {path} with the id {id}; {plain} may be removed once no "
                "client reads it",
                plain=self._file.plain_path,
                path=self._file.path,
                id=imported.id,
            )
        self._replace(entries)

    def add_observer(self, on_changed: Callable[[], object]) -> None:
        """Call `on_changed` when a token was added, changed or revoked, or has expired.

        During the call, the principals of a changed token are not valid.
        """
        self._observers.append(on_changed)

    def refresh(self) -> None:
        """Read the file again if it has changed, and notify the observers of changed and expired tokens."""
        try:
            stamp = self._file.stamp()
            if stamp != self._stamp:
                self._reload(stamp)
        except OSError as error:
            self._log_problem(f"cannot be read, so the tokens known before stay valid: {error}")
        if self._next_expiry is not None and self._clock.now() >= self._next_expiry:
            self._set_next_expiry()
            self._notify_changed(frozenset())

    def find(self, text: str) -> Entry:
        """Return the entry against which a token must be checked, whether it matches or not."""
        identity = tokens.parse_token_id(text)
        entry = None if identity is None else self.entries.get(identity)
        return entry or self._bare_entry or self._placeholder

    def known_id(self, text: str) -> str | None:
        """Return the id in a token if an entry has it; the token may be wrong all the same."""
        identity = tokens.parse_token_id(text)
        return identity if identity in self.entries else None

    def has(self, entry: Entry) -> bool:
        """Whether an entry that was found before still exists unchanged."""
        return self.entries.get(entry.id) == entry

    def is_valid(self, principal: Principal) -> bool:
        """Whether the token with which a principal was authenticated is still valid."""
        if principal.token is None:
            return True
        entry = self.entries.get(principal.token)
        return (
            entry is not None
            and entry.id not in self._changed_ids
            and (entry.name, entry.role, entry.queue) == (principal.name, principal.role, principal.queue)
            and not entry.is_expired(self._clock.now())
        )

    def _reload(self, stamp: Stamp | None) -> None:
        entries: list[Entry] = []
        try:
            entries = self._file.read()
        except StartRefused as error:
            self._log_problem(f"is invalid, so no token is valid until it is corrected: {error}")
        else:
            self._logged_problem = None
            self._log.info("{path}: {count} tokens read", path=self._file.path, count=len(entries))
        self._stamp = stamp
        self._replace(entries)

    def _replace(self, entries: list[Entry]) -> None:
        before, self.entries = self.entries, {entry.id: entry for entry in entries}
        self._bare_entry = next((entry for entry in entries if entry.is_bare), None)
        self._set_next_expiry()
        if before != self.entries:
            changed = (name for name, entry in self.entries.items() if before.get(name) != entry)
            self._notify_changed(frozenset(changed))

    def _set_next_expiry(self) -> None:
        now = self._clock.now()
        times = (entry.expires_at for entry in self.entries.values())
        self._next_expiry = min((time for time in times if time is not None and time > now), default=None)

    def _notify_changed(self, changed_ids: frozenset[str]) -> None:
        self._changed_ids = changed_ids
        try:
            for on_changed in self._observers:
                on_changed()
        finally:
            self._changed_ids = frozenset()

    def _log_problem(self, problem: str) -> None:
        """Log a problem with the file, once until it is another one."""
        if problem != self._logged_problem:
            self._logged_problem = problem
            self._log.error("{path} {problem}", path=self._file.path, problem=problem)
