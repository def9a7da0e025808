from pathlib import Path

import pytest

from taskqd.errors import Forbidden
from taskqd.model.roles import Permission, Role, check_owner, check_verb, sees_all
from tests.support.roles_table import BEGIN, END, table

CHANGES = (Permission.MODIFY, Permission.OWN, Permission.SUBMIT)
VIEWS = (Permission.VIEW, Permission.KNOWN)


@pytest.mark.parametrize("permission", Permission)
def test_admin_may_use_every_verb_on_everything_but_those_for_owners(permission: Permission) -> None:
    check_verb("X", permission, Role.ADMIN)
    check_owner("X", permission, Role.ADMIN, "root", "root", "job 1")
    if permission is Permission.OWN:
        with pytest.raises(Forbidden, match=r"job 1 belongs to another user, who alone may X; you \(root\)"):
            check_owner("X", permission, Role.ADMIN, "root", "ann", "job 1")
    else:
        check_owner("X", permission, Role.ADMIN, "root", "ann", "job 1")


@pytest.mark.parametrize("permission", Permission)
def test_submit_may_use_every_verb_but_those_for_admins(permission: Permission) -> None:
    if permission is Permission.ADMIN:
        with pytest.raises(Forbidden, match="X needs the role admin, and you have the role submit"):
            check_verb("X", permission, Role.SUBMIT)
    else:
        check_verb("X", permission, Role.SUBMIT)


@pytest.mark.parametrize("permission", Permission)
def test_read_may_use_verbs_that_change_nothing(permission: Permission) -> None:
    if permission in (*CHANGES, Permission.ADMIN):
        with pytest.raises(Forbidden, match="permission denied: X needs the role"):
            check_verb("X", permission, Role.READ)
    else:
        check_verb("X", permission, Role.READ)


@pytest.mark.parametrize("permission", VIEWS)
def test_view_of_a_job_of_another_user_is_refused_only_to_submit(permission: Permission) -> None:
    check_owner("X", permission, Role.READ, "eve", "ann", "job 1")
    check_owner("X", permission, Role.SUBMIT, "ann", "ann", "job 1")
    with pytest.raises(Forbidden, match=r"job 1 belongs to another user; you \(bob\) may X only"):
        check_owner("X", permission, Role.SUBMIT, "bob", "ann", "job 1")


@pytest.mark.parametrize("permission", CHANGES)
def test_change_of_a_job_of_another_user_is_refused_to_all_but_admins(permission: Permission) -> None:
    check_owner("X", permission, Role.SUBMIT, "ann", "ann", "schedule 1")
    for role in (Role.SUBMIT, Role.READ):
        with pytest.raises(Forbidden, match=r"schedule 1 belongs to .* may X only your own schedules"):
            check_owner("X", permission, role, "bob", "ann", "schedule 1")


def test_admin_and_read_see_all_jobs() -> None:
    assert [role for role in Role if sees_all(role)] == [Role.ADMIN, Role.READ]


def test_table_in_the_documents_is_that_of_the_verbs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table()
