"""The files that root's runner keeps for attempts, and the records by which the next one finds them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskqd.execution.messages import AttemptKey
from taskqd.runner.attempt_files import AttemptFiles, Record
from tests.support import other_users

RUNNER, OTHER = "a" * 16, "b" * 16
KEY = AttemptKey(7, 1, "0123456789abcdef")

pytestmark = other_users.only_root


@pytest.fixture(name="place")
def a_place() -> Iterator[Path]:
    with other_users.open_place() as place:
        yield place


def files_of(place: Path, runner: str = RUNNER, boot: str = "boot-1") -> AttemptFiles:
    files = AttemptFiles(str(place / "jobs"), runner, 1, boot)
    files.open()
    return files


def provide(files: AttemptFiles, place: Path, key: AttemptKey = KEY) -> dict[str, str]:
    (place / "block").write_bytes(b"content")
    descriptor = os.open(place / "block", os.O_RDONLY)
    try:
        return dict(files.provide(key, "store", 5, 60, {"stdin": descriptor}))
    finally:
        os.close(descriptor)


def test_user_s_files_are_the_user_s_and_the_record_is_root_s(place: Path) -> None:
    paths = provide(files_of(place), place)
    assert paths == {"stdin": str(place / "jobs" / f"7.1.{KEY.word}.stdin")}
    assert Path(paths["stdin"]).read_bytes() == b"content"
    found = {path.suffix: path.stat() for path in (place / "jobs").iterdir()}
    shown = {kind: (each.st_uid, each.st_gid, stat.S_IMODE(each.st_mode)) for kind, each in found.items()}
    assert shown == {".run": (0, 0, 0o600), ".progress": (5, 1, 0o640), ".stdin": (5, 60, 0o400)}


def test_record_is_read_by_the_next_runner(place: Path) -> None:
    files = files_of(place)
    provide(files, place)
    again = files_of(place, OTHER)
    assert again.records_of(RUNNER) == [Record(KEY, RUNNER, "store", 5)]
    files.record_process(KEY, 4711, 99)
    assert again.records_of(RUNNER) == [Record(KEY, RUNNER, "store", 5, 4711, 99)]
    assert again.records_of(OTHER) == []
    assert again.records_of(RUNNER)[0].mark == f"store.7.1.{KEY.word}"


def test_process_of_a_record_does_not_count_after_a_reboot(place: Path) -> None:
    files = files_of(place)
    provide(files, place)
    files.record_process(KEY, 4711, 99)
    assert files_of(place, OTHER, "boot-2").records_of(RUNNER) == [Record(KEY, RUNNER, "store", 5)]


def test_record_that_is_incomplete_or_foreign_is_skipped(place: Path) -> None:
    files = files_of(place)
    (place / "jobs" / f"7.1.{KEY.word}.run").write_text("")
    (place / "jobs" / f"8.1.{KEY.word}.run").write_text(RUNNER)
    (place / "jobs" / "notes.run").write_text("x")
    assert files.records_of(RUNNER) == []


def test_record_is_removed_last(place: Path) -> None:
    files = files_of(place)
    provide(files, place)
    files.remove_copies(KEY)
    assert os.listdir(place / "jobs") == [f"7.1.{KEY.word}.run"]
    files.remove(KEY)
    files.remove(KEY)
    assert os.listdir(place / "jobs") == []


def test_files_of_the_same_attempt_are_replaced(place: Path) -> None:
    files = files_of(place)
    provide(files, place)
    provide(files, place)
    assert len(os.listdir(place / "jobs")) == 3


def test_nothing_is_left_if_a_file_cannot_be_made(place: Path) -> None:
    files = files_of(place)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.provide(KEY, "store", 5, 60, {"stdin": -1})
    assert os.listdir(place / "jobs") == []
