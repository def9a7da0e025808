"""Users of this machine who are not us, for tests that run as root; elsewhere those are skipped by name."""

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

NAMES = ("games", "daemon", "nobody")
"""Users that a Debian has from its start, and that may be anybody's here."""

only_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: it is about other users, and only root can become them"
)


def user(name: str) -> User:
    """Return a user of this machine; skips the test where there is none of that name."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        pytest.skip(f"needs a user {name}, and this machine has none")
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


def shell(who: User, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell command as somebody else."""
    return ran(who, ["/bin/sh", "-c", command])


@contextmanager
def acting(who: User) -> Iterator[None]:
    """Be somebody else meanwhile, for the file system and for the sockets that are connected."""
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def process(who: User, code: str) -> Iterator[IO[str]]:
    """Run Python code as somebody else, and give its stdout; it is killed in the end."""
    line = [_python(who), "-I", "-c", code]
    with subprocess.Popen(
        line, user=who.uid, group=who.gid, extra_groups=[], cwd="/", stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            yield cast("IO[str]", started.stdout)
        finally:
            started.kill()


def _python(who: User) -> str:
    """Return a Python that somebody can run."""
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
    """Make a directory that others may pass through, as pytest's are not, and remove it afterwards."""
    place = Path(tempfile.mkdtemp(prefix="taskq-", dir="/tmp"))
    place.chmod(0o711)
    try:
        yield place
    finally:
        shutil.rmtree(place)
