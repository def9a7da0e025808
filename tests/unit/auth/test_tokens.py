"""Tokens and their entries."""

from typing import Any

import pytest

from taskqd.auth import token_codec, tokens
from taskqd.auth.tokens import COST, RANDOMNESS, Cost, Entry, Hash
from taskqd.errors import BadRequest
from taskqd.model.roles import Role
from tests.fakes.clocks import START

CHANCE = bytes(range(RANDOMNESS))
CHEAP = Cost(4, 1, 1)


def made(name: str = "ci", role: Role = Role.SUBMIT, **more: Any) -> tuple[Entry, str]:
    return tokens.make_token(name, role, more.get("queue"), START, more.get("expires_at"), CHANCE)


def entry(name: str = "ci", role: Role = Role.SUBMIT, **more: Any) -> Entry:
    """Return an entry with a hash that no token has."""
    fields = {"id": "0123abcd", "queue": None, "made_at": START, "expires_at": None}
    return Entry(**{**fields, "hash": Hash(COST, b"s" * 16, b"d" * 32), "name": name, "role": role, **more})


# Making and matching.


def test_make_token_returns_id_and_secret() -> None:
    found, text = made()
    assert found.id == CHANCE[:4].hex()
    assert text.startswith(f"{found.id}.")
    assert len(text) == 8 + 1 + 43
    assert (found.name, found.role, found.queue, found.made_at) == ("ci", Role.SUBMIT, None, START)
    assert not found.is_bare


def test_matches_only_the_entry_of_the_token() -> None:
    found, text = made()
    assert tokens.matches(found, text)
    for wrong in (
        text[:-1],
        text + "x",
        text.upper(),
        text.partition(".")[2],
        "",
        "é",
        "\udcff",
        "x" * 65_000,
    ):
        assert not tokens.matches(found, wrong)


def test_entry_contains_no_secret_and_a_salted_hash() -> None:
    found, text = made()
    written = token_codec.encode_entries([found])
    assert text.encode() not in written
    assert text.partition(".")[2].encode() not in written
    other = tokens.hash_token(text, b"another salt....")
    assert other.digest != found.hash.digest
    assert found.hash.cost == Cost(14, 8, 1)


def test_make_token_depends_on_randomness() -> None:
    first, second = (
        tokens.make_token("ci", Role.READ, None, START, None, bytes([n]) * RANDOMNESS) for n in (1, 2)
    )
    assert first[1] != second[1]
    assert first[0].hash.salt != second[0].hash.salt


@pytest.mark.parametrize(
    "text, found",
    [
        ("0123abcd.x", "0123abcd"),
        ("0123abcd0.x.y", "0123abcd0"),
        ("f" * 64 + ".x", "f" * 64),
        ("0123abcd.", None),
        ("0123abc.x", None),
        ("0123ABCD.x", None),
        ("f" * 65 + ".x", None),
        ("0123abcd", None),
        (" 0123abcd.x", None),
        ("ana:0123abcd.x", None),
        ("", None),
    ],
)
def test_parse_token_id_returns_the_id(text: str, found: str | None) -> None:
    assert tokens.parse_token_id(text) == found


@pytest.mark.parametrize(
    "fields, why",
    [
        ({"name": ""}, "a token's name has"),
        ({"name": "two words"}, "not 'two words'"),
        ({"name": "x" * 201}, "x...'"),
        ({"name": "0123abcd"}, "does not look like an id"),
        ({"role": Role.ADMIN, "queue": "q"}, "cannot be restricted to a queue"),
        ({"queue": "two words"}, "a queue's name has"),
        ({"expires_at": START}, "choose a later time"),
        ({"expires_at": START - 1}, "choose a later time"),
    ],
)
def test_make_token_refuses_invalid_arguments(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        made(**fields)


def test_entry_is_expired_from_its_time_on() -> None:
    found, _ = made(expires_at=START + 10)
    assert [found.is_expired(START + seconds) for seconds in (0, 9.999, 10, 11)] == [False, False, True, True]
    assert not made()[0].is_expired(START + 1e9)


def test_bare_entry_is_an_admin_with_the_plain_token() -> None:
    found = tokens.make_bare_entry("sesame", START, CHANCE)
    assert (found.name, found.role, found.is_bare) == ("token", Role.ADMIN, True)
    assert tokens.matches(found, "sesame")
    assert not tokens.matches(found, f"{found.id}.sesame")


def test_placeholder_entry_has_the_default_cost_and_is_expired() -> None:
    placeholder = tokens.placeholder_entry(CHANCE)
    assert placeholder.hash.cost == made()[0].hash.cost
    assert placeholder.is_expired(0.0)
    assert not tokens.matches(tokens.placeholder_entry(CHANCE, CHEAP), "x")


# Several entries.


def test_add_entry_takes_second_token_with_equal_rights() -> None:
    first = entry(queue="q")
    second = first._replace(id="0123abce")
    assert tokens.add_entry([first], second) == [first, second]
    assert tokens.add_entry([], first) == [first]


@pytest.mark.parametrize("other", [{"role": Role.READ, "queue": "q"}, {"queue": None}, {"queue": "r"}])
def test_add_entry_refuses_second_token_with_other_rights(other: dict[str, Any]) -> None:
    first = entry(queue="q")
    with pytest.raises(BadRequest, match="ci already has token 0123abcd with the role submit for queue q"):
        tokens.add_entry([first], first._replace(id="0123abce", **other))
    with pytest.raises(BadRequest, match="with the role submit, and all tokens of a name must"):
        tokens.add_entry([first._replace(queue=None)], first)


def test_split_entries_by_id_or_name() -> None:
    one, two, other = entry(), entry(id="0123abce"), entry("ana", id="0123abcf")
    assert tokens.split_entries([one, two, other], "0123abce") == ([two], [one, other])
    assert tokens.split_entries([one, other, two], "ci") == ([one, two], [other])
    with pytest.raises(BadRequest, match="there is no token 'cy'; `taskq token list`"):
        tokens.split_entries([one], "cy")
