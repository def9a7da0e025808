"""A spool on a fake file system."""

from pathlib import Path

import pytest

from tests.unit.storage.spool.samples import Bench


@pytest.fixture(name="bench")
def make_bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
