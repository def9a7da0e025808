"""The content of the token file: entries are decoded as they were encoded, invalid lines are named."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.auth.token_codec import decode_entries, encode_entries
from taskqd.auth.tokens import COST, Cost, Entry, Hash
from taskqd.errors import StartRefused
from taskqd.model.roles import Role
from tests.fakes.clocks import START


def entry(name: str = "ci", role: Role = Role.SUBMIT, **more: Any) -> Entry:
    """Return an entry with a hash that no token has."""
    fields = {"id": "0123abcd", "queue": None, "made_at": START, "expires_at": None}
    return Entry(**{**fields, "hash": Hash(COST, b"s" * 16, b"d" * 32), "name": name, "role": role, **more})


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
    assert decode_entries(encode_entries(entries), "tokens") == entries


def test_decode_entries_returns_admins_and_bare_entry() -> None:
    entries = [entry(role=Role.ADMIN), entry("token", Role.ADMIN, id="0123abce", is_bare=True)]
    assert decode_entries(b"\n" + encode_entries(entries) + b" \n\n", "tokens") == entries


def test_encoded_entry_is_one_json_object_per_line() -> None:
    line = json.loads(encode_entries([entry(queue="builds", expires_at=START + 0.5)]))
    assert line == {
        "id": "0123abcd",
        "name": "ci",
        "role": "submit",
        "made_at": "2023-11-14T22:13:20.000Z",
        "hash": "$scrypt$ln=14,r=8,p=1$c3Nzc3Nzc3Nzc3Nzc3Nzcw$ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ",
        "queue": "builds",
        "expires_at": "2023-11-14T22:13:20.500Z",
    }


GOOD: dict[str, Any] = json.loads(encode_entries([entry()]))
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
        decode_entries(encode_entries([entry(id="0123abce")]) + text + b"\n", "/state/tokens")
    assert str(refusal.value).startswith("/state/tokens: line 2 is not a valid token: ")
    assert why in str(refusal.value)
    assert "sesame" not in str(refusal.value)
    assert "ZGRk" not in str(refusal.value)


def test_decode_entries_refuses_duplicate_id_and_second_bare_entry() -> None:
    with pytest.raises(StartRefused, match="line 2 is not a valid token: another line has the same id"):
        decode_entries(encode_entries([entry(), entry("ana")]), "tokens")
    bare = [entry(is_bare=True), entry(id="0123abce", is_bare=True)]
    with pytest.raises(StartRefused, match="line 2 is not a valid token: another line has a bare token"):
        decode_entries(encode_entries(bare), "tokens")


@given(st.binary(max_size=60))
def test_decode_entries_refuses_any_other_bytes(text: bytes) -> None:
    if text.strip():
        with pytest.raises(StartRefused, match="not a valid token"):
            decode_entries(text, "tokens")
    else:
        assert decode_entries(text, "tokens") == []
