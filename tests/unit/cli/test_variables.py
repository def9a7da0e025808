"""The variables of --env and --env-file, and the environment that --inherit-env passes on."""

import os
from pathlib import Path

import pytest

from taskqd.cli.variables import MAX_FILE_BYTES, parse_line, parse_variable, read_variables
from taskqd.errors import BadRequest
from tests.fakes.daemon import FakeDaemon, Script, job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import SUBMITTED

HELLO = b'TASKQ 1 {"version":"0.10.0","options":["--environment"]}\r\n'


@pytest.mark.parametrize(
    "line, variables",
    [
        ("", {}),
        (" \t\r", {}),
        ("# A=1", {}),
        ("  #", {}),
        ("A=1", {"A": "1"}),
        (" A = 1 2 # 3 \r", {"A": "1 2 # 3"}),
        ("A=", {"A": ""}),
        ("A=b=c", {"A": "b=c"}),
        ('A=it\'s "b" $HOME \\n', {"A": 'it\'s "b" $HOME \\n'}),
        ("A='  $x \\n \"# '", {"A": '  $x \\n "# '}),
        ("A=''", {"A": ""}),
        (r'A=" \"a\" \\ \$b \` \n\r\t "', {"A": ' "a" \\ $b ` \n\r\t '}),
        ('A="it\'s"', {"A": "it's"}),
        ("A=\udcff\xe9", {"A": "\udcff\xe9"}),
        ("COPIED", {"COPIED": "mine \udcff"}),
    ],
)
def test_line_of_a_file_is_a_variable(
    monkeypatch: pytest.MonkeyPatch, line: str, variables: dict[str, str]
) -> None:
    monkeypatch.setenv("COPIED", "mine \udcff")
    assert parse_line(line) == variables


