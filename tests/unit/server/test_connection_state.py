"""The states of a connection: the table of what they allow, and the transitions between them."""

import pytest

from taskqd.server.connection_state import ALLOWED, TRANSITIONS, ConnectionEvent, ConnectionState

S, E = ConnectionState, ConnectionEvent


def after(*events: ConnectionEvent, state: ConnectionState = S.OPEN) -> ConnectionState:
    """Return the state after some events; an event that is not allowed changes nothing."""
    for event in events:
        state = TRANSITIONS[state].get(event, state)
    return state


def test_tables_have_all_states() -> None:
    assert set(ALLOWED) == set(TRANSITIONS) == set(S)


@pytest.mark.parametrize(
    "events, state",
    [
        ((E.CLIENT_CLOSED_ITS_HALF, E.CLOSE, E.LOST), S.CLOSED),
        ((E.LAST_REQUEST, E.WE_CLOSED_OUR_HALF), S.HALF_CLOSED),
        ((E.LAST_REQUEST, E.WE_CLOSED_OUR_HALF, E.CLIENT_CLOSED_ITS_HALF), S.CLOSING),
        ((E.LAST_REQUEST, E.CLIENT_CLOSED_ITS_HALF), S.LAST_REPLIES),
        ((E.CLIENT_CLOSED_ITS_HALF, E.LAST_REQUEST), S.LAST_REPLIES),
        ((E.CLIENT_CLOSED_ITS_HALF, E.WE_CLOSED_OUR_HALF), S.INPUT_ENDED),
        ((E.CLOSE, E.LAST_REQUEST, E.CLIENT_CLOSED_ITS_HALF), S.CLOSING),
        ((E.CLOSE, E.REJECT), S.REJECTED),
        ((E.REJECT, E.CLOSE), S.REJECTED),
    ],
)
def test_state_after_events(events: tuple[ConnectionEvent, ...], state: ConnectionState) -> None:
    assert after(*events) is state


def test_handshake_is_followed_by_open() -> None:
    assert after(E.HANDSHAKE_COMPLETED, state=S.HANDSHAKE) is S.OPEN
    assert all(E.HANDSHAKE_COMPLETED not in TRANSITIONS[state] for state in S if state is not S.HANDSHAKE)


@pytest.mark.parametrize("state", S)
def test_lost_connection_is_closed_and_stays_closed(state: ConnectionState) -> None:
    assert after(E.LOST, state=state) is S.CLOSED
    assert all(after(E.LOST, event, state=state) is S.CLOSED for event in E)


@pytest.mark.parametrize("state", S)
def test_reading_stops_for_good(state: ConnectionState) -> None:
    if not ALLOWED[state].reading:
        assert not any(ALLOWED[following].reading for following in TRANSITIONS[state].values())


@pytest.mark.parametrize("state", S)
def test_no_event_allows_sending_again_after_an_error(state: ConnectionState) -> None:
    assert not ALLOWED[after(E.REJECT, state=state)].sending or state is S.CLOSED


@pytest.mark.parametrize("state", S)
def test_client_that_has_closed_its_half_is_not_received_from(state: ConnectionState) -> None:
    assert not ALLOWED[after(E.CLIENT_CLOSED_ITS_HALF, state=state)].receiving
