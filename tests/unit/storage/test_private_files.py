"""What nobody but its owner may read, and what is said where others may."""

import os
from pathlib import Path

import pytest

from taskqd.errors import StartRefused
from taskqd.storage.private_files import check_directory, content

ME = os.getuid()


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    place.mkdir(mode=0o700)
    return place


def read(place: Path, name: str, most: int = 100) -> bytes:
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return content(directory, name, f"{place}/{name}", most)
    finally:
        os.close(directory)


def test_a_directory_of_one_s_own_is_well(place: Path) -> None:
    check_directory(str(place))
    check_directory(str(place), ME)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770, 0o711, 0o720, 0o3704])
def test_a_directory_that_others_may_use_is_refused_with_what_to_do(place: Path, mode: int) -> None:
    place.chmod(mode)
    with pytest.raises(StartRefused) as refusal:
        check_directory(str(place), ME)
    assert str(refusal.value) == (
        f"{place} may be used by others than its owner (mode {mode:o}): chmod 700 {place}"
    )


def test_a_directory_of_somebody_else_is_refused_with_what_to_do(place: Path) -> None:
    with pytest.raises(StartRefused) as refusal:
        check_directory(str(place), ME + 1)
    assert f"{place} belongs to the user {ME}, and the daemon runs as {ME + 1}: " in str(refusal.value)
    assert "chown" in str(refusal.value)


def test_what_is_no_directory_is_refused_and_what_is_not_there_is_told(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(StartRefused, match="is no directory; give the state directory"):
        check_directory(f"{place}/file")
    with pytest.raises(FileNotFoundError):
        check_directory(f"{place}/none")


def test_a_file_of_one_s_own_is_read(place: Path) -> None:
    (place / "tokens").write_bytes(b"hello")
    (place / "tokens").chmod(0o600)
    assert read(place, "tokens") == b"hello"
    assert read(place, "tokens", 5) == b"hello"
    with pytest.raises(StartRefused, match="has 5 bytes, and 4 are the most"):
        read(place, "tokens", 4)
    with pytest.raises(FileNotFoundError):
        read(place, "none")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660])
def test_a_file_that_others_may_read_is_refused_with_what_to_do(place: Path, mode: int) -> None:
    (place / "tokens").write_bytes(b"sesame")
    (place / "tokens").chmod(mode)
    with pytest.raises(StartRefused) as refusal:
        read(place, "tokens")
    assert str(refusal.value) == (
        f"{place}/tokens may be read by others than its owner: chmod 600 {place}/tokens"
    )


def test_links_and_what_is_no_file_are_not_followed_read_or_waited_for(place: Path) -> None:
    (place / "secret").write_bytes(b"root:x")
    (place / "secret").chmod(0o600)
    (place / "link").symlink_to(place / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        read(place, "link")
    os.mkfifo(place / "pipe", 0o600)
    (place / "directory").mkdir(0o700)
    for name in ("pipe", "directory"):
        with pytest.raises(StartRefused, match=f"{name} is no file; move it away"):
            read(place, name)
