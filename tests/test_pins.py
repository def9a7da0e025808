"""The files of requirements/, and the check that compares them with pyproject.toml."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import pins
from tests.support.pins import FOLDER, PYTHONS, SETS, complaints, header

HASH = " --hash=sha256:" + "0" * 64
PYPROJECT: dict[str, Any] = {
    "build-system": {"requires": ["hatchling>=1.27"]},
    "project": {
        "name": "taskqd",
        "dependencies": ["Twisted>=24.7", "tomli>=2; python_version < '3.11'"],
        "optional-dependencies": {
            "tls": ["twisted[tls]", "cryptography>=43"],
            "test": ["taskqd[tls]", "pytest~=9.0"],
            "lint": [],
            "lock": ["uv>=0.13"],
            "snakemake": ["snakemake>=9; python_version >= '3.11'"],
        },
    },
}


def text_of(name: str, python: str, pinned: str) -> str:
    """Return the text of a set's file with these pins."""
    lines = [f"{pin} \\\n   {HASH} \\\n   {HASH}\n" for pin in pinned.split()]
    return header(name, python, PYPROJECT) + "".join(lines)


def made() -> dict[str, str]:
    """Return valid texts of all files for ``PYPROJECT``, by name."""
    packages = {
        "test": "cryptography==43.0.1 pytest==9.2 twisted==26.10.0",
        "run": "twisted==26.10.0",
        "build": "hatchling==1.27.0 pluggy==1.7.0",
        "lock": "uv==0.13.9",
        "snakemake": "snakemake==9.27.1",
    }
    return {
        f"{name}-{python}.txt": text_of(
            name, python, pinned + " tomli==2.0" * (python == "3.10" and name in {"test", "run"})
        )
        for name, pinned in packages.items()
        for python in PYTHONS
    }


def test_checkout_has_up_to_date_pins(capsys: pytest.CaptureFixture[str]) -> None:
    pins.main(["--check"])
    assert capsys.readouterr().out == ""
    assert {file.name for file in FOLDER.iterdir()} == made().keys()


def test_pins_files_name_no_package_index() -> None:
    for file in FOLDER.iterdir():
        assert "://" not in file.read_text(), file


def test_complaints_are_empty_for_pins_within_their_ranges() -> None:
    assert complaints(PYPROJECT, made()) == []


@pytest.mark.parametrize(
    "file, old, new, complaint",
    [
        (
            "run-3.11.txt",
            "twisted==26.10.0",
            "twisted==24.3.0",
            "pins Twisted 24.3.0, and pyproject.toml requires Twisted>=24.7",
        ),
        ("test-3.14.txt", "pytest==9.2", "pytest==10.0", "pins pytest 10.0, and pyproject.toml requires"),
        ("test-3.11.txt", "cryptography==43.0.1", "other==1", "has no pin of cryptography"),
        ("run-3.10.txt", "tomli==2.0", "other==1", "has no pin of tomli"),
        ("build-3.12.txt", "hatchling", "other", "has no pin of hatchling"),
        ("build-3.12.txt", "digest: ", "digest: 0", "was made from another pyproject.toml"),
        ("run-3.11.txt", "Python 3.11", "Python 3.10", "was made from another pyproject.toml"),
        (
            "build-3.12.txt",
            "pluggy==1.7.0 ",
            "pluggy>=1.7.0 ",
            "has a line that is not a pin with a hash: pluggy>",
        ),
        ("build-3.12.txt", HASH, "", "has a line that is not a pin with a hash: hatchling==1.27.0"),
        ("build-3.12.txt", "pluggy", "--index-url x\npluggy", "is not a pin with a hash: --index-url x"),
        (
            "run-3.13.txt",
            "twisted==26.10.0",
            "twisted==25.5",
            "pins twisted 25.5, and requirements/test-3.13.txt 26.10.0",
        ),
    ],
)
def test_complaints_name_outdated_file_and_reason(file: str, old: str, new: str, complaint: str) -> None:
    files = made()
    assert old in files[file]
    files[file] = files[file].replace(old, new)
    found = complaints(PYPROJECT, files)
    assert all(line.startswith(f"requirements/{file} ") for line in found)
    assert any(complaint in line for line in found), found


def test_complaints_name_files_that_lack_a_new_requirement() -> None:
    changed = {**PYPROJECT, "build-system": {"requires": ["hatchling>=1.27", "editables"]}}
    assert complaints(changed, made()) == [
        line
        for python in PYTHONS
        for line in (
            f"requirements/build-{python}.txt was made from another pyproject.toml",
            f"requirements/build-{python}.txt has no pin of editables",
        )
    ]


def test_complaints_name_missing_and_unknown_files() -> None:
    files = made()
    files["run-3.9.txt"] = files.pop("run-3.12.txt")
    assert complaints(PYPROJECT, files) == [
        "requirements/run-3.9.txt belongs to no set of tests/support/pins.py",
        "requirements/run-3.12.txt is missing",
    ]


def test_check_exits_with_complaints_and_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "FOLDER", tmp_path)
    with pytest.raises(SystemExit) as end:
        pins.main(["--check"])
    text = str(end.value.code)
    assert len(text.splitlines()) == len(PYTHONS) * len(SETS) + 1
    assert text.endswith("requirements/ is out of date; run bin/lock and commit the changes")


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(SystemExit, match="expected nothing, --check or --upgrade, not --chekc"):
        pins.main(["--chekc"])
