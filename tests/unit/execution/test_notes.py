"""The notes of a runner: what is durable is read, what is torn is not."""

from pathlib import Path

import pytest

from taskqd.execution.messages import Ended, Gone
from taskqd.execution.notes import Notes, format_note, parse_notes, read_notes
from taskqd.runner.notes import NotesFile

FIRST = Ended(id=1, attempt=1, word="a" * 16, at=1.0, exit_code=3, reason="exit")
SECOND = Ended(id=2, attempt=1, word="b" * 16, at=2.0, exit_code=0)
GONE = Gone(runner="c" * 16)
WHOLE = format_note(FIRST) + format_note(SECOND) + format_note(GONE)


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = NotesFile(str(tmp_path / "notes"))
    file.append([FIRST])
    file.append([SECOND, GONE])
    assert read_notes(str(tmp_path / "notes")) == Notes([FIRST, SECOND], is_gone=True)
    file.remove()
    assert read_notes(str(tmp_path / "notes")) == Notes()


def test_notes_that_were_cut_anywhere_have_the_complete_lines() -> None:
    lines = WHOLE.splitlines(keepends=True)
    for length in range(len(WHOLE) + 1):
        complete = sum(len(b"".join(lines[: count + 1])) <= length for count in range(3))
        notes = parse_notes(WHOLE[:length])
        assert list(notes.ends) == [FIRST, SECOND][:complete]
        assert notes.is_gone is (complete == 3)


@pytest.mark.parametrize("at", [0, 5, 8, 9, 30])
def test_damaged_line_ends_the_notes(at: int) -> None:
    start = len(format_note(FIRST))
    damaged = bytearray(WHOLE)
    damaged[start + at] ^= 1
    assert parse_notes(bytes(damaged)) == Notes([FIRST])


def test_line_that_could_be_written_in_part_only_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notes"
    file = NotesFile(str(path))
    file.append([FIRST])
    with path.open("ab") as torn:
        torn.write(format_note(SECOND)[:20])
    file.append([SECOND])
    assert path.read_bytes() == format_note(FIRST) + format_note(SECOND)


def test_notes_in_a_directory_that_was_removed_are_not_written(tmp_path: Path) -> None:
    NotesFile(str(tmp_path / "removed" / "notes")).append([FIRST])
    assert not (tmp_path / "removed").exists()
