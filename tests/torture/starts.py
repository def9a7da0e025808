"""The words and runners of attempts, which only the journal has."""

import json
import re
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

_STARTED = re.compile(rb'^[0-9a-f]{8} \+?([0-9]+) (\{"type":"started",.*\})$', re.MULTILINE)
_COMPACTED = re.compile(rb'^[0-9a-f]{8} ([0-9]+) (\{"type":"compacted",.*\}) *$', re.MULTILINE)
_FILES = ("*.snapshot", "*.journal")


class Start(NamedTuple):
    """The word that names an attempt, and the name of the runner that it was meant for."""

    word: str
    runner: str


class Starts:
    """The starts in a journal by their numbers. It reads the files again if it does not know a number."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._starts: dict[int, Start] = {}
        self._lock = Lock()

    def find(self, sequence: int) -> Start | None:
        """Return a start; None if the journal has none with this number, or no longer."""
        with self._lock:
            if sequence not in self._starts:
                self._read()
            return self._starts.get(sequence)

    def _read(self) -> None:
        for pattern in _FILES:
            for path in self._journal.glob(pattern):
                with suppress(FileNotFoundError):  # a snapshot has replaced it
                    self._add(path.read_bytes())

    def _add(self, text: bytes) -> None:
        for sequence, event in _STARTED.findall(text):
            self._note(int(sequence), json.loads(event))
        for sequence, line in _COMPACTED.findall(text):
            record = json.loads(line)
            for number, fields in zip((int(sequence), *record["numbers"]), record["events"], strict=True):
                if fields["type"] == "started":
                    self._note(number, fields)

    def _note(self, sequence: int, event: dict[str, str]) -> None:
        self._starts[sequence] = Start(event["word"], event.get("runner", ""))
