"""An upgrade while jobs run: the daemon and its runner lose the files of their installation."""

import shutil
from pathlib import Path

import pytest

from taskqd import __version__
from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import CHECKOUT
from tests.end_to_end.wire import until

OLD_RELEASE = "0.0.1"


@pytest.fixture
def old_installation(tmp_path: Path) -> Path:
    """Return a copy of the installation that has another release."""
    place = tmp_path / "old"
    for package in ("taskqd", "twisted"):
        shutil.copytree(CHECKOUT / package, place / package)
    init = place / "taskqd" / "__init__.py"
    text = init.read_text()
    assert __version__ in text
    init.write_text(text.replace(__version__, OLD_RELEASE))
    return place


def test_job_goes_on_when_its_installation_is_removed_and_another_release_starts(
    daemon: DaemonFactory, old_installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    one = daemon(start=False)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(old_installation))
        one.start()
    wire = one.connect()
    job = wire.submit(f"echo begin; until [ -e {gate} ]; do sleep 0.02; done; echo end; exit 7")
    wire.wait_running(job)
    locked = (one.state / "runner" / "lock").read_text()
    one.kill()
    shutil.rmtree(old_installation)
    one.start()
    wire = one.connect()
    assert wire.ask(f"STATUS {job}") == "STATUS RUNNING 0"
    gate.touch()
    assert wire.wait(job) == "FAILED"
    assert wire.result(job) == (b"begin\nend\n", b"", "7")
    assert (one.state / "runner" / "errors").read_text().count("Traceback") == 0
    until(lambda: (one.state / "runner" / "lock").read_text() != locked, "a runner of this release")
    assert wire.wait(wire.submit("true")) == "COMPLETED"
