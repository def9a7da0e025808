"""The roles and names of principals."""

import pytest

from taskqd.auth import tokens
from taskqd.auth.principal import IPrincipal, Principal
from taskqd.auth.realm import NoRole, Realm
from taskqd.model.roles import Role
from tests.support.authenticators import DAEMON, HERE, Site


def realm_of(site: Site, roles: dict[str, Role]) -> Realm:
    """Return a realm that knows the tokens of the site."""
    site.registry.open()
    return Realm(site.registry, roles, DAEMON)


def test_realm_has_avatars_only_for_iprincipal(site: Site) -> None:
    realm = realm_of(site, {})
    with pytest.raises(NotImplementedError):
        realm.requestAvatar(b"uid:0", None)
    interface, principal, leave = realm.requestAvatar(b"uid:0", None, IPrincipal)
    assert interface is IPrincipal
    assert principal == Principal("root", Role.ADMIN, uid=0)
    leave()


def test_user_of_plugin_cannot_pass_for_another_kind(site: Site) -> None:
    text = site.add("ana", Role.ADMIN)
    realm = realm_of(site, {"*": Role.READ})
    for name in ("uid:0", f"token:{tokens.parse_token_id(text)}"):
        _, principal, _ = realm.requestAvatar(f"name:{name}".encode(), None, IPrincipal)
        assert principal == Principal(name, Role.READ)


@pytest.mark.parametrize(
    "name, roles, role",
    [
        ("ana", {"ana": Role.ADMIN, "*": Role.READ}, Role.ADMIN),
        ("ben", {"ana": Role.ADMIN, "*": Role.READ}, Role.READ),
        ("ben", {"ana": Role.ADMIN}, None),
        ("", {"*": Role.READ}, None),
        ("two words", {"*": Role.READ}, None),
        ("x\r\nOK", {"*": Role.READ}, None),
        ("*", {"*": Role.READ}, None),
    ],
)
def test_name_has_the_role_of_the_settings(
    site: Site, name: str, roles: dict[str, Role], role: Role | None
) -> None:
    realm = realm_of(site, roles)
    if role is None:
        with pytest.raises(NoRole):
            realm.requestAvatar(b"name:" + name.encode(), None, IPrincipal)
    else:
        found = realm.requestAvatar(b"name:" + name.encode(), HERE, IPrincipal)
        assert found == (IPrincipal, Principal(name, role, HERE), found[2])
