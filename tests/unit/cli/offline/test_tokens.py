"""``taskq token``: making, listing and revoking tokens in a state directory without a daemon."""

import json
import os
import re
from pathlib import Path

import pytest

from taskqd.auth import token_codec, tokens
from taskqd.auth.tokens import Entry
from taskqd.cli.display import tables
from taskqd.protocol.values import parse_time, timestamp
from tests.fakes.clocks import START
from tests.support.cli_calls import Call, a_call, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import Process

DAY = 86400.0


@pytest.fixture(name="state")
def a_state_directory(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return state


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: START)


def entries(state: Path) -> list[Entry]:
    return token_codec.decode_entries((state / "tokens").read_bytes(), "tokens")


def add(call: Call, state: Path, *words: str) -> str:
    """Make a token and return it."""
    outcome = call("token", "add", *words, "--state", str(state))
    assert outcome.code == 0, outcome.stderr
    return outcome.stdout.decode().strip()


@pytest.mark.parametrize("words", [("add", "ci", "--role", "read"), ("list",), ("revoke", "ci")])
def test_missing_home_directory_is_reported_with_the_option(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 54321)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    outcome = call("token", *words)
    assert (outcome.code, outcome.stdout) == (1, b"")
    assert outcome.stderr == (
        "taskq: the user 54321 has no home directory: HOME is not an absolute path, and the user database "
        "has none; give the state directory with --state\n"
    )


# add


def test_add_prints_only_the_token_to_stdout(call: Call, state: Path) -> None:
    outcome = call("token", "add", "ci", "--role", "submit", "--state", str(state))
    assert outcome.code == 0
    assert re.fullmatch(rb"[0-9a-f]{8}\.[A-Za-z0-9_-]{43}\n", outcome.stdout)
    text = outcome.stdout.decode().strip()
    (entry,) = entries(state)
    assert tokens.matches(entry, text)
    assert outcome.stderr == f"taskq: token {entry.id} of ci, role submit; it cannot be shown again\n"
    assert text not in (state / "tokens").read_text()


def test_add_stores_and_reports_queue_and_expiry(call: Call, state: Path) -> None:
    outcome = call(
        *("token", "add", "ci", "--role", "read", "--queue", "builds", "--expires", "90d"),
        *("--state", str(state)),
    )
    (entry,) = entries(state)
    assert (entry.queue, entry.made_at, entry.expires_at) == ("builds", START, START + 90 * DAY)
    assert f"role read, queue builds, expires {timestamp(START + 90 * DAY)}; " in outcome.stderr


@pytest.mark.parametrize(
    "text, end",
    [
        ("1.5", START + 1.5),
        ("12h", START + DAY / 2),
        ("2026-11-24T07:00:00Z", parse_time("2026-11-24T07:00:00Z")),
        ("2026-11-24T08:00:00+01:00", parse_time("2026-11-24T07:00:00Z")),
    ],
)
def test_expiry_is_a_duration_or_a_time(call: Call, state: Path, text: str, end: float) -> None:
    add(call, state, "ci", "--role", "admin", "--expires", text)
    assert entries(state)[0].expires_at == end


def test_add_with_json_prints_a_document_with_the_token(call: Call, state: Path) -> None:
    for option in ("--json", "--jsonl"):
        outcome = call("token", "add", "ci", "--role", "submit", "--state", str(state), option)
        (document,) = outcome.documents
        entry = entries(state)[-1]
        assert tokens.matches(entry, document.pop("token"))
        assert document == {
            "id": entry.id,
            "name": "ci",
            "role": "submit",
            "queue": None,
            "made_at": timestamp(START),
            "expires_at": None,
            "expired": False,
        }


USAGE = [
    (("ci",), "--role"),
    (("ci", "--role", "king"), "'king'"),
    (("a b", "--role", "read"), "expected a name of 1 to 200"),
    (("ci", "--role", "read", "--queue", "a b"), "expected a name of 1 to 200"),
    (
        ("ci", "--role", "read", "--expires", "soon"),
        "expected a duration such as 90d or a time such as 2026-",
    ),
    (("ci", "--role", "read", "--expires", "2026-11-24"), "expected a duration such as 90d or a time"),
    (("--role", "read"), "NAME"),
]


