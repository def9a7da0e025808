"""A run as an argument list, and that list as the shell understands it."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from taskqd import launch
from taskqd.job import Job, Spec
from taskqd.launch import CANNOT_ENTER, MARK, Run, command_line, duration, environment

PLAIN = Run(
    id=7,
    attempt=2,
    command="echo hello",
    script=None,
    is_executable=False,
    stdin=None,
    cwd=None,
    env={},
    umask=None,
    nice=None,
    timeout=None,
    kill_after=5.0,
)
SCRIPT: dict[str, Any] = {"command": None, "script": "/spool/7.script"}
PROGRAM: dict[str, Any] = {**SCRIPT, "is_executable": True}
EXEC = 'exec "$@"'

LINES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["/bin/sh", "-c", "echo hello"]),
    ({"command": "a | b && c; # d"}, ["/bin/sh", "-c", "a | b && c; # d"]),
    ({"command": "-x"}, ["/bin/sh", "-c", "--", "-x"]),
    ({"command": "+x"}, ["/bin/sh", "-c", "--", "+x"]),
    ({"command": "--"}, ["/bin/sh", "-c", "--", "--"]),
    ({"umask": 0o077}, ["/bin/sh", "-c", "umask 077; echo hello"]),
    ({"umask": 0}, ["/bin/sh", "-c", "umask 000; echo hello"]),
    ({"umask": 0o27, "command": "-x"}, ["/bin/sh", "-c", "umask 027; -x"]),
    ({"cwd": "/tmp"}, ["/bin/sh", "-c", "cd -- /tmp || exit 126; echo hello"]),
    ({"cwd": "/a b/it's"}, ["/bin/sh", "-c", """cd -- '/a b/it'"'"'s' || exit 126; echo hello"""]),
    (
        {"cwd": "/tmp", "umask": 0o022},
        ["/bin/sh", "-c", "umask 022; cd -- /tmp || exit 126; echo hello"],
    ),
    ({"nice": 5}, ["nice", "-n", "5", "/bin/sh", "-c", "echo hello"]),
    ({"nice": -20}, ["nice", "-n", "-20", "/bin/sh", "-c", "echo hello"]),
    ({"nice": 0, "umask": 0o077}, ["nice", "-n", "0", "/bin/sh", "-c", "umask 077; echo hello"]),
    ({"memory": 10**9}, ["prlimit", "--as=1000000000", "--", "/bin/sh", "-c", "echo hello"]),
    ({"cpu_time": 60.0}, ["prlimit", "--cpu=60:65", "--", "/bin/sh", "-c", "echo hello"]),
    ({"cpu_time": 0.1}, ["prlimit", "--cpu=1:6", "--", "/bin/sh", "-c", "echo hello"]),
    ({"cpu_time": 1.5}, ["prlimit", "--cpu=2:7", "--", "/bin/sh", "-c", "echo hello"]),
    ({"nofile": 64}, ["prlimit", "--nofile=64", "--", "/bin/sh", "-c", "echo hello"]),
    (
        {**PROGRAM, "memory": 1, "cpu_time": 2.0, "nofile": 3, "nice": 4},
        ["nice", "-n", "4", "prlimit", "--as=1", "--cpu=2:7", "--nofile=3", "--", "/spool/7.script"],
    ),
    (SCRIPT, ["/bin/sh", "/spool/7.script"]),
    (PROGRAM, ["/spool/7.script"]),
    ({**PROGRAM, "nice": 3}, ["nice", "-n", "3", "/spool/7.script"]),
    ({**PROGRAM, "umask": 0o077}, ["/bin/sh", "-c", f"umask 077; {EXEC}", "/bin/sh", "/spool/7.script"]),
    (
        {**SCRIPT, "cwd": "/tmp"},
        ["/bin/sh", "-c", f"cd -- /tmp || exit 126; {EXEC}", "/bin/sh", "/bin/sh", "/spool/7.script"],
    ),
]


@pytest.mark.parametrize("options, line", LINES)
def test_a_run_is_one_command_line(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], line: list[str]
) -> None:
    monkeypatch.setattr(launch, "_find", lambda program: program)
    assert command_line(replace(PLAIN, **options)) == line


@pytest.mark.parametrize("asked", [{"nice": 1}, {"memory": 1}, {"cpu_time": 1.0}, {"nofile": 1}])
def test_programs_are_the_system_s_whatever_the_job_s_path_is_and_have_to_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, Any]
) -> None:
    name = "nice" if "nice" in asked else "prlimit"
    run = replace(PLAIN, env={"PATH": "/nonexistent"}, **asked)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"there is no {name} in the daemon's PATH"):
        command_line(run)
    (tmp_path / name).touch(0o700)
    assert command_line(run)[0] == str(tmp_path / name)


def ran(directory: Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command_line(replace(PLAIN, **options)), cwd=directory, capture_output=True, check=False
    )


def script(directory: Path, text: str, mode: int = 0o600) -> dict[str, Any]:
    path = directory / "7.script"
    path.write_text(text)
    path.chmod(mode)
    return {"command": None, "script": str(path), "is_executable": mode == 0o700}


@pytest.mark.parametrize("name", ["plain", "a b", "it's", '"', "$HOME", "-P", "é\n", "*"])
def test_any_directory_is_entered(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    assert ran(tmp_path, cwd=str(directory), command="pwd").stdout == os.fsencode(f"{directory}\n")


def test_a_directory_that_has_vanished_ends_the_attempt_before_its_command(tmp_path: Path) -> None:
    done = ran(tmp_path, cwd=str(tmp_path / "missing"), command="echo never")
    assert (done.returncode, done.stdout) == (CANNOT_ENTER, b"")


@pytest.mark.parametrize(
    "options, out",
    [
        ({"umask": 0o027, "command": "umask"}, b"0027\n"),
        ({"nice": 3, "command": "nice"}, b"3\n"),
        ({"nofile": 17, "command": "ulimit -n; ulimit -H -n"}, b"17\n17\n"),
        ({"memory": 10**9, "command": "ulimit -v; ulimit -H -v"}, b"976562\n976562\n"),
        ({"cpu_time": 9.5, "command": "ulimit -t; ulimit -H -t"}, b"10\n15\n"),
        ({"nofile": 17, "nice": 3, "command": "ulimit -n; nice"}, b"17\n3\n"),
        ({"command": "echo $0 $#"}, b"/bin/sh 0\n"),
        ({"command": "echo 'a  b' \"$HOME_X\" \\\\"}, b"a  b  \\\n"),
    ],
)
@pytest.mark.needs("prlimit")
def test_a_command_has_what_was_asked_for(tmp_path: Path, options: dict[str, Any], out: bytes) -> None:
    assert ran(tmp_path, **options).stdout == out


@pytest.mark.needs("prlimit")
def test_a_limit_that_may_not_be_set_is_said_and_ends_the_attempt_before_its_command(tmp_path: Path) -> None:
    done = ran(tmp_path, nofile=2**40, command="echo never")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"NOFILE" in done.stderr


@pytest.mark.parametrize("command", ["--version", "-c", "+x"])
def test_a_command_is_never_taken_for_an_option(tmp_path: Path, command: str) -> None:
    done = ran(tmp_path, command=command)
    assert done.returncode == 127
    assert b"not found" in done.stderr


@pytest.mark.parametrize("options", [{}, {"umask": 0o077}, {"cwd": "/", "nice": 1}])
def test_a_script_is_run_by_the_shell_or_by_whom_it_names(tmp_path: Path, options: dict[str, Any]) -> None:
    shell = script(tmp_path, "cat <<end\nit is $((1+1))\nend\n")
    assert ran(tmp_path, **shell, **options).stdout == b"it is 2\n"
    other = script(tmp_path, "#!/usr/bin/env python3\nprint(6 * 7)\n", 0o700)
    assert ran(tmp_path, **other, **options).stdout == b"42\n"


# The environment.


def job(**options: Any) -> Job:
    return Job(id=7, spec=Spec(command="true", **options), owner="ada", submitted_at=0.0)


def test_a_job_sees_the_daemon_s_small_environment_its_own_and_who_it_is() -> None:
    made = environment({"PATH": "/bin", "HOME": "/"}, job(env={"A": "1"}), 2, "store", "/spool/progress/7")
    assert made == {
        "PATH": "/bin",
        "HOME": "/",
        "A": "1",
        "TASKQ_JOB_ID": "7",
        "TASKQ_ATTEMPT": "2",
        "TASKQ_QUEUE": "default",
        "TASKQ_PROGRESS": "/spool/progress/7",
        MARK: "store.7.2",
    }


def test_a_job_sees_the_queue_the_array_and_the_schedule_that_it_is_of() -> None:
    made = environment({}, replace(job(queue="nightly"), array=12, index=0, schedule=3), 1, "s", "p")
    assert made["TASKQ_QUEUE"] == "nightly"
    assert (made["TASKQ_ARRAY_ID"], made["TASKQ_INDEX"], made["TASKQ_SCHEDULE"]) == ("12", "0", "3")


def test_what_was_asked_for_wins_over_the_daemon_s_own_and_the_daemon_says_who_it_is() -> None:
    made = environment(
        {"PATH": "/bin"}, job(env={"PATH": "/mine", "TASKQ_JOB_ID": "9", MARK: "x"}), 1, "s", "p"
    )
    assert (made["PATH"], made["TASKQ_JOB_ID"], made[MARK]) == ("/mine", "7", "s.7.1")


def test_a_value_that_is_no_text_reaches_the_job_as_the_bytes_that_it_is() -> None:
    made = environment({}, job(env_base64={"RAW": b"\xff\xc3\xa9"}), 1, "s", "p")
    assert made["RAW"].encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"


# Words.


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (0.0004, "0 s"),
        (1.5, "1.5 s"),
        (10.0, "10 s"),
        (59.9999, "1 min"),
        (90, "1 min 30 s"),
        (120.0, "2 min"),
        (3600, "1 h"),
        (5400.5, "1 h 30 min 0.5 s"),
        (86_400 * 10 + 60, "10 d 1 min"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
