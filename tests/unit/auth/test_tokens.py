"""Tokens, their entries, and the content of the token file."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.auth import tokens
from taskqd.auth.tokens import COST, RANDOMNESS, Cost, Entry, Hash
from taskqd.errors import BadRequest, StartRefused
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
    written = tokens.encode_entries([found])
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


# The file.

WORDS = st.from_regex(r"[A-Za-z0-9._+/:@-]{1,20}", fullmatch=True)
TIMES = st.integers(0, 10**12).map(lambda milliseconds: milliseconds / 1000)
ENTRIES = st.builds(
    Entry,
    id=st.from_regex(r"[0-9a-f]{8,64}", fullmatch=True),
    name=WORDS,
    role=st.sampled_from([Role.SUBMIT, Role.READ]),
    queue=st.none() | WORDS,
    made_at=TIMES,
    expires_at=st.none() | TIMES,
    is_bare=st.just(False),
    hash=st.builds(
        Hash,
        st.builds(Cost, st.integers(14, 17), st.integers(8, 16), st.integers(1, 4)),
        st.binary(min_size=16, max_size=32),
        st.binary(min_size=32, max_size=32),
    ),
)


@given(st.lists(ENTRIES, unique_by=lambda it: it.id, max_size=5))
def test_decode_entries_returns_what_was_encoded(entries: list[Entry]) -> None:
    assert tokens.decode_entries(tokens.encode_entries(entries), "tokens") == entries


def test_decode_entries_returns_admins_and_bare_entry() -> None:
    entries = [entry(role=Role.ADMIN), entry("token", Role.ADMIN, id="0123abce", is_bare=True)]
    assert tokens.decode_entries(b"\n" + tokens.encode_entries(entries) + b" \n\n", "tokens") == entries


def test_encoded_entry_is_one_json_object_per_line() -> None:
    line = json.loads(tokens.encode_entries([entry(queue="builds", expires_at=START + 0.5)]))
    assert line == {
        "id": "0123abcd",
        "name": "ci",
        "role": "submit",
        "made_at": "2023-11-14T22:13:20.000Z",
        "hash": "$scrypt$ln=14,r=8,p=1$c3Nzc3Nzc3Nzc3Nzc3Nzcw$ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ",
        "queue": "builds",
        "expires_at": "2023-11-14T22:13:20.500Z",
    }


GOOD: dict[str, Any] = json.loads(tokens.encode_entries([entry()]))
HASH = GOOD["hash"]
ADVICE = "; correct or remove the line, or add a new token with `taskq token add`"
"""The asserted part of the error of a line that msgspec refuses; the rest is the text of msgspec."""
FLAWS: list[tuple[str, Any, str]] = [
    ("is no JSON", b"{", ADVICE),
    ("is no object", b"[]", ADVICE),
    ("is not UTF-8", b'{"id":"\xff"}', ADVICE),
    ("is deep", b"[" * 100_000, ADVICE),
    *(
        (
            f"has no {name}",
            {key: GOOD[key] for key in GOOD if key != name},
            ADVICE,
        )
        for name in ("id", "name", "role", "made_at", "hash")
    ),
    ("has one more field", {**GOOD, "secret": "x"}, ADVICE),
    ("has a short id", {**GOOD, "id": "0123abc"}, "its id must be 8 to 64"),
    ("has an id of other letters", {**GOOD, "id": "0123abcg"}, "its id must be 8 to 64"),
    ("has no name", {**GOOD, "name": ""}, "its name must be"),
    ("has another role", {**GOOD, "role": "king"}, "king"),
    ("has an odd queue", {**GOOD, "queue": "a b"}, "its queue must be a name"),
    (
        "is an admin's with a queue",
        {**GOOD, "role": "admin", "queue": "q"},
        "token of the role admin has none",
    ),
    ("has no time", {**GOOD, "made_at": "now"}, "expected a time"),
    ("has an odd end", {**GOOD, "expires_at": "never"}, "expected a time"),
    ("has a token in the clear", {**GOOD, "hash": "sesame"}, "its hash must be one of scrypt"),
    ("has a hash of another kind", {**GOOD, "hash": HASH.replace("scrypt", "md5")}, "one of scrypt"),
    ("has a hash that is too cheap", {**GOOD, "hash": HASH.replace("ln=14", "ln=13")}, "from ln=14,r=8,p=1"),
    ("has a hash that is too dear", {**GOOD, "hash": HASH.replace("ln=14", "ln=18")}, "to ln=17,r=16,p=4"),
    ("has a hash of too much memory", {**GOOD, "hash": HASH.replace("r=8", "r=17")}, "to ln=17,r=16,p=4"),
    ("has a hash cut short", {**GOOD, "hash": HASH[:-1]}, "one of scrypt"),
]


@pytest.mark.parametrize("line, why", [flaw[1:] for flaw in FLAWS], ids=[flaw[0] for flaw in FLAWS])
def test_decode_entries_names_invalid_line_without_its_hash(line: Any, why: str) -> None:
    text = line if isinstance(line, bytes) else json.dumps(line).encode()
    with pytest.raises(StartRefused) as refusal:
        tokens.decode_entries(tokens.encode_entries([entry(id="0123abce")]) + text + b"\n", "/state/tokens")
    assert str(refusal.value).startswith("/state/tokens: line 2 is not a valid token: ")
    assert why in str(refusal.value)
    assert "sesame" not in str(refusal.value)
    assert "ZGRk" not in str(refusal.value)


def test_decode_entries_refuses_duplicate_id_and_second_bare_entry() -> None:
    with pytest.raises(StartRefused, match="line 2 is not a valid token: another line has the same id"):
        tokens.decode_entries(tokens.encode_entries([entry(), entry("ana")]), "tokens")
    bare = [entry(is_bare=True), entry(id="0123abce", is_bare=True)]
    with pytest.raises(StartRefused, match="line 2 is not a valid token: another line has a bare token"):
        tokens.decode_entries(tokens.encode_entries(bare), "tokens")


@given(st.binary(max_size=60))
def test_decode_entries_refuses_any_other_bytes(text: bytes) -> None:
    if text.strip():
        with pytest.raises(StartRefused, match="not a valid token"):
            tokens.decode_entries(text, "tokens")
    else:
        assert tokens.decode_entries(text, "tokens") == []
