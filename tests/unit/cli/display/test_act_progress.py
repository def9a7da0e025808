"""The progress bar of acts on many jobs."""

import io

import pytest

from taskqd.cli.display import act_progress
from taskqd.cli.display.act_progress import ActProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def replace_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; not in a fixture, since pytest sets it again before the test."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def test_bar_shows_the_counts_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = replace_stderr(monkeypatch)
    with ActProgress("cancelled", is_patient=True) as progress:
        progress.update(1000, 2500)
    assert "1,000 of 2,500 jobs cancelled" in stderr.getvalue()


def test_bar_appears_only_if_the_act_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = replace_stderr(monkeypatch)
    monkeypatch.setattr(act_progress, "MIN_DURATION", 1000.0)
    with ActProgress("cancelled") as progress:
        progress.update(1, 2)
    assert stderr.getvalue() == ""


def test_bar_is_not_shown_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with ActProgress("cancelled", is_patient=True) as progress:
        progress.update(1, 2)
    assert not progress.is_shown
    assert capsys.readouterr().err == ""
