"""The argument list and environment of a Run, and what a real shell does with them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from resource import RLIMIT_NOFILE
from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.execution import command_line as launch
from taskqd.execution.command_line import (
    CANNOT_ENTER,
    HIDDEN_PREFIX,
    command_line,
    job_environment,
    process_environment,
)
from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.run import MARK, Owner, Run
from taskqd.execution.shebang import HEAD_SIZE, parse_shebang
from taskqd.execution.start_message import make_start
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.runner.refusal import refusal
from tests.fakes.processes import make_run
from tests.support import other_users


def attempt(**options: Any) -> Run:
    """Return attempt 2 of job 7; the options are fields of Run, and of its Spec."""
    return make_run(**{"id": 7, "attempt": 2, "command": "echo hello", **options})


SOFT_NOFILE = {RLIMIT_NOFILE: "ulimit -S -n 1024 2>/dev/null; "}
SCRIPT: dict[str, Any] = {"command": None, "script": "/spool/7.script"}
PROGRAM: dict[str, Any] = {**SCRIPT, "interpreter": ("/usr/bin/env", "awk -f")}
EXEC = 'exec "$@"'
RUN = ("/bin/sh", "/usr/bin/env", "awk -f", "/spool/7.script")
CHECK = "[ -f /usr/bin/env ] && [ -x /usr/bin/env ] || exec /usr/bin/env; "
FORGET = "unset OLDPWD; "
TMP = "cd -- /tmp || { [ -d /tmp ]; exit $((126+$?)); }; " + FORGET

LINES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["/bin/sh", "-c", "echo hello"]),
    ({"command": "a | b && c; # d"}, ["/bin/sh", "-c", "a | b && c; # d"]),
    ({"command": "-x"}, ["/bin/sh", "-c", "--", "-x"]),
    ({"command": "+x"}, ["/bin/sh", "-c", "--", "+x"]),
    ({"command": "--"}, ["/bin/sh", "-c", "--", "--"]),
    ({"umask": 0o077}, ["/bin/sh", "-c", "umask 077; echo hello"]),
    ({"umask": 0}, ["/bin/sh", "-c", "umask 000; echo hello"]),
    ({"umask": 0o27, "command": "-x"}, ["/bin/sh", "-c", "umask 027; -x"]),
    ({"cwd": "/tmp"}, ["/bin/sh", "-c", TMP + "echo hello"]),
    (
        {"cwd": "/a b"},
        ["/bin/sh", "-c", f"cd -- '/a b' || {{ [ -d '/a b' ]; exit $((126+$?)); }}; {FORGET}echo hello"],
    ),
    (
        {"cwd": "/tmp", "umask": 0o022},
        ["/bin/sh", "-c", f"umask 022; {TMP}echo hello"],
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
        [
            "nice",
            "-n",
            "4",
            "prlimit",
            "--as=1",
            "--cpu=2:7",
            "--nofile=3",
            "--",
            "/bin/sh",
            "-c",
            EXEC,
            *RUN,
        ],
    ),
    (SCRIPT, ["/bin/sh", "/spool/7.script"]),
    (
        {**SCRIPT, "command": "a 'b c'"},
        ["/bin/sh", "-c", "exec \"$@\" a 'b c'", "/bin/sh", "/bin/sh", "/spool/7.script"],
    ),
    (PROGRAM, ["/bin/sh", "-c", EXEC, *RUN]),
    ({**PROGRAM, "nice": 3}, ["nice", "-n", "3", "/bin/sh", "-c", EXEC, *RUN]),
    ({**PROGRAM, "umask": 0o077}, ["/bin/sh", "-c", f"umask 077; {EXEC}", *RUN]),
    (
        {**SCRIPT, "cwd": "/tmp"},
        ["/bin/sh", "-c", TMP + EXEC, "/bin/sh", "/bin/sh", "/spool/7.script"],
    ),
    ({"merge": True}, ["/bin/sh", "-c", "command exec 2>&1 || exit 126; echo hello"]),
    (
        {"stdout": "/a b/%j.%a%%", "stderr": "/b", "umask": 0o077, "cwd": "/tmp"},
        [
            *("/bin/sh", "-c"),
            f"umask 077; {TMP}command exec >'/a b/7.2%' 2>/b || exit 126; echo hello",
        ],
    ),
    (
        {"stdout": "/%j", "stderr": "/7"},
        ["/bin/sh", "-c", "command exec >/7 2>&1 || exit 126; echo hello"],
    ),
    (
        {**PROGRAM, "merge": True},
        [
            *("/bin/sh", "-c"),
            CHECK + f"command exec 2>&1 || exit 126; {EXEC}",
            *RUN,
        ],
    ),
    (
        {**SCRIPT, "merge": True},
        [
            *("/bin/sh", "-c", f"command exec 2>&1 || exit 126; {EXEC}"),
            *("/bin/sh", "/bin/sh", "/spool/7.script"),
        ],
    ),
    # Properties of the daemon that a job must not inherit.
    (
        {"directory": "/home/ada"},
        ["/bin/sh", "-c", f"cd -- /home/ada 2>/dev/null || cd /; {FORGET}echo hello"],
    ),
    (
        {"limits": {RLIMIT_NOFILE: "ulimit -S -n 1024 2>/dev/null; "}},
        ["/bin/sh", "-c", "ulimit -S -n 1024 2>/dev/null; echo hello"],
    ),
    (
        {"limits": {RLIMIT_NOFILE: "ulimit -S -n 1024 2>/dev/null; "}, "nofile": 9},
        ["prlimit", "--nofile=9", "--", "/bin/sh", "-c", "echo hello"],
    ),
    (
        {"oom_score_adj": 0},
        ["/bin/sh", "-c", "{ echo 0 >/proc/self/oom_score_adj; } 2>/dev/null; echo hello"],
    ),
]


def soft_nofile(limit: int) -> dict[int, str]:
    return {RLIMIT_NOFILE: f"ulimit -S -n {limit} 2>/dev/null; "}


def started(run: Run) -> Start:
    return make_start(run, {1: "", 2: ""})


@pytest.mark.parametrize("options, line", LINES)
def test_command_line_has_what_the_options_need(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], line: list[str]
) -> None:
    monkeypatch.setattr(launch, "find_program", lambda program: program)
    assert command_line(attempt(**options)) == line


@pytest.mark.parametrize("asked", [{"nice": 1}, {"memory": 1}, {"cpu_time": 1.0}, {"nofile": 1}])
def test_command_line_finds_programs_by_the_daemon_s_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, Any]
) -> None:
    name = "nice" if "nice" in asked else "prlimit"
    run = attempt(env={"PATH": "/nonexistent"}, **asked)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"there is no {name} in the daemon's PATH"):
        command_line(run)
    (tmp_path / name).touch(0o700)
    assert command_line(run)[0] == str(tmp_path / name)


def test_find_program_ignores_relative_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for directory in ("bin", "other"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "nice").touch(0o700)
    (tmp_path / "nice").touch(0o700)
    monkeypatch.setenv("PATH", f".:bin::{tmp_path}/other")
    assert launch.find_program("nice") == f"{tmp_path}/other/nice"
    monkeypatch.setenv("PATH", ".:bin:")
    with pytest.raises(FileNotFoundError):
        launch.find_program("nice")


def ran(place: Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command_line(attempt(**options)), cwd=place, capture_output=True, check=False)


def script(directory: Path, text: str, mode: int = 0o600) -> dict[str, Any]:
    path = directory / "7.script"
    path.write_text(text)
    path.chmod(mode)
    named = parse_shebang(path.read_bytes()[:HEAD_SIZE])
    return {"command": None, "script": str(path), "interpreter": named}


@pytest.mark.parametrize("name", ["plain", "a b", "it's", '"', "$HOME", "-P", "é\n", "*"])
def test_directory_with_any_name_is_entered(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    assert ran(tmp_path, cwd=str(directory), command="pwd").stdout == os.fsencode(f"{directory}\n")


@pytest.mark.parametrize(
    "name, why", [("missing", "there is no directory"), ("file", "there is no directory")]
)
def test_refusal_names_a_missing_directory(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    done = ran(tmp_path, cwd=str(tmp_path / name), command="echo never")
    assert done.stdout == b""
    run = attempt(cwd=str(tmp_path / name))
    assert refusal(started(run), done.returncode, done.stderr) == f"{why} {tmp_path / name}"


@other_users.only_root
@pytest.mark.needs("setpriv")
def test_refusal_names_a_forbidden_directory() -> None:
    with other_users.open_place() as place:
        (place / "closed").mkdir(0o700)
        run = attempt(cwd=str(place / "closed"), command="echo never")
        line = ["setpriv", "--reuid=1", "--clear-groups", *command_line(run)]
        done = subprocess.run(line, capture_output=True, check=False)
        assert done.stdout == b""
        assert (
            refusal(started(run), done.returncode, done.stderr)
            == f"the directory {run.cwd} may not be entered"
        )


@pytest.mark.parametrize("name", ["plain", "a b", "it's", '"', "$HOME", "-P", "é\n", "*", "`id`", ">&2"])
def test_output_files_with_any_name_have_the_streams(tmp_path: Path, name: str) -> None:
    out, err = tmp_path / name, tmp_path / f"{name}.2"
    out.write_text("an earlier attempt")
    command = "echo out; echo err >&2; umask"
    done = ran(tmp_path, stdout=str(out), stderr=str(err), umask=0o27, command=command)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (out.read_text(), err.read_text()) == ("out\n0027\n", "err\n")
    assert err.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "options, files",
    [
        ({"merge": True}, ("abcd", "", "")),
        ({"stdout": "a"}, ("", "bd", "ac")),
        ({"stderr": "a"}, ("ac", "", "bd")),
        ({"stdout": "a", "merge": True}, ("", "", "abcd")),
        ({"stdout": "a", "stderr": "a"}, ("", "", "abcd")),
        ({"stdout": "/dev/null"}, ("", "bd", "")),
    ],
)
@pytest.mark.parametrize("is_script", [False, True])
def test_streams_go_to_pipes_and_files_as_requested(
    tmp_path: Path, options: dict[str, Any], files: tuple[str, str, str], is_script: bool
) -> None:
    given = {name: str(tmp_path / text) if text == "a" else text for name, text in options.items()}
    command = "printf a; printf b >&2; printf c; printf d >&2"
    if is_script:
        given |= script(tmp_path, f"#!/usr/bin/env sh\n{command}\n", 0o700)
    done = ran(tmp_path, **({} if is_script else {"command": command}), **given)
    file = tmp_path / "a"
    assert (done.stdout.decode(), done.stderr.decode(), file.read_text() if file.exists() else "") == files


@pytest.mark.parametrize("name", ["missing/log", "directory", "directory/é\n/x", "it's/x"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_refusal_names_an_output_file_that_cannot_be_opened(tmp_path: Path, name: str, stream: str) -> None:
    (tmp_path / "directory").mkdir()
    path = f"{tmp_path}/{name}"
    options = {"stdout": "/dev/null", stream: path, "cwd": str(tmp_path), "command": "touch never"}
    done = ran(tmp_path, **options)
    assert (done.returncode, done.stdout) == (CANNOT_ENTER, b"")
    assert not (tmp_path / "never").exists()
    said = refusal(started(attempt(**options)), done.returncode, done.stderr)
    assert said is not None
    assert said.startswith(f"its output file {path} cannot be opened: ")
    assert "irectory" in said


def test_refusal_shows_a_reason_of_any_bytes() -> None:
    said = refusal(
        started(attempt(stdout="/log")), CANNOT_ENTER, b"/bin/sh: 1: cannot create /log: \xff" + b"x" * 9000
    )
    assert said == "its output file /log cannot be opened: \ufffd" + "x" * 199


@pytest.mark.parametrize("name, why", [("missing", "is not there"), ("barred", "may not be executed")])
def test_refusal_names_an_interpreter_though_the_streams_are_redirected(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "barred").touch(0o600)
    options = script(tmp_path, f"#!{tmp_path}/{name}\necho never\n", 0o700)
    for redirected in ({"merge": True}, {"stderr": f"{tmp_path}/log"}):
        done = ran(tmp_path, **options, **redirected)
        said = refusal(started(attempt(**options, **redirected)), done.returncode, done.stderr)
        assert said == f"the interpreter {tmp_path}/{name} that its script names {why}"


@pytest.mark.parametrize(
    "options, code, stderr",
    [
        ({"stdout": "/x"}, 127, b"/bin/sh: 1: cannot create /x: Directory nonexistent\n"),
        ({"stdout": "/x"}, 126, b"/bin/sh: 1: cannot create /y: Directory nonexistent\n"),
        (
            {"stdout": "/x", "owner": Owner(1, 1, "/")},
            126,
            b"/bin/sh: 1: cannot create /x: Directory nonexistent\n",
        ),
        ({}, 127, b"/bin/sh: 1: cd: can't cd to /x\n"),
        ({"cwd": "/x"}, 1, b"/bin/sh: 1: cd: can't cd to /x\n"),
        ({"cwd": "/x"}, 127, b"/bin/sh: 1: nothing: not found\n"),
        ({"cwd": "/x"}, 127, b"it said cd: \n"),
        ({"cwd": "/x"}, 127, b""),
        ({"cwd": "/x", "owner": Owner(1, 1, "/")}, 127, b"/bin/sh: 1: cd: can't cd to /x\n"),
        ({**SCRIPT, "interpreter": ("/a",)}, 127, b"/bin/sh: 1: exec: /b: not found\n"),
    ],
)
def test_refusal_is_none_for_a_command_that_was_started(
    options: dict[str, Any], code: int, stderr: bytes
) -> None:
    assert refusal(started(attempt(**options)), code, stderr) is None


@pytest.mark.parametrize("name, why", [("missing", "is not there"), ("barred", "may not be executed")])
def test_refusal_names_an_interpreter_that_cannot_run(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "barred").touch(0o600)
    options = script(tmp_path, f"#!{tmp_path}/{name}\necho never\n", 0o700)
    done = ran(tmp_path, **options)
    assert done.stdout == b""
    said = refusal(started(attempt(**options)), done.returncode, done.stderr)
    assert said == f"the interpreter {tmp_path}/{name} that its script names {why}"


@other_users.only_root
@pytest.mark.needs("unshare", "mount")
def test_script_on_a_noexec_file_system_runs_by_its_interpreter(
    tmp_path: Path,
) -> None:
    options = script(tmp_path, "#!/usr/bin/env python3\nimport os\nprint(6 * 7)\n", 0o700)
    mount = 'mount -t tmpfs -o noexec none "$0"; printf %s "$1" > "$2"; chmod 700 "$2"; shift 2; exec "$@"'
    text = Path(options["script"]).read_text()
    line = ["unshare", "-m", "/bin/sh", "-c", mount, str(tmp_path), text, options["script"]]
    done = subprocess.run([*line, *command_line(attempt(**options))], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"42\n", b"")


def test_job_environment_lacks_the_daemon_s_directory(tmp_path: Path) -> None:
    line = command_line(attempt(cwd=str(tmp_path), command="env"))
    done = subprocess.run(line, env={"PWD": "/daemon"}, cwd="/", capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [f"PWD={tmp_path}"]


def test_missing_home_is_replaced_by_the_root_directory(tmp_path: Path) -> None:
    assert ran(tmp_path, directory=str(tmp_path), command="pwd").stdout == f"{tmp_path}\n".encode()
    done = ran(tmp_path, directory="/nonexistent", command="pwd")
    assert (done.stdout, done.stderr) == (b"/\n", b"")


def test_job_gets_its_own_soft_limit_of_descriptors_and_oom_score(tmp_path: Path) -> None:
    shown = ran(tmp_path, limits=soft_nofile(100), command="ulimit -n; ulimit -Hn").stdout.split()
    assert shown[0] == b"100"
    assert int(shown[1]) > 100
    done = ran(tmp_path, limits=soft_nofile(2**40), command="echo on")
    assert (done.stdout, done.stderr) == (b"on\n", b"")
    score = ran(tmp_path, oom_score_adj=7, command="cat /proc/self/oom_score_adj").stdout
    assert score == b"7\n"


@pytest.mark.parametrize(
    "options, out",
    [
        ({"umask": 0o027, "command": "umask"}, b"0027\n"),
        ({"nice": 3, "command": "nice"}, b"%d\n" % (os.nice(0) + 3)),
        ({"nofile": 17, "command": "ulimit -n; ulimit -H -n"}, b"17\n17\n"),
        ({"memory": 10**9, "command": "ulimit -v; ulimit -H -v"}, b"976562\n976562\n"),
        ({"cpu_time": 9.5, "command": "ulimit -t; ulimit -H -t"}, b"10\n15\n"),
        ({"nofile": 17, "nice": 3, "command": "ulimit -n; nice"}, b"17\n%d\n" % (os.nice(0) + 3)),
        ({"command": "echo $0 $#"}, b"/bin/sh 0\n"),
        ({"command": "echo 'a  b' \"$HOME_X\" \\\\"}, b"a  b  \\\n"),
    ],
)
@pytest.mark.needs("prlimit")
def test_command_runs_with_the_requested_options(tmp_path: Path, options: dict[str, Any], out: bytes) -> None:
    assert ran(tmp_path, **options).stdout == out


@pytest.mark.needs("prlimit")
def test_limit_that_is_refused_ends_the_attempt_before_its_command(tmp_path: Path) -> None:
    done = ran(tmp_path, nofile=2**40, command="echo never")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"NOFILE" in done.stderr


@pytest.mark.parametrize("command", ["--version", "-c", "+x"])
def test_command_is_never_parsed_as_an_option(tmp_path: Path, command: str) -> None:
    done = ran(tmp_path, command=command)
    assert done.returncode == 127
    assert b"not found" in done.stderr


@pytest.mark.parametrize("options", [{}, {"umask": 0o077}, {"cwd": "/", "nice": 1}])
def test_script_runs_by_the_shell_or_its_interpreter(tmp_path: Path, options: dict[str, Any]) -> None:
    shell = script(tmp_path, "cat <<end\nit is $((1+1))\nend\n")
    assert ran(tmp_path, **shell, **options).stdout == b"it is 2\n"
    other = script(tmp_path, "#!/usr/bin/env python3\nprint(6 * 7)\n", 0o700)
    assert ran(tmp_path, **other, **options).stdout == b"42\n"


# As another user.

OWNER = Owner(1000, 100, "/home/ada")
DROP = [
    *("setpriv", "--reuid=1000", "--regid=100", "--init-groups", "--inh-caps=-all", "--ambient-caps=-all"),
    "--",
]
REVEAL_A = launch._REVEAL.format(names="A", prefix=HIDDEN_PREFIX)
HOME = "cd -- /home/ada 2>/dev/null || cd /; " + FORGET

OWNERS_LINES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [*DROP, "/bin/sh", "-c", HOME + "echo hello"]),
    ({"cwd": "/tmp"}, [*DROP, "/bin/sh", "-c", f"cd -- /tmp || exit 126; {FORGET}echo hello"]),
    ({"umask": 0o077}, [*DROP, "/bin/sh", "-c", f"umask 077; {HOME}echo hello"]),
    (
        {"owner": OWNER._replace(home="/a b")},
        [*DROP, "/bin/sh", "-c", f"cd -- '/a b' 2>/dev/null || cd /; {FORGET}echo hello"],
    ),
    # Limits of the machine are set as root, requested ones as the user.
    (
        {"owner": OWNER._replace(limits=("--nofile=1:2", "--cpu=3:4")), "nice": -5, "nofile": 9},
        [
            *("prlimit", "--nofile=1:2", "--cpu=3:4", "--"),
            *DROP,
            *("nice", "-n", "-5", "prlimit", "--nofile=9", "--", "/bin/sh", "-c", HOME + "echo hello"),
        ],
    ),
    (
        {"stdout": "/log", "env": {"A": "1"}, "submitted_variables": ("A",)},
        [
            *(*DROP, "/bin/sh", "-c"),
            HOME + REVEAL_A + "command exec >/log || exit 126; echo hello",
        ],
    ),
    (PROGRAM, [*DROP, "/bin/sh", "-c", HOME + EXEC, *RUN]),
    (SCRIPT, [*DROP, "/bin/sh", "-c", HOME + EXEC, "/bin/sh", "/bin/sh", "/spool/7.script"]),
    # Variables of shells have no prefix.
    ({"submitted_variables": ("IFS", "UID")}, [*DROP, "/bin/sh", "-c", HOME + "echo hello"]),
]


@pytest.mark.parametrize("options, line", OWNERS_LINES)
def test_command_line_of_an_owner_drops_root_first(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], line: list[str]
) -> None:
    monkeypatch.setattr(launch, "find_program", lambda program: program)
    assert command_line(attempt(**{"owner": OWNER, **options})) == line


def test_submitted_variables_are_hidden_from_programs_run_by_root() -> None:
    env = {"PATH": "/bin", "LD_PRELOAD": "/evil.so", "IFS": ":", MARK: "s.7.2"}
    run = attempt(env=env, submitted_variables=("LD_PRELOAD", "IFS"))
    assert process_environment(run) == env, "without an owner, no variable is hidden"
    assert process_environment(replace(run, owner=OWNER)) == {
        "PATH": "/bin",
        HIDDEN_PREFIX + "LD_PRELOAD": "/evil.so",
        "IFS": ":",
        MARK: "s.7.2",
    }


ANY_BYTES = bytes(range(1, 256)).decode("utf-8", "surrogateescape")


def run_as_shell(run: Run) -> "subprocess.CompletedProcess[bytes]":
    """Run the shell part of an owner's command line as the current user."""
    line = command_line(run)
    line = line[line.index("/bin/sh") :]
    env = {os.fsencode(name): os.fsencode(value) for name, value in process_environment(run).items()}
    return subprocess.run(line, env=env, cwd="/", capture_output=True, check=True)


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("options", [{}, SCRIPT])
def test_owner_s_shell_restores_variables_byte_for_byte(tmp_path: Path, options: dict[str, Any]) -> None:
    if options:
        options = script(tmp_path, "exec env -0\n")
    submitted_variables = {
        "A": ANY_BYTES,
        "B": "",
        "C": "  a  'b' \"c\" $HOME `id` $(id) \\ \n\n",
        "_D9": "x",
        "PATH": "/bin:/usr/bin",
        "HOME": "/nonexistent",
        "TASKQ": "x",
        "LD_PRELOAD": "",
        "LANG": "C",
        "PS1": "#",
        "LC_ALL": "C",
        "CDPATH": "/tmp",
        "ENV": "/nonexistent",
    }
    run = attempt(
        **{"command": "exec env -0", **options},
        env={**submitted_variables, "MINE": "1"},
        submitted_variables=tuple(submitted_variables),
        owner=OWNER,
    )
    done = run_as_shell(run)
    shown = dict(each.split(b"=", 1) for each in done.stdout.split(b"\0")[:-1])
    expected = {
        name.encode(): os.fsencode(value) for name, value in {**submitted_variables, "MINE": "1"}.items()
    }
    of_the_shell = {b"PWD", b"SHLVL", b"_"}
    assert {name: value for name, value in shown.items() if name not in of_the_shell} == expected
    assert done.stderr == b""


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("name", sorted(launch._SHELL_VARIABLES))
def test_variables_of_shells_break_no_command(name: str) -> None:
    run = attempt(
        env={name: "1", "A": "2"}, submitted_variables=(name, "A"), owner=OWNER, command='echo "$A" b'
    )
    done = run_as_shell(run)
    assert (done.stdout, done.stderr) == (b"2 b\n", b"")


