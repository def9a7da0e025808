"""Principals and the names of users."""

from taskqd.auth.principal import IPrincipal, Principal, user_name
from taskqd.model.actor import Actor
from taskqd.model.roles import Role
from tests.support.authenticators import HERE

UNNAMED = 4_000_000
"""A uid that has no name."""


def test_principal_is_an_avatar_and_has_an_actor() -> None:
    ana = Principal("ana", Role.READ, HERE)
    assert IPrincipal.providedBy(ana)
    assert ana.actor == Actor("ana", HERE)


def test_user_name_of_unknown_uid_is_its_number() -> None:
    assert user_name(0) == "root"
    assert user_name(UNNAMED) == str(UNNAMED)
