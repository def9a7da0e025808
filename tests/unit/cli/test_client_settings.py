"""The user's settings for ``taskq``."""

from pathlib import Path

import pytest

from taskqd.cli.client_settings import settings_path
from tests.fakes.daemon import FakeDaemon, job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import PLAIN, SUBMITTED

EVERYTHING = """\
queue = "nightly"

[options]
timeout = "1h30m"
retries = 2
notify-fail = true
env = ["A=1"]

[aliases]
again = "retry --cascade"
fails = "list --failed --label 'a b'"
list = "stats"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "taskqd" / "client.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    "environ, path",
    [
        ({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/taskqd/client.toml"),
        ({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/taskqd/client.toml"),
        ({"HOME": "/h"}, "/h/.config/taskqd/client.toml"),
    ],
)
def test_file_is_in_the_directory_of_settings(environ: dict[str, str], path: str) -> None:
    assert settings_path(environ) == path


def test_options_are_defaults_of_submissions(serve: Serve, call: Call, settings: Path) -> None:
    settings.write_text(EVERYTHING)
    daemon = serve(replies({"SUBMIT": SUBMITTED}))
    plain = [word for word in PLAIN if word not in ("--env", "PATH=/bin")]
    assert call("submit", *plain, "--retries", "5", "x").code == 0
    (line,) = daemon.lines
    assert set(line.split(" ")) >= {
        "--queue=nightly",
        "--notify-fail",
        "--timeout=5400",
        "--retries=5",
        "--env=A=1",
    }


def test_alias_is_its_words_and_never_replaces_a_command(serve: Serve, call: Call, settings: Path) -> None:
    settings.write_text(EVERYTHING)
    table = {"RETRY": SUBMITTED, "LIST": job() + b"END 1\r\n", "SHOW": job()}
    daemon = serve(replies(table))
    assert call("again", "7").code == 0
    assert call("fails").code == 0
    assert call("list", "--all").code == 0
    requests = [line for line in daemon.lines if not line.startswith("SHOW")]
    assert requests == [
        "RETRY 7 --cascade",
        'LIST --label="a b" --status=FAILED --limit=1000',
        "LIST --limit=1000",
    ]


def test_address_is_used_unless_another_is_given(
    call: Call, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeDaemon(replies({"SHOW": job(status="RUNNING")}), tmp_path) as daemon:
        settings.write_text(f'address = "{daemon.address}"\n')
        assert call("status", "7").stdout == b"RUNNING\n"
        monkeypatch.setenv("TASKQ_ADDRESS", f"unix:{tmp_path}/other")
        assert "other" in call("--address", f"unix:{tmp_path}/another", "status", "7").stderr.replace(
            "an", ""
        )
        assert f"{tmp_path}/other" in call("status", "7").stderr


@pytest.mark.parametrize(
    "content, expected",
    [
        ("x = ", "is not TOML"),
        ("colour = 1", "unknown key colour; the keys are address, queue, inherit-env, options, aliases"),
        ("address = 5", "address must be a text"),
        ("options = 5", "options must be a table"),
        ("inherit-env = 'yes'", "inherit-env must be true or false"),
        ("[aliases]\nx = 5", "the alias x must be a text"),
        ("[options]\ntimeout = {}", "the option timeout must be a text"),
        ("[options]\nenv = [1]", "the option env must be a text"),
        ("[options]\ntimeuot = 5", "unknown option timeuot in [options]"),
        ('[options]\ntimeout = "soon"', "expected a duration such as"),
    ],
)
def test_mistake_in_the_file_is_a_usage_error(
    call: Call, settings: Path, content: str, expected: str
) -> None:
    settings.write_text(content)
    outcome = call("submit", "x")
    assert outcome.code == 2
    assert expected in outcome.stderr


def test_file_that_cannot_be_read_is_a_usage_error(call: Call, settings: Path) -> None:
    settings.mkdir()
    outcome = call("status", "7")
    assert (outcome.code, outcome.stderr) == (2, f"taskq: {settings} cannot be read: Is a directory\n")
