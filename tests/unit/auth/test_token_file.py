"""The token file is replaced as a whole, under a lock, and only its owner can read it."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskqd.auth import tokens
from taskqd.auth.token_file import TokenFile
from taskqd.auth.tokens import Entry
from taskqd.errors import BadRequest, StartRefused
from taskqd.model.roles import Role
from tests.fakes.clocks import START


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture(name="file")
def a_file(place: Path) -> TokenFile:
    return TokenFile(str(place))


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all hashes fast."""
    monkeypatch.setattr(tokens, "_digest", lambda text, salt, _: (salt + text.encode())[-32:].rjust(32))


def add(file: TokenFile, name: str = "ci", role: Role = Role.SUBMIT) -> tuple[Entry, str]:
    return file.add(name, role, None, START, None)


def plain(place: Path, content: bytes = b"sesame\n", mode: int = 0o600) -> Path:
    """Write the plain token file of an older version."""
    path = place / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_token_file_without_a_file_has_no_entries(file: TokenFile) -> None:
    assert file.read() == []
    assert file.stamp() is None


def test_add_writes_a_file_only_its_owner_can_read(file: TokenFile, place: Path) -> None:
    mask = os.umask(0)
    try:
        entry, text = add(file)
    finally:
        os.umask(mask)
    assert file.read() == [entry]
    assert tokens.matches(entry, text)
    assert [path.name for path in place.iterdir()] == ["tokens"]
    assert (place / "tokens").stat().st_mode & 0o7777 == 0o600
    assert text not in (place / "tokens").read_text()


def test_add_ignores_the_umask(file: TokenFile, place: Path) -> None:
    mask = os.umask(0o777)
    try:
        add(file)
    finally:
        os.umask(mask)
    assert (place / "tokens").stat().st_mode & 0o7777 == 0o600


def test_add_keeps_the_order_of_entries(file: TokenFile) -> None:
    made = [add(file, name)[0] for name in ("a", "b", "a")]
    assert file.read() == made


def test_add_of_invalid_token_changes_nothing(file: TokenFile) -> None:
    add(file)
    before = file.stamp()
    for refused in (
        lambda: add(file, role=Role.READ),
        lambda: add(file, "no name"),
        lambda: file.revoke("x"),
    ):
        with pytest.raises(BadRequest):
            refused()
    assert file.stamp() == before


def test_add_never_reuses_an_id(place: Path) -> None:
    draws = [bytes([0]), bytes([0]), bytes([0]), bytes([1])]
    file = TokenFile(str(place), lambda count: draws.pop(0) * count)
    assert [add(file)[0].id, add(file)[0].id] == ["00000000", "01010101"]
    plain(place)
    draws += [bytes([1]), bytes([2])]
    adopted = file.import_plain_token(START)
    assert adopted is not None
    assert adopted.id == "02020202"


def test_revoke_removes_by_id_or_name(file: TokenFile) -> None:
    one, two, other = (add(file, name)[0] for name in ("ci", "ci", "ana"))
    assert file.revoke(one.id) == [one]
    assert file.read() == [two, other]
    add(file)
    assert [entry.name for entry in file.revoke("ci")] == ["ci", "ci"]
    assert file.read() == [other]


@pytest.mark.parametrize("act", [add, lambda file: file.revoke("ana")])
def test_stamp_changes_with_every_change(file: TokenFile, act: Callable[[TokenFile], object]) -> None:
    add(file, "ana")
    before = file.stamp()
    assert file.stamp() == before
    act(file)
    assert file.stamp() != before


def test_stamp_changes_with_the_mode(file: TokenFile, place: Path) -> None:
    add(file)
    before = file.stamp()
    (place / "tokens").chmod(0o640)
    assert file.stamp() != before


@pytest.mark.parametrize("act", [TokenFile.read, add, lambda file: file.revoke("ci")])
def test_invalid_file_is_neither_read_nor_changed(
    file: TokenFile, place: Path, act: Callable[[TokenFile], object]
) -> None:
    add(file)
    path = place / "tokens"
    path.chmod(0o644)
    with pytest.raises(StartRefused, match=f"{path} can be accessed by other users .* chmod 600 {path}"):
        act(file)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(StartRefused, match=f"{path}: line 2 is not a valid token"):
        act(file)
    assert path.read_bytes().endswith(b"{}\n")


