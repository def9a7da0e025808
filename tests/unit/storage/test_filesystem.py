"""The disk as it is: modes, appending, reading to the end, and names that last."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskqd.storage.filesystem import Filesystem
from tests.fakes.filesystem import FakeFilesystem


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(name="disk", params=[Filesystem, FakeFilesystem])
def a_disk(request: pytest.FixtureRequest) -> Filesystem:
    made: Filesystem = request.param()
    return made


def test_what_is_written_is_read_from_where_one_asks(disk: Filesystem, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    descriptor = disk.create(path)
    for piece in (b"hello ", b"", b"world"):
        disk.write(descriptor, piece)
    disk.sync(descriptor)
    disk.close(descriptor)
    descriptor = disk.open(path)
    assert [
        disk.read(descriptor, length, offset) for length, offset in [(5, 0), (100, 6), (3, 11), (0, 0)]
    ] == [
        b"hello",
        b"world",
        b"",
        b"",
    ]
    disk.close(descriptor)
    assert disk.size(path) == 11


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_write_is_whole_however_little_the_system_takes_at_once(
    disk: Filesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    descriptor = disk.create(str(tmp_path / "file"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda number, data: write(number, bytes(data)[:most]))
    disk.write(descriptor, b"0123456789" * 5)
    monkeypatch.undo()
    disk.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 5


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_write_goes_over_what_is_there_and_beyond_it(
    disk: Filesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    descriptor = disk.create(str(tmp_path / "file"))
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda number, data, at: write(number, bytes(data)[:most], at))
    for data, offset in [(b"0123456789", 0), (b"abc", 2), (b"", 5), (b"defg", 8)]:
        disk.write_at(descriptor, data, offset)
    monkeypatch.undo()
    disk.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"01abc567defg"


def test_a_read_is_whole_however_little_the_system_gives_at_once(
    disk: Filesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    descriptor = disk.open(str(tmp_path / "file"))
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda number, length, offset: read(number, min(length, 3), offset))
    assert disk.read(descriptor, 8, 1) == b"12345678"
    disk.close(descriptor)


def test_a_created_file_is_for_its_owner_alone_and_replaces_an_older_one(
    disk: Filesystem, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    disk.close(disk.create(str(path)))
    assert (path.read_bytes(), mode(path)) == (b"", 0o600)
    disk.close(disk.create(str(path), 0o700))
    assert mode(path) == 0o700


def test_a_created_file_does_not_follow_a_link(disk: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    disk.close(disk.create(str(tmp_path / "file")))
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "file").is_symlink()


def test_no_descriptor_is_inherited(disk: Filesystem, tmp_path: Path) -> None:
    for descriptor in (disk.create(str(tmp_path / "file")), disk.open(str(tmp_path / "file"))):
        assert not os.get_inheritable(descriptor)
        disk.close(descriptor)


def test_a_file_is_cut(disk: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    disk.truncate(str(tmp_path / "file"), 4)
    assert (tmp_path / "file").read_bytes() == b"0123"


def test_a_directory_is_made_with_those_above_it_for_its_owner_alone(
    disk: Filesystem, tmp_path: Path
) -> None:
    disk.make_directory(str(tmp_path / "a" / "b"))
    disk.make_directory(str(tmp_path / "a" / "b"))
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


def test_an_existing_directory_is_left_as_it_is(disk: Filesystem, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    disk.make_directory(str(tmp_path))
    assert mode(tmp_path) == 0o755


def test_a_directory_that_several_threads_want_at_once_is_made_once(disk: Filesystem, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for number in range(50):
            made = [
                threads.submit(disk.make_directory, str(tmp_path / f"{number}" / "a" / "b")) for _ in range(8)
            ]
            assert [one.result() for one in made] == [None] * 8


def test_names_are_sorted_and_a_file_that_is_not_there_has_no_size(disk: Filesystem, tmp_path: Path) -> None:
    for name in "bca":
        (tmp_path / name).write_bytes(b"")
    assert disk.list_directory(str(tmp_path)) == ["a", "b", "c"]
    assert disk.size(str(tmp_path / "a")) == 0
    assert disk.size(str(tmp_path / "d")) is None


def test_removing_what_is_not_there_is_as_good_as_removing_it(disk: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        disk.remove(str(tmp_path / "file"))
    assert disk.list_directory(str(tmp_path)) == []


@pytest.mark.parametrize("call", ["open", "truncate", "list_directory", "sync_directory"])
def test_what_is_not_there_is_an_os_error(tmp_path: Path, call: str) -> None:
    arguments = [str(tmp_path / "missing"), *([0] if call == "truncate" else [])]
    with pytest.raises(FileNotFoundError):
        getattr(Filesystem(), call)(*arguments)


def test_a_fake_disk_fails_as_it_is_told(tmp_path: Path) -> None:
    disk = FakeFilesystem()
    descriptor = disk.create(str(tmp_path / "file"))
    disk.fail("write", after=1, code=errno.EIO, written=2)
    disk.write(descriptor, b"one")
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            disk.write(descriptor, b"two")
    disk.clear_failures()
    disk.write(descriptor, b"three")
    assert disk.descriptors == {descriptor}
    disk.close(descriptor)
    assert disk.descriptors == set()
    assert (tmp_path / "file").read_bytes() == b"onetwtwthree"
    assert disk.calls.count("write") == 4


@pytest.mark.parametrize("content", [b"", b"0123456789"])
def test_a_whole_file_is_read_or_mapped(disk: Filesystem, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    path = str(tmp_path / "file")
    mapped = disk.map_file(path)
    assert disk.read_file(path) == mapped[:] == content
    assert [disk.read_file(path, most) for most in (0, 4, 99)] == [b"", content[:4], content]
    del mapped
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_renamed_file_replaces_another_and_its_name_lasts(tmp_path: Path) -> None:
    disk = FakeFilesystem()
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "name").write_bytes(b"old")
    disk.rename(str(tmp_path / "new"), str(tmp_path / "name"))
    assert disk.names(str(tmp_path)) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"new"
    assert disk.calls[:2] == ["rename", "sync_directory"]


def test_a_directory_whose_name_may_not_last_is_not_relied_on(tmp_path: Path) -> None:
    disk = FakeFilesystem()
    disk.fail("sync_directory", code=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        disk.make_directory(str(tmp_path / "a"))
    disk.clear_failures()
    disk.calls.clear()
    disk.make_directory(str(tmp_path / "a"))
    assert "sync_directory" in disk.calls
