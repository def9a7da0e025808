from pathlib import Path

import pytest

from taskqd.errors import Forbidden
from taskqd.model.roles import PERMISSIONS, Permission, Role, check_owner, check_verb, sees_all
from taskqd.protocol import verbs
from tests.support.roles_table import BEGIN, END, table

CHANGES = (Permission.MODIFY, Permission.SUBMIT)


def test_every_verb_has_its_need_and_there_is_none_for_another() -> None:
    assert set(PERMISSIONS) == set(verbs.VERBS)


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_an_admin_may_use_every_verb_on_everything(verb: str) -> None:
    check_verb(verb, Role.ADMIN)
    check_owner(verb, Role.ADMIN, "root", "ann", "job 1")


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_who_submits_may_use_all_that_does_not_rule_the_daemon(verb: str) -> None:
    if PERMISSIONS[verb] is Permission.ADMIN:
        with pytest.raises(Forbidden, match=f"{verb} is for admins, and you are here with the role submit"):
            check_verb(verb, Role.SUBMIT)
    else:
        check_verb(verb, Role.SUBMIT)


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_who_reads_may_use_what_changes_nothing(verb: str) -> None:
    if PERMISSIONS[verb] in (*CHANGES, Permission.ADMIN):
        with pytest.raises(Forbidden, match=verb):
            check_verb(verb, Role.READ)
    else:
        check_verb(verb, Role.READ)


@pytest.mark.parametrize(
    "verb", [verb for verb, need in PERMISSIONS.items() if need in (Permission.VIEW, Permission.KNOWN)]
)
def test_who_reads_sees_everybody_s_and_who_submits_their_own(verb: str) -> None:
    check_owner(verb, Role.READ, "eve", "ann", "job 1")
    check_owner(verb, Role.SUBMIT, "ann", "ann", "job 1")
    with pytest.raises(Forbidden, match=f"job 1 is somebody else's, and {verb} takes one of your own"):
        check_owner(verb, Role.SUBMIT, "bob", "ann", "job 1")


@pytest.mark.parametrize("verb", [verb for verb, need in PERMISSIONS.items() if need in CHANGES])
def test_nobody_but_an_admin_changes_what_is_another_s(verb: str) -> None:
    check_owner(verb, Role.SUBMIT, "ann", "ann", "job 1")
    for role in (Role.SUBMIT, Role.READ):
        with pytest.raises(Forbidden, match="job 1 is somebody else's"):
            check_owner(verb, role, "bob", "ann", "job 1")


def test_all_but_who_submits_see_all() -> None:
    assert [role for role in Role if sees_all(role)] == [Role.ADMIN, Role.READ]


def test_the_table_in_the_documents_is_this_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table()
