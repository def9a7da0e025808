"""Other users of this machine, for tests that run as root; without root these tests are skipped."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pytest

from taskqd.execution.users import User

NAMES = ("games", "daemon", *(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == 65534))
"""Users that every Debian system has; the last has the overflow uid (user_namespaces(7))."""

only_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: it is about other users, and only root can become them"
)


def user(name: str) -> User:
    """Return a user of this machine; skips the test if there is none with this name."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        pytest.skip(f"needs a user {name}, and this machine has none")
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


def shell(who: User, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell command as another user."""
    return ran(who, ["/bin/sh", "-c", command])


@contextmanager
def acting(who: User) -> Iterator[None]:
    """Act as another user within the context: for files, and as the peer of sockets."""
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def process(who: User, code: str) -> Iterator[IO[str]]:
    """Run Python code as another user, and yield its stdout; it is killed at the end."""
    line = [_python(who), "-I", "-c", code]
    with subprocess.Popen(
        line, user=who.uid, group=who.gid, extra_groups=[], cwd="/", stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            yield cast("IO[str]", started.stdout)
        finally:
            started.kill()


def _python(who: User) -> str:
    """Return a Python that another user can run."""
    for program in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if program and shell(who, f"exec {program} -I -c ''").returncode == 0:
            return program
    pytest.skip(
        f"needs a Python that {who.name} can run: {sys.executable} is out of reach, and no other is there"
    )


def ran(who: User, line: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        line,
        user=who.uid,
        group=who.gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def open_place() -> Iterator[Path]:
    """Make a directory that other users may enter, unlike pytest's, and remove it afterwards."""
    place = Path(tempfile.mkdtemp(prefix="taskq-", dir="/tmp"))
    place.chmod(0o711)
    try:
        yield place
    finally:
        shutil.rmtree(place)
