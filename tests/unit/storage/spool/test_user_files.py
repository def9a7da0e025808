"""Files of attempts of other users are private, removed with the attempt, and cannot harm the daemon."""

import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskqd.errors import StartRefused
from taskqd.execution.users import User
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.spool.spool import Spool
from taskqd.storage.spool.user_files import DIRECTORY_MODE, PROGRESS, UserFiles
from tests.fakes.clocks import in_thread
from tests.support import other_users

ME = os.geteuid(), os.getegid()
WORD, OTHER = "00c0ffee00c0ffee", "0123456789abcdef"


class Bench:
    """A state directory in a directory that other users can enter, and the user files beside it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "state.jobs"
        self.state = place / "state"
        self.user_files = UserFiles(str(self.directory))
        self.spool = Spool(str(self.state), Filesystem(), in_thread, self.user_files)

    def block(self, name: str, content: bytes, mode: int = 0o600) -> str:
        self.state.mkdir(0o700, exist_ok=True)
        path = self.state / f"7.{name}"
        path.write_bytes(content)
        path.chmod(mode)
        return str(path)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def give(
        self, owner: tuple[int, int] = ME, job_id: int = 7, word: str = WORD, **blocks: str
    ) -> dict[str, Path]:
        given = self.user_files.provide(job_id, 1, word, *owner, blocks)
        return {name: Path(path) for name, path in given.items()}


@pytest.fixture(name="bench")
def make_bench() -> Iterator[Bench]:
    with other_users.open_place() as place:
        bench = Bench(place)
        yield bench
        bench.user_files.close()


# The directory.


def test_directory_can_be_entered_and_neither_listed_nor_written(bench: Bench) -> None:
    before = os.umask(0o077)
    try:
        assert bench.user_files.open() == 0
    finally:
        os.umask(before)
    found = bench.directory.stat()
    assert (
        (stat.S_IMODE(found.st_mode), found.st_uid) == (DIRECTORY_MODE, os.geteuid()) == (0o711, os.geteuid())
    )


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o755, 0o500])
def test_existing_directory_is_used(bench: Bench, mode: int) -> None:
    bench.directory.mkdir()
    bench.directory.chmod(mode)
    bench.user_files.open()
    assert stat.S_IMODE(bench.directory.stat().st_mode) == DIRECTORY_MODE


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o731, 0o713])
def test_directory_that_others_can_change_is_refused(bench: Bench, mode: int) -> None:
    bench.directory.mkdir()
    bench.directory.chmod(mode)
    with pytest.raises(StartRefused, match=r"state\.jobs .* others than the daemon can change it: remove"):
        bench.user_files.open()


@other_users.only_root
def test_directory_of_another_user_is_refused(bench: Bench) -> None:
    bench.directory.mkdir(DIRECTORY_MODE)
    os.chown(bench.directory, other_users.user("games").uid, 0)
    with pytest.raises(StartRefused, match="others than the daemon can change it"):
        bench.user_files.open()


@pytest.mark.parametrize("what", ["file", "link", "dangling link", "pipe"])
def test_link_or_file_in_place_of_the_directory_is_refused(bench: Bench, what: str) -> None:
    target = bench.place / "target"
    if what == "file":
        bench.directory.touch()
    elif what == "pipe":
        os.mkfifo(bench.directory)
    else:
        bench.directory.symlink_to(target)
        if what == "link":
            target.mkdir(0o700)
    with pytest.raises(StartRefused, match=r"state\.jobs cannot be opened: .*must be a directory"):
        bench.user_files.open()
    assert not target.exists() or stat.S_IMODE(target.stat().st_mode) == 0o700


def test_directory_that_users_cannot_reach_is_refused(bench: Bench) -> None:
    (bench.place / "closed").mkdir(0o700)
    user_files = UserFiles(str(bench.place / "closed" / "state.jobs"))
    with pytest.raises(StartRefused, match=rf"users cannot enter {bench.place}/closed, .* chmod o\+x"):
        user_files.open()
    user_files.close()


def test_open_removes_only_files_of_attempts(bench: Bench) -> None:
    bench.user_files.open()
    bench.give(script=bench.block("script", b"x"))
    kept = ["README", "7.progress", "x.1.0123456789abcdef.progress", "7.1.0123456789ABCDEF.progress"]
    for name in kept:
        (bench.directory / name).touch()
    again = UserFiles(str(bench.directory))
    assert again.open() == 2
    assert bench.names() == sorted(kept)
    again.close()
    again.close()


def test_open_keeps_the_files_of_running_attempts(bench: Bench) -> None:
    bench.user_files.open()
    given = bench.give(script=bench.block("script", b"x"))
    given[PROGRESS].write_bytes(b"40\n")
    bench.user_files.close()
    again = bench.user_files = UserFiles(str(bench.directory))
    assert again.open({(7, 1, WORD), (9, 1, OTHER)}) == 0
    spool = Spool(str(bench.state), Filesystem(), in_thread, again)
    assert bench.names() == sorted(path.name for path in given.values())
    assert spool.read_progress(7).percent == 40
    spool.close_attempt(7)
    assert bench.names() == []


@pytest.mark.parametrize("running", [(7, 1, OTHER), (7, 2, WORD), (8, 1, WORD)])
def test_open_removes_the_files_of_another_attempt_than_the_running_one(
    bench: Bench, running: tuple[int, int, str]
) -> None:
    bench.user_files.open()
    bench.give(script=bench.block("script", b"x"))
    again = UserFiles(str(bench.directory))
    assert again.open({running}) == 2
    assert again.open_progress(running[0]) is None
    again.close()


# Providing files.


def test_provide_copies_blocks_and_adds_a_progress_file(bench: Bench) -> None:
    bench.user_files.open()
    content = os.urandom(3 * 1024**2 + 17)
    given = bench.give(
        script=bench.block("script", b"#!/bin/sh\n", 0o700), stdin=bench.block("stdin", content)
    )
    assert {name: stat.S_IMODE(path.stat().st_mode) for name, path in given.items()} == {
        "script": 0o500,
        "stdin": 0o400,
        PROGRESS: 0o600,
    }
    assert given["script"].read_bytes() == b"#!/bin/sh\n"
    assert given["stdin"].read_bytes() == content
    assert given[PROGRESS].read_bytes() == b""
    assert (bench.state / "7.script").stat().st_ino != given["script"].stat().st_ino
    assert (
        stat.S_IMODE(bench.give(job_id=8, script=bench.block("script", b""))["script"].stat().st_mode)
        == 0o400
    )


def test_names_have_the_word_of_the_attempt(bench: Bench) -> None:
    bench.user_files.open()
    given = bench.give(script=bench.block("script", b"x"))
    assert {path.name for path in given.values()} == {f"7.1.{WORD}.script", f"7.1.{WORD}.progress"}


def test_files_of_an_attempt_that_was_not_started_are_replaced(bench: Bench) -> None:
    bench.user_files.open()
    bench.give(script=bench.block("script", b"half"), stdin=bench.block("stdin", b"x"))
    again = UserFiles(str(bench.directory))
    again.open({(7, 1, WORD)})
    given = again.provide(7, 1, WORD, *ME, {"script": bench.block("script", b"whole")})
    assert Path(given["script"]).read_bytes() == b"whole"
    assert bench.names() == [f"7.1.{WORD}.progress", f"7.1.{WORD}.script"]
    again.close()


def test_remove_removes_the_files_of_the_attempt(bench: Bench) -> None:
    bench.user_files.open()
    bench.give(script=bench.block("script", b"x"))
    theirs = bench.give(job_id=8)
    bench.spool.close_attempt(7)
    assert bench.names() == [theirs[PROGRESS].name]
    bench.spool.close_attempt(7)
    theirs[PROGRESS].unlink()
    bench.spool.close_attempt(8)
    assert bench.names() == []


def test_provide_that_fails_leaves_no_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.user_files.open()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        bench.give(script=bench.block("script", b"x"), stdin=str(bench.place / "nothing"))
    assert bench.names() == []

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(PermissionError):
        bench.give(script=bench.block("script", b"x"))
    assert bench.names() == []
    assert bench.user_files.open_progress(7) is None
    assert len(os.listdir("/proc/self/fd")) == before


# Progress.


@pytest.mark.parametrize("content, percentage", [(b"", 0), (b"50\n", 50), (b"10\n20\n3", 20), (b"\xff\n", 0)])
def test_progress_of_a_user_job_is_read_from_its_file(bench: Bench, content: bytes, percentage: int) -> None:
    bench.user_files.open()
    bench.give()[PROGRESS].write_bytes(content)
    assert bench.spool.read_progress(7).percent == percentage


def test_progress_of_other_jobs_is_read_from_the_state_directory(bench: Bench) -> None:
    bench.user_files.open()
    bench.state.mkdir(0o700)
    bench.spool.open()
    Path(bench.spool.path(7, PROGRESS)).write_bytes(b"30\n")
    assert bench.spool.read_progress(7).percent == 30
    bench.give()
    assert bench.spool.read_progress(7).percent == 0


def test_read_progress_closes_its_descriptor(bench: Bench) -> None:
    bench.user_files.open()
    bench.give()[PROGRESS].write_bytes(b"50\n")
    before = len(os.listdir("/proc/self/fd"))
    assert [bench.spool.read_progress(7).percent for _ in range(10)] == [50] * 10
    assert len(os.listdir("/proc/self/fd")) == before


# A hostile user.


@pytest.fixture(name="ana")
def find_user() -> User:
    return other_users.user("games")


def given_to(bench: Bench, user: User) -> dict[str, Path]:
    bench.user_files.open()
    script = bench.block("script", b"#!/bin/sh\necho mine\n", 0o700)
    return bench.give((user.uid, user.gid), script=script, stdin=bench.block("stdin", b"secret"))


@other_users.only_root
def test_user_can_run_the_script_read_stdin_and_report(bench: Bench, ana: User) -> None:
    given = given_to(bench, ana)
    done = other_users.shell(
        ana, f"{given['script']} && cat {given['stdin']} && echo 40 >> {given[PROGRESS]}"
    )
    assert (done.stdout, done.stderr) == ("mine\nsecret", "")
    assert bench.spool.read_progress(7).percent == 40


@other_users.only_root
@pytest.mark.parametrize(
    "command", ["cat {path}", "echo x >> {path}", "chmod 777 {path}", "rm -f {path}", "{path}"]
)
@pytest.mark.parametrize("name", ["script", "stdin", PROGRESS])
def test_other_user_cannot_access_the_files(bench: Bench, ana: User, name: str, command: str) -> None:
    given = given_to(bench, ana)
    before = given[name].read_bytes(), given[name].stat()
    done = other_users.shell(other_users.user("daemon"), command.format(path=given[name]))
    assert done.returncode != 0
    assert done.stdout == ""
    assert (given[name].read_bytes(), given[name].stat()[:9]) == (before[0], before[1][:9])


@other_users.only_root
@pytest.mark.parametrize(
    "command",
    [
        "ls {directory}",
        "touch {directory}/new",
        "mkdir {directory}/new",
        "rm -f {progress}",
        "mv {progress} {directory}/other",
        "ln -s /etc/shadow {directory}/new",
        "ln /etc/passwd {directory}/new",
        "mkfifo {directory}/new",
        "rm -f {progress}; mkfifo {progress}",
        "ln -sf /etc/shadow {progress}",
        "chmod 777 {directory}",
        "ls {state}",
        "cat {state}/7.script",
    ],
)
def test_user_cannot_replace_the_files(bench: Bench, ana: User, command: str) -> None:
    given = given_to(bench, ana)
    inode, names = given[PROGRESS].stat().st_ino, bench.names()
    places = {"directory": bench.directory, "progress": given[PROGRESS], "state": bench.state}
    done = other_users.shell(ana, command.format(**places))
    assert done.returncode != 0
    assert done.stdout == ""
    assert (given[PROGRESS].stat().st_ino, bench.names()) == (inode, names)


@other_users.only_root
@pytest.mark.parametrize(
    "command",
    [
        "chmod 000 {path}",
        "chmod 6777 {path}",
        "truncate -s 1T {path}",
        "head -c 3000000 /dev/zero >> {path}",
        "yes 999999 | head -c 1000000 > {path}",
        "printf '%s\\n' '; reboot' '$(reboot)' '../../../etc/shadow' > {path}",
    ],
)
def test_progress_of_any_content_is_a_percentage(bench: Bench, ana: User, command: str) -> None:
    path = given_to(bench, ana)[PROGRESS]
    assert other_users.shell(ana, command.format(path=path)).returncode == 0
    assert bench.spool.read_progress(7).percent == 0
    bench.spool.close_attempt(7)
    assert bench.names() == []


@other_users.only_root
def test_changed_script_affects_only_its_attempt(bench: Bench, ana: User) -> None:
    given = given_to(bench, ana)
    done = other_users.shell(ana, f"chmod u+w {given['script']} && echo 'rm -rf /' > {given['script']}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (bench.state / "7.script").read_bytes() == b"#!/bin/sh\necho mine\n"
    assert (bench.state / "7.script").stat().st_uid == os.geteuid()


@other_users.only_root
def test_hard_link_of_a_user_refers_to_the_copy_only(bench: Bench, ana: User) -> None:
    given = given_to(bench, ana)
    theirs = bench.place / "theirs"
    theirs.mkdir(0o700)
    os.chown(theirs, ana.uid, ana.gid)
    other_users.shell(ana, f"ln {given[PROGRESS]} {theirs}/kept; ln {given['script']} {theirs}/script")
    bench.spool.close_attempt(7)
    assert bench.names() == []
    other = bench.give((other_users.user("daemon").uid, 1))
    other_users.shell(ana, f"echo 90 >> {theirs}/kept")
    assert bench.spool.read_progress(7).percent == 0
    assert (theirs / "kept").stat().st_ino != other[PROGRESS].stat().st_ino


LEASE = """\
import fcntl, sys, time
file = open({path!r}, "r+b")
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
fcntl.fcntl(file, fcntl.F_SETSIG, 0)
import signal; signal.signal(signal.SIGIO, signal.SIG_IGN)
print("held", flush=True)
time.sleep(20)
"""


@other_users.only_root
def test_lease_of_a_user_does_not_block_the_daemon(bench: Bench, ana: User) -> None:
    """Without O_NONBLOCK, the kernel blocks open(2) for 45 s."""
    path = given_to(bench, ana)[PROGRESS]
    path.write_bytes(b"50\n")
    with other_users.process(ana, LEASE.format(path=str(path))) as holder:
        assert holder.readline() == "held\n"
        is_read = threading.Event()
        answers: list[int] = []

        def look() -> None:
            answers.append(bench.spool.read_progress(7).percent)
            is_read.set()

        threading.Thread(target=look, daemon=True).start()
        assert is_read.wait(5), "the daemon would block"
    assert answers == [0]


def test_progress_file_is_opened_without_blocking(bench: Bench) -> None:
    bench.user_files.open()
    bench.give()
    descriptor = bench.user_files.open_progress(7)
    assert descriptor is not None
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(descriptor)
