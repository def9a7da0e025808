"""The console script ``taskqd``."""

import sys

import pytest
from twisted.scripts import twistd

from taskqd import __version__
from taskqd.daemon import foreground
from taskqd.daemon.tap import Options


@pytest.fixture(name="run")
def a_run(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return what restores the class and sys.argv after ``main`` has changed them."""
    monkeypatch.setattr(Options, "command", Options.command)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return monkeypatch


def exit_text(run: pytest.MonkeyPatch, *words: str) -> object:
    """Return what ``taskqd`` with these words exits with."""
    run.setattr(sys, "argv", ["/bin/taskqd", *words])
    with pytest.raises(SystemExit) as end:
        foreground.main()
    return end.value.code


def test_arguments_of_taskqd_are_those_of_the_plugin(run: pytest.MonkeyPatch) -> None:
    calls = []
    run.setattr(twistd, "run", lambda: calls.append(sys.argv[1:]))
    run.setattr(sys, "argv", ["/bin/taskqd", "--state", "/srv/x", "--slots", "4"])
    foreground.main()
    assert calls == [["--nodaemon", "--pidfile=", "taskq", "--state", "/srv/x", "--slots", "4"]]


@pytest.mark.parametrize(
    "words, text",
    [
        (("--bogus",), "taskqd: option --bogus not recognized; see taskqd --help"),
        (("--slots", "0"), "taskqd: slots must be a whole number from 1 to 10000, not 0"),
    ],
)
def test_wrong_option_ends_taskqd_with_one_line(
    run: pytest.MonkeyPatch, words: tuple[str, ...], text: str
) -> None:
    assert exit_text(run, *words) == text


def test_help_and_version_name_taskqd(run: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_text(run, "--version") == 0
    assert capsys.readouterr().out == f"taskqd {__version__}\n"
    assert exit_text(run, "--help") == 0
    assert capsys.readouterr().out.startswith("Usage: taskqd [options]\n")


def test_help_of_the_plugin_names_twistd() -> None:
    assert Options().getSynopsis() == "Usage: twistd [options] taskq [options]"