def test_writers_wait_for_the_lock(file: TokenFile, place: Path) -> None:
    script = (
        "import sys; from taskqd.auth.token_file import TokenFile; from taskqd.model.roles import Role;"
        "print(1, flush=True); TokenFile(sys.argv[1]).add('ci', Role.READ, None, 1.0, None)"
    )
    directory = os.open(place, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with subprocess.Popen([sys.executable, "-c", script, str(place)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"1\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            assert file.read() == []
            os.close(directory)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert len(file.read()) == 1


def test_concurrent_changes_are_all_kept(file: TokenFile, place: Path) -> None:
    script = (
        "import sys; from taskqd.auth.token_file import TokenFile; from taskqd.model.roles import Role;"
        "[TokenFile(sys.argv[1]).add(sys.argv[2], Role.READ, None, 1.0, None) for _ in range(5)]"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(place), name]) for name in "abc"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert sorted(entry.name for entry in file.read()) == sorted("abc" * 5)


@pytest.mark.parametrize("call", ["fsync", "rename", "open", "fchmod"])
def test_failed_change_leaves_the_old_file(
    file: TokenFile, place: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    entry, _ = add(file)
    real: Any = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and args[0] != "tokens.new":
            return real(*args, **kwargs)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    for act in (lambda: add(file), lambda: file.revoke("ci")):
        with pytest.raises(OSError, match="No space left"):
            act()
    monkeypatch.undo()
    assert [path.name for path in place.iterdir()] == ["tokens"]
    assert file.read() == [entry]


def test_rest_of_interrupted_change_is_replaced(file: TokenFile, place: Path) -> None:
    outside = place.parent / "outside"
    outside.write_text("precious")
    (place / "tokens.new").symlink_to(outside)
    entry, _ = add(file)
    assert outside.read_text() == "precious"
    assert [path.name for path in place.iterdir()] == ["tokens"]
    assert file.read() == [entry]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can write files of others")
def test_file_written_by_root_belongs_to_the_owner_of_the_directory(file: TokenFile, place: Path) -> None:
    os.chown(place, 12345, 23456)
    add(file)
    found = (place / "tokens").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (12345, 23456, 0o600)
    file.revoke("ci")
    found = (place / "tokens").stat()
    assert (found.st_uid, found.st_gid) == (12345, 23456)


def test_file_written_by_another_user_belongs_to_that_user(
    file: TokenFile, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delattr(os, "fchown")
    entry, _ = add(file)
    assert file.read() == [entry]
    assert (place / "tokens").stat().st_uid == os.getuid()


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    file = TokenFile(str(tmp_path / "none"))
    for act in (file.read, lambda: add(file)):
        with pytest.raises(FileNotFoundError):
            act()


# The plain token of an older version.


def test_plain_token_is_imported_once_and_left_in_place(file: TokenFile, place: Path) -> None:
    path = plain(place, b"  sesame \n")
    other, _ = add(file)
    entry = file.import_plain_token(START)
    assert entry is not None
    assert (entry.name, entry.role, entry.is_bare) == ("token", Role.ADMIN, True)
    assert tokens.matches(entry, "sesame")
    assert file.read() == [other, entry]
    assert path.read_bytes() == b"  sesame \n"
    before = file.stamp()
    assert file.import_plain_token(START + 1) is None
    assert file.stamp() == before


def test_import_without_plain_file_makes_nothing(file: TokenFile, place: Path) -> None:
    assert file.import_plain_token(START) is None
    assert list(place.iterdir()) == []


def test_changed_plain_token_replaces_the_imported_one(file: TokenFile, place: Path) -> None:
    plain(place)
    first = file.import_plain_token(START)
    plain(place, b"another")
    second = file.import_plain_token(START)
    assert second is not None
    assert file.read() == [second]
    assert second != first


def test_revoked_plain_token_is_not_imported_again(file: TokenFile, place: Path) -> None:
    path = plain(place)
    file.import_plain_token(START)
    file.revoke("token")
    assert not path.exists()
    assert file.import_plain_token(START) is None
    assert file.read() == []


def test_imported_token_without_plain_file_can_be_revoked(file: TokenFile, place: Path) -> None:
    path = plain(place)
    file.import_plain_token(START)
    path.unlink()
    file.revoke("token")
    assert file.read() == []


def test_revoke_of_another_token_leaves_the_plain_file(file: TokenFile, place: Path) -> None:
    path = plain(place)
    file.import_plain_token(START)
    add(file)
    file.revoke("ci")
    assert path.exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_plain_file_readable_by_others_is_refused(file: TokenFile, place: Path, mode: int) -> None:
    path = plain(place, mode=mode)
    with pytest.raises(StartRefused, match=f"chmod 600 {path}") as refusal:
        file.import_plain_token(START)
    assert "sesame" not in str(refusal.value)
    assert file.read() == []


@pytest.mark.parametrize(
    "content, why", [(b"", "is empty; remove it"), (b" \n", "is empty"), (b"\xff", "cannot be read")]
)
def test_invalid_plain_file_is_refused(file: TokenFile, place: Path, content: bytes, why: str) -> None:
    plain(place, content)
    with pytest.raises(StartRefused, match=why):
        file.import_plain_token(START)