@pytest.mark.parametrize("words, text", USAGE)
def test_add_rejects_invalid_arguments(call: Call, state: Path, words: tuple[str, ...], text: str) -> None:
    outcome = call("token", "add", *words, "--state", str(state))
    assert (outcome.code, outcome.stdout) == (2, b"")
    assert text in outcome.stderr
    assert list(state.iterdir()) == []


REFUSED = [
    (("ci", "--role", "admin", "--queue", "q"), "a token of the role admin cannot be restricted"),
    (("0123abcd", "--role", "read"), "does not look like an id"),
    (("ci", "--role", "read", "--expires", "2023-11-14T22:13:20Z"), "a token cannot expire in the past"),
    (("ana", "--role", "admin"), "ana already has token "),
]


@pytest.mark.parametrize("words, text", REFUSED)
def test_add_refuses_forbidden_tokens_and_changes_nothing(
    call: Call, state: Path, words: tuple[str, ...], text: str
) -> None:
    add(call, state, "ana", "--role", "read")
    before = (state / "tokens").read_bytes()
    outcome = call("token", "add", *words, "--state", str(state))
    assert (outcome.code, outcome.stdout) == (1, b"")
    assert outcome.stderr.startswith("taskq: ")
    assert text in outcome.stderr
    assert (state / "tokens").read_bytes() == before


# list


def test_list_prints_tab_separated_lines_without_hashes(call: Call, state: Path) -> None:
    add(call, state, "ci", "--role", "submit", "--queue", "builds", "--expires", "1d")
    add(call, state, "ana", "--role", "admin")
    outcome = call("token", "list", "--state", str(state))
    ci, ana = entries(state)
    made, end = timestamp(START), timestamp(START + DAY)
    assert outcome == (
        0,
        f"{ci.id}\tci\tsubmit\tbuilds\t{made}\t{end}\n{ana.id}\tana\tadmin\t-\t{made}\t-\n".encode(),
        "",
    )


def test_list_without_tokens_is_empty(call: Call, state: Path) -> None:
    assert call("token", "list", "--state", str(state)) == (0, b"", "")
    assert call("token", "list", "--state", str(state), "--json").stdout.split() == [b"[]"]