@pytest.mark.needs("setpriv")
def test_thousands_of_variables_are_restored() -> None:
    env = {f"V{number}": str(number) for number in range(4000)}
    run = attempt(
        env=env, submitted_variables=tuple(env), owner=OWNER, command="echo $V0 $V3999; env | wc -l"
    )
    assert run_as_shell(run).stdout.split()[:2] == [b"0", b"3999"]


def owned(name: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run an attempt of a user of this machine."""
    user = other_users.user(name)
    run = attempt(owner=Owner(user.uid, user.gid, user.home), **options)
    return subprocess.run(
        command_line(run), env=process_environment(run), cwd="/", capture_output=True, check=False
    )


@other_users.only_root
@pytest.mark.needs("setpriv", "prlimit")
@pytest.mark.parametrize("name", other_users.NAMES)
def test_owner_s_process_has_no_right_of_root_and_all_groups(name: str) -> None:
    done = owned(
        name, command="id -u; id -g; id -G; grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs)' /proc/self/status"
    )
    user = other_users.user(name)
    uid, gid, groups, *rights = done.stdout.decode().splitlines()
    assert (int(uid), int(gid)) == (user.uid, user.gid)
    assert {int(each) for each in groups.split()} == set(os.getgrouplist(name, user.gid))
    assert {line.split()[1].strip("0") for line in rights} == {""}
    assert len(rights) == 5


@other_users.only_root
@pytest.mark.needs("setpriv", "prlimit")
def test_requested_limits_cannot_raise_those_of_the_owner() -> None:
    user = other_users.user("games")
    owner = Owner(user.uid, user.gid, user.home, ("--nofile=30:40",))
    run = attempt(owner=owner, nice=-5, command="nice; ulimit -n; ulimit -Hn")
    done = subprocess.run(command_line(run), env={}, cwd="/", capture_output=True, check=False)
    assert done.stdout == b"%d\n30\n40\n" % (os.nice(0) + 0)
    assert b"cannot set niceness" in done.stderr
    done = subprocess.run(
        command_line(attempt(owner=owner, nofile=41)), env={}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"NOFILE" in done.stderr


@other_users.only_root
@pytest.mark.needs("setpriv")
def test_directory_is_entered_with_the_owner_s_rights() -> None:
    with other_users.open_place() as place:
        user = other_users.user("games")
        for name, mode in (("closed", 0o700), ("open", 0o755)):
            (place / name).mkdir(mode)
        theirs = place / "theirs"
        theirs.mkdir(0o700)
        os.chown(theirs, user.uid, user.gid)
        refused = owned("games", cwd=str(place / "closed"), command="echo never")
        assert (refused.returncode, refused.stdout) == (CANNOT_ENTER, b"")
        for directory in (place / "open", theirs):
            assert owned("games", cwd=str(directory), command="pwd").stdout == f"{directory}\n".encode()
        for home, entered in ((str(theirs), str(theirs)), (str(place / "closed"), "/"), ("/nowhere", "/")):
            run = attempt(owner=Owner(user.uid, user.gid, home), command="pwd")
            done = subprocess.run(command_line(run), env={}, cwd=place, capture_output=True, check=False)
            assert (done.stdout, done.stderr) == (f"{entered}\n".encode(), b"")


LOADER = {
    "LD_PRELOAD": "/nonexistent/evil.so",
    "LD_SHOW_AUXV": "1",
    "LD_DEBUG": "files",
}
"""Variables of the dynamic loader that make it print something."""


@other_users.only_root
@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("name", sorted(LOADER))
def test_loader_obeys_submitted_variables_only_as_the_owner(name: str) -> None:
    user = other_users.user("games")
    env = {name: LOADER[name]}
    run = attempt(command=":", env=env, submitted_variables=(name,), owner=Owner(user.uid, user.gid, "/"))

    def printed(environment: Mapping[str, str]) -> bytes:
        done = subprocess.run(command_line(run), env=environment, capture_output=True, check=True)
        return done.stdout + done.stderr

    assert printed(env), "setpriv and the shell obey it without the prefix"
    assert printed(process_environment(run)) == b""
    run = replace(run, command="/bin/true")
    assert printed(process_environment(run)), "programs of the job obey it"


@other_users.only_root
@pytest.mark.needs("setpriv", "strace")
@pytest.mark.parametrize("name, value", [("LANGUAGE", "../../..{place}/x"), ("LANG", "{place}/x")])
def test_root_opens_no_message_catalogue_of_a_submission(name: str, value: str) -> None:
    """Message catalogues are an example: libraries open files by variables that are on no list.

    The x is there since a _ at the end of a name, such as a temporary directory may have, is left out.
    """
    user = other_users.user("games")
    with other_users.open_place() as place:
        env = {"LANG": "C.UTF-8", name: value.format(place=place)}
        run = attempt(command=":", env=env, submitted_variables=(name,), owner=Owner(user.uid, user.gid, "/"))

        def opened(environment: Mapping[str, str]) -> bool:
            trace = ["strace", "-f", "-e", "trace=openat", "-o", str(place / "trace"), *command_line(run)]
            subprocess.run(trace, env=environment, check=True)
            return str(place) in (place / "trace").read_text("latin-1")

        assert opened(env), "setpriv opens it without the prefix"
        assert not opened(process_environment(run))


# The environment.


KEY = AttemptKey(7, 1, "00c0ffee00c0ffee")


def job(**options: Any) -> Job:
    return Job(id=7, command="true", spec=Spec(**options), owner="ada", submitted_at=0.0)


def test_job_environment_has_base_submission_and_identity() -> None:
    made = job_environment(
        {"PATH": "/bin", "HOME": "/"},
        job(env={"A": "1"}),
        KEY._replace(attempt=2),
        "store",
        "/spool/progress/7",
    )
    assert made == {
        "PATH": "/bin",
        "HOME": "/",
        "A": "1",
        "TASKQ_JOB_ID": "7",
        "TASKQ_ATTEMPT": "2",
        "TASKQ_QUEUE": "default",
        "TASKQ_PROGRESS": "/spool/progress/7",
        MARK: "store.7.2.00c0ffee00c0ffee",
    }


def test_job_environment_has_queue_array_and_schedule() -> None:
    task = replace(job(queue="nightly"), array=12, index=0)
    task.schedule = 3
    made = job_environment({}, task, KEY, "s", "p")
    assert made["TASKQ_QUEUE"] == "nightly"
    assert (made["TASKQ_ARRAY_ID"], made["TASKQ_INDEX"], made["TASKQ_SCHEDULE"]) == ("12", "0", "3")


def test_submission_overrides_the_base_but_not_the_identity() -> None:
    made = job_environment(
        {"PATH": "/bin"}, job(env={"PATH": "/mine", "TASKQ_JOB_ID": "9", MARK: "x"}), KEY, "s", "p"
    )
    assert (made["PATH"], made["TASKQ_JOB_ID"], made[MARK]) == ("/mine", "7", "s.7.1.00c0ffee00c0ffee")


def test_value_that_is_not_utf8_reaches_the_job_unchanged() -> None:
    made = job_environment({}, job(env_base64={"RAW": b"\xff\xc3\xa9"}), KEY, "s", "p")
    assert made["RAW"].encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"


def test_secrets_override_the_base_but_not_the_identity() -> None:
    secrets = {"KEY": "x", "PATH": "/mine", "TASKQ_JOB_ID": "9"}
    made = job_environment(
        {"PATH": "/bin"}, job(env={"A": "1"}, secrets=tuple(secrets)), KEY, "s", "p", secrets
    )
    assert (made["A"], made["KEY"], made["PATH"], made["TASKQ_JOB_ID"]) == ("1", "x", "/mine", "7")
