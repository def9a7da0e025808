"""Changes and flaws of the token file while the daemon runs and when it starts."""

from typing import Any

import pytest

from taskqd.auth import token_codec
from taskqd.auth.principal import Principal
from taskqd.errors import StartRefused
from taskqd.model.roles import Role
from tests.fakes.clocks import START
from tests.fakes.deferreds import result_of
from tests.support.authenticators import HERE, Site, cheap, refused


def test_token_added_while_running_is_valid_at_once(site: Site) -> None:
    authenticator = site.open()
    assert not authenticator.accepts_remote_clients
    text = site.add()
    assert result_of(authenticator.authenticate(text, HERE)).name == "ci"
    assert authenticator.accepts_remote_clients


def test_token_revoked_while_running_is_refused_at_once(site: Site) -> None:
    text, other = site.add(), site.add("ana")
    authenticator = site.open()
    mine, theirs = (result_of(authenticator.authenticate(each, HERE)) for each in (text, other))
    site.file.revoke("ci")
    assert refused(authenticator, text).startswith("the token is unknown")
    assert not authenticator.is_valid(mine)
    assert authenticator.is_valid(theirs)


@pytest.mark.parametrize(
    "change",
    [{"name": "ben"}, {"role": Role.ADMIN}, {"queue": "q"}, {"expires_at": START}, {"hash": None}],
)
def test_principal_of_changed_entry_is_not_valid(site: Site, change: dict[str, Any]) -> None:
    text = site.add()
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    seen: list[bool] = []
    authenticator.add_observer(lambda: seen.append(authenticator.is_valid(principal)))
    authenticator.start()
    (entry,) = site.file.read()
    if "hash" in change:
        change = {"hash": cheap("another", b"salt" * 4)}
    (site.state / "tokens").write_bytes(token_codec.encode_entries([entry._replace(**change)]))
    site.clock.advance(1)
    assert seen == [False]
    authenticator.stop()


def test_principal_without_token_stays_valid(site: Site) -> None:
    authenticator = site.open()
    assert authenticator.is_valid(Principal("root", Role.ADMIN, uid=0))
    assert authenticator.is_valid(Principal("ana", Role.SUBMIT, HERE))


@pytest.mark.parametrize("flaw", ["mode", "line"])
def test_invalid_token_file_refuses_all_until_it_is_corrected(
    site: Site, flaw: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = site.add()
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    path = site.state / "tokens"
    good = path.read_bytes()
    if flaw == "mode":
        path.chmod(0o644)
    else:
        path.write_bytes(good + b"x\n")
    for _ in range(2):
        assert refused(authenticator, text).startswith("the token is unknown")
    assert not authenticator.is_valid(principal)
    assert caplog.text.count("is invalid, so no token is valid until it is corrected: ") == 1
    path.chmod(0o600)
    path.write_bytes(good)
    assert result_of(authenticator.authenticate(text, HERE)) == principal
    assert authenticator.is_valid(principal)


def test_unreadable_token_file_keeps_the_known_tokens(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = site.add()
    authenticator = site.open()
    result_of(authenticator.authenticate(text, HERE))
    other = site.add("ana")

    def fail() -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(site.file, "read", fail)
        for _ in range(2):
            refused(authenticator, other)
        assert result_of(authenticator.authenticate(text, HERE)).name == "ci"
    assert (
        caplog.text.count(
            "cannot be read, so the tokens known before stay valid: [Errno 24] Too many open files"
        )
        == 1
    )
    assert result_of(authenticator.authenticate(other, HERE)).name == "ana"


def test_removed_token_file_refuses_all(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    (site.state / "tokens").unlink()
    refused(authenticator, text)
    assert not authenticator.is_valid(principal)


# The start.


def test_token_of_older_version_is_imported_as_admin(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    (site.state / "token").write_text("sesame\n")
    (site.state / "token").chmod(0o600)
    authenticator = site.open()
    assert "may be removed once no client" in caplog.text
    assert "sesame" not in caplog.text
    found = result_of(authenticator.authenticate("sesame", HERE))
    assert (found.name, found.role) == ("token", Role.ADMIN)
    assert refused(authenticator, "sesam") == refused(authenticator, "0123abcd.x")


@pytest.mark.parametrize("name", ["tokens", "token"])
def test_token_file_readable_by_others_refuses_the_start(site: Site, name: str) -> None:
    (site.state / name).write_text("sesame")
    (site.state / name).chmod(0o640)
    with pytest.raises(StartRefused, match=f"chmod 600 {site.state}/{name}"):
        site.open()


def test_unreadable_token_file_refuses_the_start(site: Site) -> None:
    (site.state / "tokens").symlink_to("/etc/passwd")
    with pytest.raises(StartRefused, match=f"the tokens in {site.state}/tokens cannot be read: "):
        site.open()
