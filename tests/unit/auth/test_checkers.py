"""The checker of tokens: right, wrong, expired and revoked ones, and how many hashes it computes."""

import pytest

from taskqd.auth import tokens
from taskqd.errors import AuthFailed
from tests.fakes.deferreds import error_of, result_of
from tests.support.authenticators import HERE, Site, refused

UNKNOWN = "the token is unknown; ask the server's operator for one (`taskq token add`)"


@pytest.mark.parametrize("change", ["cut", "longer", "other id", "no id", "upper"])
def test_wrong_token_is_refused_without_revealing_the_right_one(site: Site, change: str) -> None:
    text = site.add()
    identity, _, secret = text.partition(".")
    changed = {
        "cut": text[:-1],
        "longer": text + "x",
        "other id": f"0{identity}.{secret}",
        "no id": secret,
        "upper": f"{identity}.{secret.swapcase()}",
    }
    why = refused(site.open(), changed[change])
    assert why == UNKNOWN


@pytest.mark.parametrize(
    "text", ["", "é", "x" * 60_000, "0123abcd.", "ana:secret", "\udcff", "0123abcd.\udcff"]
)
def test_text_that_is_no_token_is_refused(site: Site, text: str) -> None:
    site.add()
    assert refused(site.open(), text).startswith("the token is unknown")


def test_authenticate_computes_one_slow_hash_with_or_without_entry(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    for number, each in enumerate((text, f"{tokens.parse_token_id(text)}.x", "0123abcd.x", "x", ""), 1):
        authenticator.authenticate(each, HERE).addErrback(lambda _: None)
        assert site.hashed[-1] == each
        assert len(site.hashed) == number


def test_token_that_matched_needs_no_hash_the_next_time(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    first = result_of(authenticator.authenticate(text, HERE))
    assert result_of(authenticator.authenticate(text, "10.0.0.6:1"))._replace(origin=HERE) == first
    assert site.hashed == [text]
    refused(authenticator, text + "x")
    assert len(site.hashed) == 2


def test_token_is_valid_until_it_expires(site: Site) -> None:
    text = site.add(expires_in=10)
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    site.clock.advance(9.9)
    assert authenticator.is_valid(principal)
    result_of(authenticator.authenticate(text, HERE))
    site.clock.advance(0.1)
    assert not authenticator.is_valid(principal)
    assert refused(authenticator, text).startswith("the token has expired; ")
    assert refused(authenticator, text + "x").startswith("the token is unknown")


def test_token_revoked_during_its_check_is_refused(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    site.is_ready = False
    asked = authenticator.authenticate(text, HERE)
    site.file.revoke("ci")
    authenticator.start()
    site.clock.advance(1)
    authenticator.stop()
    site.threads.run()
    assert isinstance(error_of(asked), AuthFailed)
