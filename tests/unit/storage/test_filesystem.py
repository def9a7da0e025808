"""Files and directories are private, written and read completely, and renamed durably."""

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


@pytest.fixture(name="filesystem", params=[Filesystem, FakeFilesystem])
def make_disk(request: pytest.FixtureRequest) -> Filesystem:
    made: Filesystem = request.param()
    return made


def test_read_returns_written_bytes_at_an_offset(filesystem: Filesystem, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    descriptor = filesystem.create(path)
    for piece in (b"hello ", b"", b"world"):
        filesystem.write(descriptor, piece)
    filesystem.sync(descriptor)
    filesystem.close(descriptor)
    descriptor = filesystem.open(path)
    assert [
        filesystem.read(descriptor, length, offset) for length, offset in [(5, 0), (100, 6), (3, 11), (0, 0)]
    ] == [
        b"hello",
        b"world",
        b"",
        b"",
    ]
    filesystem.close(descriptor)
    assert filesystem.size(path) == 11


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_write_completes_after_short_writes(
    filesystem: Filesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    descriptor = filesystem.create(str(tmp_path / "file"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda number, data: write(number, bytes(data)[:most]))
    filesystem.write(descriptor, b"0123456789" * 5)
    monkeypatch.undo()
    filesystem.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 5


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_write_at_overwrites_and_extends(
    filesystem: Filesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    descriptor = filesystem.create(str(tmp_path / "file"))
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda number, data, at: write(number, bytes(data)[:most], at))
    for data, offset in [(b"0123456789", 0), (b"abc", 2), (b"", 5), (b"defg", 8)]:
        filesystem.write_at(descriptor, data, offset)
    monkeypatch.undo()
    filesystem.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"01abc567defg"


def test_read_completes_after_short_reads(
    filesystem: Filesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    descriptor = filesystem.open(str(tmp_path / "file"))
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda number, length, offset: read(number, min(length, 3), offset))
    assert filesystem.read(descriptor, 8, 1) == b"12345678"
    filesystem.close(descriptor)


def test_create_makes_a_private_file_and_replaces_an_existing_one(
    filesystem: Filesystem, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    filesystem.close(filesystem.create(str(path)))
    assert (path.read_bytes(), mode(path)) == (b"", 0o600)
    filesystem.close(filesystem.create(str(path), 0o700))
    assert mode(path) == 0o700


def test_create_replaces_a_link_without_following_it(filesystem: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    filesystem.close(filesystem.create(str(tmp_path / "file")))
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "file").is_symlink()


def test_descriptors_are_not_inherited(filesystem: Filesystem, tmp_path: Path) -> None:
    for descriptor in (filesystem.create(str(tmp_path / "file")), filesystem.open(str(tmp_path / "file"))):
        assert not os.get_inheritable(descriptor)
        filesystem.close(descriptor)


def test_truncate_shortens_a_file(filesystem: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    filesystem.truncate(str(tmp_path / "file"), 4)
    assert (tmp_path / "file").read_bytes() == b"0123"


@pytest.mark.parametrize("times,is_created", [(1, True), (9, True), (11, False)])
def test_file_is_created_although_another_process_removes_its_empty_directory(
    tmp_path: Path, times: int, is_created: bool
) -> None:
    class Shared(Filesystem):
        removed = 0

        def create(self, path: str, mode: int = 0o600) -> int:
            if self.removed < times:
                self.removed += 1
                os.rmdir(os.path.dirname(path))
            return super().create(path, mode)

    path = tmp_path / "output" / "0" / "1.1.stdout"
    if is_created:
        os.close(Shared().create_with_parents(str(path)))
        assert path.stat().st_size == 0
    else:
        with pytest.raises(FileNotFoundError):
            Shared().create_with_parents(str(path))


def test_make_directory_creates_private_parents(filesystem: Filesystem, tmp_path: Path) -> None:
    filesystem.make_directory(str(tmp_path / "a" / "b"))
    filesystem.make_directory(str(tmp_path / "a" / "b"))
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


def test_make_directory_keeps_an_existing_directory(filesystem: Filesystem, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    filesystem.make_directory(str(tmp_path))
    assert mode(tmp_path) == 0o755


def test_make_directory_in_several_threads_creates_it_once(filesystem: Filesystem, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for number in range(50):
            made = [
                threads.submit(filesystem.make_directory, str(tmp_path / f"{number}" / "a" / "b"))
                for _ in range(8)
            ]
            assert [one.result() for one in made] == [None] * 8


def test_list_directory_is_sorted_and_size_of_a_missing_file_is_none(
    filesystem: Filesystem, tmp_path: Path
) -> None:
    for name in "bca":
        (tmp_path / name).write_bytes(b"")
    assert filesystem.list_directory(str(tmp_path)) == ["a", "b", "c"]
    assert filesystem.size(str(tmp_path / "a")) == 0
    assert filesystem.size(str(tmp_path / "d")) is None


def test_remove_of_a_missing_file_does_nothing(filesystem: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        filesystem.remove(str(tmp_path / "file"))
    assert filesystem.list_directory(str(tmp_path)) == []


@pytest.mark.parametrize("call", ["open", "truncate", "list_directory", "sync_directory"])
def test_missing_file_raises_an_os_error(tmp_path: Path, call: str) -> None:
    arguments = [str(tmp_path / "missing"), *([0] if call == "truncate" else [])]
    with pytest.raises(FileNotFoundError):
        getattr(Filesystem(), call)(*arguments)


def test_fake_filesystem_fails_the_given_calls(tmp_path: Path) -> None:
    filesystem = FakeFilesystem()
    descriptor = filesystem.create(str(tmp_path / "file"))
    filesystem.fail("write", after=1, code=errno.EIO, written=2)
    filesystem.write(descriptor, b"one")
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            filesystem.write(descriptor, b"two")
    filesystem.clear_failures()
    filesystem.write(descriptor, b"three")
    assert filesystem.descriptors == {descriptor}
    filesystem.close(descriptor)
    assert filesystem.descriptors == set()
    assert (tmp_path / "file").read_bytes() == b"onetwtwthree"
    assert filesystem.calls.count("write") == 4


@pytest.mark.parametrize("content", [b"", b"0123456789"])
def test_read_file_and_map_file_return_the_content(
    filesystem: Filesystem, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    path = str(tmp_path / "file")
    mapped = filesystem.map_file(path)
    assert filesystem.read_file(path) == mapped[:] == content
    assert [filesystem.read_file(path, most) for most in (0, 4, 99)] == [b"", content[:4], content]
    del mapped
    assert len(os.listdir("/proc/self/fd")) == before


def test_rename_replaces_a_file_durably(tmp_path: Path) -> None:
    filesystem = FakeFilesystem()
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "name").write_bytes(b"old")
    filesystem.rename(str(tmp_path / "new"), str(tmp_path / "name"))
    assert filesystem.list_directory(str(tmp_path)) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"new"
    assert filesystem.calls[:2] == ["rename", "sync_directory"]


def test_make_directory_removes_a_directory_that_is_not_durable(tmp_path: Path) -> None:
    filesystem = FakeFilesystem()
    filesystem.fail("sync_directory", code=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        filesystem.make_directory(str(tmp_path / "a"))
    filesystem.clear_failures()
    filesystem.calls.clear()
    filesystem.make_directory(str(tmp_path / "a"))
    assert "sync_directory" in filesystem.calls


def test_link_is_a_second_name_of_a_file_and_replaces_another(filesystem: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    new = tmp_path / "one" / "two" / "b"
    for _ in range(2):
        filesystem.link_with_parents(str(tmp_path / "a"), str(new))
        assert new.samefile(tmp_path / "a")
    assert mode(new.parent) == 0o700
    with pytest.raises(FileNotFoundError):
        filesystem.link_with_parents(str(tmp_path / "missing"), str(new))