def test_list_with_json_is_a_list_or_a_document_per_line(
    call: Call, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(call, state, "ci", "--role", "submit", "--expires", "1s")
    add(call, state, "ana", "--role", "read", "--queue", "q")
    monkeypatch.setattr("time.time", lambda: START + 1)
    found = json.loads(call("token", "list", "--state", str(state), "--json").stdout)
    assert call("token", "list", "--state", str(state), "--jsonl").documents == found
    assert [(one["name"], one["queue"], one["expired"]) for one in found] == [
        ("ci", None, True),
        ("ana", "q", False),
    ]
    assert {name for one in found for name in one} == {
        *("id", "name", "role", "queue", "made_at", "expires_at", "expired"),
    }


def test_list_on_a_terminal_is_a_table(call: Call, state: Path) -> None:
    add(call, state, "ci", "--role", "submit", "--expires", "30d")
    words = ("token", "list", "--state", str(state))
    with Process("unix:/none", *words, on_terminal=("stdout",), COLUMNS="80") as process:
        shown = process.end()
    assert shown.code == 0
    assert b"id" in shown.terminal
    assert b"ends" in shown.terminal
    assert entries(state)[0].id.encode() in shown.terminal
    assert b"\t" not in shown.terminal
    assert b"scrypt" not in shown.terminal


@pytest.mark.parametrize(
    "token, shown",
    [
        ({"expires_at": None, "expired": False}, "never"),
        ({"expires_at": "1970-01-12T13:46:40.000Z", "expired": True}, "expired"),
        ({"expires_at": "1970-01-13T15:46:40.000Z", "expired": False}, "in 1 d"),
    ],
)
def test_token_table_shows_expiry(token: dict[str, object], shown: str) -> None:
    row = {
        "id": "0123abcd",
        "name": "ci",
        "role": "read",
        "queue": None,
        "made_at": "1970-01-12T13:46:40.000Z",
    }
    table = tables.make_token_table([{**row, **token}], 1_000_000.0, 80)
    cells = {column.header: str(next(iter(column.cells))) for column in table.columns}
    assert cells == {"id": "0123abcd", "name": "ci", "role": "read", "made": "now", "ends": shown}


# revoke


def test_revoke_by_id_or_by_name(call: Call, state: Path) -> None:
    for name in ("ci", "ana", "ci", "ci"):
        add(call, state, name, "--role", "submit")
    first, ana, *others = entries(state)
    outcome = call("token", "revoke", first.id, "--state", str(state))
    assert outcome == (0, f"revoked {first.id} ci\n".encode(), "")
    outcome = call("token", "revoke", "ci", "--state", str(state), "--json")
    assert [one["id"] for one in json.loads(outcome.stdout)] == [each.id for each in others]
    assert entries(state) == [ana]


def test_revoke_reports_unknown_token(call: Call, state: Path) -> None:
    outcome = call("token", "revoke", "ci", "--state", str(state))
    assert outcome == (
        1,
        b"",
        "taskq: there is no token 'ci'; `taskq token list` lists all tokens\n",
    )


def test_revoke_removes_the_file_of_an_older_version(call: Call, state: Path) -> None:
    entry = tokens.make_bare_entry("sesame", START, bytes(tokens.RANDOMNESS))
    for name, content in (("token", b"sesame"), ("tokens", token_codec.encode_entries([entry]))):
        (state / name).write_bytes(content)
        (state / name).chmod(0o600)
    outcome = call("token", "revoke", "token", "--state", str(state))
    assert outcome.stderr == f"taskq: removed {state}/token too, which has the token of an older version\n"
    assert [path.name for path in state.iterdir()] == ["tokens"]


# the state directory

COMMANDS = [("add", "ci", "--role", "read"), ("list",), ("revoke", "ci")]


@pytest.mark.parametrize("words", COMMANDS)
def test_missing_or_open_state_directory_is_refused(call: Call, state: Path, words: tuple[str, ...]) -> None:
    outcome = call("token", *words, "--state", f"{state}/none")
    assert outcome == (
        1,
        b"",
        (f"taskq: the state directory {state}/none does not exist; start the daemon once, or set --state\n"),
    )
    state.chmod(0o750)
    outcome = call("token", *words, "--state", str(state))
    assert (outcome.code, outcome.stdout) == (1, b"")
    assert outcome.stderr == f"taskq: {state} can be accessed by other users (mode 750): chmod 700 {state}\n"


@pytest.mark.parametrize("words", COMMANDS)
def test_damaged_or_open_token_file_is_refused(call: Call, state: Path, words: tuple[str, ...]) -> None:
    path = state / "tokens"
    path.write_bytes(b"x\n")
    path.chmod(0o600)
    outcome = call("token", *words, "--state", str(state))
    assert outcome.code == 1
    assert outcome.stderr.startswith(f"taskq: {path}: line 1 is not a valid token: ")
    path.chmod(0o644)
    outcome = call("token", *words, "--state", str(state))
    assert outcome.stderr == f"taskq: {path} can be accessed by other users (mode 644): chmod 600 {path}\n"


@pytest.mark.parametrize("words", COMMANDS)
def test_error_of_the_system_is_reported(
    call: Call, state: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(state))

    monkeypatch.setattr("taskqd.cli.offline.tokens.check_permissions", refuse)
    assert call("token", *words, "--state", str(state)) == (1, b"", f"taskq: {state}: Permission denied\n")


def test_default_state_directory_is_that_of_the_user(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "taskqd").mkdir(mode=0o700)
    call("token", "add", "ci", "--role", "read")
    assert [entry.name for entry in entries(tmp_path / "taskqd")] == ["ci"]