@pytest.mark.parametrize(
    "line, part",
    [
        ("export A=hunter2", "expected NAME=VALUE or NAME"),
        ("a.b=hunter2", "expected NAME=VALUE or NAME"),
        ("=hunter2", "expected NAME=VALUE or NAME"),
        ("\xe9=hunter2", "expected NAME=VALUE or NAME"),
        ("A='hunter2", "expected a second ' at the end"),
        ("A=\"hunter2' ", 'expected a second " at the end'),
        ("A='hunter2' x", "expected a second ' at the end"),
        ("A='", "expected a second ' at the end"),
        (r'A="hunter2\x"', r"after a \ in double quotes there must be one of"),
        ('A="hunter2\\', r"after a \ in double quotes there must be one of"),
        ("NO_SUCH", "'NO_SUCH' is not in your environment"),
    ],
)
def test_mistake_in_a_line_is_named_without_the_value(line: str, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_line(line)
    assert part in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_variable_is_given_or_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPIED", "")
    assert [parse_variable(text) for text in ("COPIED", "A=x=y", "B=")] == [
        *(("COPIED", ""), ("A", "x=y"), ("B", ""))
    ]


def test_mistake_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "vars"
    path.write_bytes(b"A=1\n\nB='\n")
    with pytest.raises(BadRequest, match=f"{path}, line 3: expected a second '"):
        read_variables(str(path))
    with pytest.raises(BadRequest, match=r"cannot read .*: Is a directory"):
        read_variables(str(tmp_path))
    path.write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(BadRequest, match=f"has more than {MAX_FILE_BYTES} bytes"):
        read_variables(str(path))


def variables_of(daemon: FakeDaemon) -> list[str]:
    """Return the variables that a request sets, but for PATH."""
    (request,) = [each for each in daemon.requests if each.verb in ("SUBMIT", "SCHEDULE")]
    words = request.line.split(" --env=")[1:]
    return [word.split(" ")[0] for word in words if not word.startswith("PATH=")]


@pytest.mark.parametrize("words", [("submit",), ("schedule", "--every", "1h"), ("schedule", "--set", "3")])
def test_env_takes_precedence_over_files_and_the_last_file_over_others(
    serve: Serve, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MINE", "yes")
    (tmp_path / "one").write_text("A=1\nB=1\nC=1\n")
    (tmp_path / "two").write_text("B=2\nC=2\n")
    daemon = serve(replies({"SUBMIT": SUBMITTED, "SCHEDULE": b"OK 3\r\n"}))
    given = ("--env-file", "one", "--env-file=two", "-e", "C=3", "--env", "MINE")
    assert call(*words, *given, "x").code == 0
    assert variables_of(daemon) == ["A=1", "B=2", "C=3", "MINE=yes"]


@pytest.mark.parametrize(
    "words, part",
    [
        (("--env", "NO_SUCH"), "'NO_SUCH' is not in your environment; export it, or give NAME=VALUE"),
        (("--env-file", "none"), "cannot read none: No such file or directory"),
        (("--env-file", "vars", "--secret", "A"), "A is set twice by --env, --env-file"),
    ],
)
def test_mistake_in_variables_is_a_usage_error(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], part: str
) -> None:
    monkeypatch.setenv("A", "1")
    (tmp_path / "vars").write_text("A=1")
    outcome = call("submit", *words, "x")
    assert outcome.code == 2
    assert part in outcome.stderr


# The whole environment.


def inherited(daemon: FakeDaemon) -> list[bytes]:
    """Return the variables of the only block that was sent, none if there was none."""
    blocks = [block for request in daemon.requests for block in request.blocks]
    return blocks[0].split(b"\0")[:-1] if blocks else []


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the user's settings; the environment has few variables."""
    for name in set(os.environ) - {"PATH", "XDG_CONFIG_HOME", "TASKQ_ADDRESS", "PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MINE", "yes")
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    path = tmp_path / "config" / "taskqd" / "client.toml"
    path.parent.mkdir(parents=True)
    return path


SCRIPT = replies(
    {
        "HELLO": HELLO,
        "SUBMIT": SUBMITTED,
        "SCHEDULE": b"OK 3\r\n",
        "FOLLOW": b"STATUS COMPLETED 100\r\n",
        "SHOW": job(),
    }
)


@pytest.mark.parametrize(
    "content, words, is_sent",
    [
        ("", ("submit", "x"), False),
        ("", ("submit", "--inherit-env", "x"), True),
        ("", ("run", "-n", "--inherit-env", "x"), True),
        ("inherit-env = true", ("submit", "x"), True),
        ("inherit-env = true", ("run", "-n", "x"), True),
        ("inherit-env = true", ("submit", "--no-inherit-env", "x"), False),
        ("inherit-env = true", ("schedule", "--every", "1h", "x"), False),
        ("inherit-env = false", ("submit", "x"), False),
        ("[options]\ninherit-env = true", ("submit", "x"), True),
        ("[options]\ninherit-env = true", ("schedule", "--every", "1h", "x"), False),
    ],
)
def test_environment_is_passed_on_if_the_user_wants_that(
    serve: Serve, call: Call, settings: Path, content: str, words: tuple[str, ...], is_sent: bool
) -> None:
    settings.write_text(content)
    daemon = serve(SCRIPT)
    assert call(*words).code == 0
    assert (b"MINE=yes" in inherited(daemon)) is is_sent
    assert not any(b"hunter2" in each for each in inherited(daemon))


def test_secret_variable_is_passed_on_if_it_is_named(serve: Serve, call: Call, settings: Path) -> None:
    daemon = serve(SCRIPT)
    assert call("submit", "--inherit-env", "--env", "MY_TOKEN", "x").code == 0
    assert variables_of(daemon) == ["MY_TOKEN=hunter2"]
    assert b"MINE=yes" in inherited(daemon)


def test_lines_of_a_file_share_one_block(serve: Serve, call: Call, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a\nb\nc\n")
    daemon = serve(SCRIPT)
    assert call("submit", "--inherit-env", "--from-file", "jobs").code == 0
    assert [len(request.blocks) for request in daemon.requests] == [0, 1, 0, 0]


OLD: Script = replies({"HELLO": b'TASKQ 1 {"version":"0.9.0","options":[]}\r\n', "SUBMIT": SUBMITTED})


@pytest.mark.parametrize("is_remote", [False, True])
def test_environment_is_not_sent_elsewhere_and_taskq_says_so(
    serve: Serve, call: Call, settings: Path, is_remote: bool
) -> None:
    daemon, reason = serve(OLD), "the daemon is release 0.9.0, and an environment needs 0.10 or later"
    if is_remote:
        daemon, reason = FakeDaemon(OLD), "the environment is sent only to a daemon on this machine"
    with daemon:
        outcome = call("submit", "--address", daemon.address, "--inherit-env", "x")
        assert outcome.code == 2
        assert f"taskq: --inherit-env: {reason}" in outcome.stderr
        assert "; name what the job needs by --env" in outcome.stderr
        settings.write_text("inherit-env = true")
        outcome = call("submit", "--address", daemon.address, "x")
        assert (outcome.code, outcome.stdout) == (0, b"7\n")
        assert outcome.stderr.startswith(
            "taskq: your environment is not passed on, though inherit-env is set"
        )
        assert reason in outcome.stderr
        assert inherited(daemon) == []
