"""A state directory with tokens whose hashes are cheap."""

from pathlib import Path

import pytest

from taskqd.auth import token_codec, tokens
from tests.support.authenticators import Site, cheap


@pytest.fixture(name="site")
def a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(tokens, "hash_token", cheap)
    monkeypatch.setattr(token_codec, "_MIN_COST", (1, 1, 1))
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return Site(state)
