"""Lookups of users, and their cache."""

import errno
import grp
import os
import pwd
from typing import Any

import pytest

from taskqd.execution.users import CACHE_TIME, MAX_CACHED, User, Users, group_id, groups_of
from tests.fakes.clocks import clock


class Passwd:
    """Users that the test defines, and a count of lookups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, tuple[int, int, str]] = {"ada": (1000, 100, "/home/ada")}
        self.lookups: list[str] = []
        self.clock = clock()
        self.users = Users(self.clock.seconds)
        monkeypatch.setattr(pwd, "getpwnam", self._find)

    def _find(self, name: str) -> Any:
        self.lookups.append(name)
        uid, gid, home = self.known[name]
        return pwd.struct_passwd((name, "x", uid, gid, "", home, "/bin/bash"))


@pytest.fixture(name="passwd")
def a_passwd(monkeypatch: pytest.MonkeyPatch) -> Passwd:
    return Passwd(monkeypatch)


def test_user_is_found_by_name(passwd: Passwd) -> None:
    assert passwd.users.find("ada") == User("ada", 1000, 100, "/home/ada")
    assert passwd.users.find("ben") is None


def test_lookup_is_cached_for_a_moment(passwd: Passwd) -> None:
    for _ in range(3):
        passwd.users.find("ada")
        passwd.users.find("ben")
    assert passwd.lookups == ["ada", "ben"]
    del passwd.known["ada"]
    passwd.known["ben"] = (1001, 100, "/home/ben")
    passwd.clock.advance(CACHE_TIME - 0.1)
    assert (passwd.users.find("ada") is None, passwd.users.find("ben") is None) == (False, True)
    passwd.clock.advance(0.1)
    assert (passwd.users.find("ada") is None, passwd.users.find("ben") is None) == (True, False)


def test_cache_has_a_maximum_size(passwd: Passwd) -> None:
    for number in range(3 * MAX_CACHED):
        passwd.users.find(f"user-{number}")
    assert len(passwd.users._cache) <= MAX_CACHED


def test_name_of_digits_is_no_user(passwd: Passwd) -> None:
    passwd.known["1234"] = (0, 0, "/root")
    assert passwd.users.find("1234") is None


@pytest.mark.parametrize("name", ["no-such-user", "", "a\0b", "a:b", "\ud800", "x" * 10_000, "ada\n", "+ada"])
def test_impossible_name_is_no_user(name: str) -> None:
    assert Users(clock().seconds).find(name) is None


def test_lookup_without_descriptors_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = Users(clock().seconds)
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            users.find("no-such-user")
    assert users.find("no-such-user") is None


def test_real_users_and_groups_are_found() -> None:
    one = pwd.getpwall()[0]
    user = Users(clock().seconds).find(one.pw_name)
    assert user is not None
    assert user[1:] == (one.pw_uid, one.pw_gid, one.pw_dir)
    assert user.gid in groups_of(user)
    assert group_id("no-such-group") is None
    assert group_id("a\0b") is None
    assert group_id(grp.getgrgid(user.gid).gr_name) == user.gid
