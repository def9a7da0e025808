"""The identity of files by statx(2) and by stat(2)."""

import os
from pathlib import Path

import pytest

from taskqd.storage import file_identity
from taskqd.storage.file_identity import FileIdentity, identify


@pytest.fixture(autouse=True, params=["statx", "refused", "missing"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find files by statx(2), or as if the kernel refused it or the C library lacked it."""
    if request.param == "refused":
        monkeypatch.setattr(file_identity, "_statx", lambda *_: -1)
    elif request.param == "missing":
        monkeypatch.setattr(file_identity, "_statx", None)


def test_identity_is_that_of_stat_for_path_and_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.link(path, tmp_path / "other name")
    status = path.stat()
    expected = FileIdentity(status.st_dev, status.st_ino, 2)
    descriptor = os.open(path, os.O_RDONLY)
    assert identify(str(path)) == identify(descriptor) == expected
    path.unlink()
    assert identify(descriptor).links == 1
    (tmp_path / "other name").unlink()
    assert identify(descriptor).links == 0
    os.close(descriptor)


def test_link_leads_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "other").touch()
    file, link, other = (identify(str(tmp_path / name)) for name in ("file", "link", "other"))
    assert file.is_same_file(link)
    assert not file.is_same_file(other)


def test_missing_file_and_closed_descriptor_raise_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        identify(str(tmp_path / "missing"))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        identify(descriptor)
