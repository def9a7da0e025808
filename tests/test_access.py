"""Who is at the other end, and the token that says so."""

import os
import pwd
import socket
from pathlib import Path

import pytest

from taskqd.access import Access, Principal, read_token, user_name
from taskqd.errors import AuthFailed, StartRefused
from tests.fakes import FakeSocket


def test_a_unix_socket_says_who_its_peer_is_and_that_is_an_admin() -> None:
    assert Access("x").peer(FakeSocket(uid=0)) == Principal("root", "admin")
    assert Access("x").peer(FakeSocket(uid=4_000_000)) == Principal("4000000", "admin")


def test_a_real_unix_socket_says_it_too() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert Access("x").peer(ours) == Principal(pwd.getpwuid(os.getuid()).pw_name, "admin")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_any_other_socket_says_nothing(family: int) -> None:
    assert Access("x").peer(FakeSocket(family)) is None


def test_a_user_without_a_name_goes_by_number() -> None:
    assert user_name(0) == "root"
    assert user_name(4_000_000) == "4000000"


def test_whoever_has_the_token_is_an_admin() -> None:
    assert Access("sesame").authenticate("sesame") == Principal("token", "admin")


@pytest.mark.parametrize("token", ["", "sesam", "sesame ", "SESAME", "sésame", "\udcff", "x" * 60_000])
def test_whoever_has_another_token_is_refused_and_the_token_is_not_told(token: str) -> None:
    with pytest.raises(AuthFailed) as refusal:
        Access("sesame").authenticate(token.encode("utf-8", "replace").decode())
    assert "sesame" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


# The file.


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    token = read_token(str(tmp_path))
    assert len(token) > 40
    assert read_token(str(tmp_path)) == token
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_two_tokens_are_different(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert read_token(str(tmp_path / "a")) != read_token(str(tmp_path / "b"))


def test_a_token_of_one_s_own_is_taken_without_the_space_around_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  my own \n")
    (tmp_path / "token").chmod(0o600)
    assert read_token(str(tmp_path)) == "my own"


def test_what_a_start_that_was_cut_off_left_behind_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "token.new").write_text("hal")
    (tmp_path / "token.new").chmod(0o600)
    assert len(read_token(str(tmp_path))) > 40


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_token_that_others_may_read_refuses_the_start_and_says_what_to_do(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "token"
    path.write_text("sesame\n")
    path.chmod(mode)
    with pytest.raises(StartRefused, match=f"chmod 600 {path}") as refusal:
        read_token(str(tmp_path))
    assert "sesame" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_token_refuses_the_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(StartRefused, match="is empty: remove it"):
        read_token(str(tmp_path))


def test_a_token_that_is_no_text_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(StartRefused, match="cannot be read"):
        read_token(str(tmp_path))


def test_a_token_that_cannot_be_read_or_made_refuses_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartRefused, match="cannot be read"):
        read_token(str(tmp_path / "missing"))
    (tmp_path / "token").mkdir()
    with pytest.raises(StartRefused, match="cannot be read"):
        read_token(str(tmp_path))
    (tmp_path / "token").rmdir()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StartRefused, match="No space left"):
        read_token(str(tmp_path))
    assert not (tmp_path / "token").exists()
