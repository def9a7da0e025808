"""The states of a connection: what each allows, and how events change it."""

from enum import Enum, auto
from typing import NamedTuple


class ConnectionState(Enum):
    """The life of a connection, from its first byte to its end."""

    HANDSHAKE = auto()
    """TLS is being negotiated; plain connections begin as OPEN."""
    OPEN = auto()
    INPUT_ENDED = auto()
    """The client has closed its half; the requests that it sent before are still read and answered."""
    FINISHING = auto()
    """A request has ended the connection: what follows is discarded, what came before is answered."""
    LAST_REPLIES = auto()
    """Both of the above."""
    HALF_CLOSED = auto()
    """Everything is answered and our half is closed; the client has to close its own."""
    CLOSING = auto()
    """Nothing more is read; the connection closes once everything is written."""
    REJECTED = auto()
    """An error was sent in place of all outstanding replies; otherwise like CLOSING."""
    CLOSED = auto()


class ConnectionEvent(Enum):
    """An event that may change the state of a connection."""

    HANDSHAKE_COMPLETED = auto()
    CLIENT_CLOSED_ITS_HALF = auto()
    LAST_REQUEST = auto()
    """A request was QUIT, or made it impossible to tell where the next one begins."""
    WE_CLOSED_OUR_HALF = auto()
    CLOSE = auto()
    REJECT = auto()
    LOST = auto()


class Allowed(NamedTuple):
    """Properties of a state.

    `reading`: input is framed into requests; otherwise it is discarded.
    `receiving`: the client may still send, so the transport may be paused and resumed.
    `sending`: replies are sent.
    `finishing`: the connection closes as soon as every request is answered.
    """

    reading: bool = False
    receiving: bool = False
    sending: bool = False
    finishing: bool = False


_S, _E = ConnectionState, ConnectionEvent

ALLOWED: dict[ConnectionState, Allowed] = {
    _S.HANDSHAKE: Allowed(reading=True, receiving=True, sending=True),
    _S.OPEN: Allowed(reading=True, receiving=True, sending=True),
    _S.INPUT_ENDED: Allowed(reading=True, sending=True, finishing=True),
    _S.FINISHING: Allowed(receiving=True, sending=True, finishing=True),
    _S.LAST_REPLIES: Allowed(sending=True, finishing=True),
    _S.HALF_CLOSED: Allowed(receiving=True),
    _S.CLOSING: Allowed(sending=True),
    _S.REJECTED: Allowed(),
    _S.CLOSED: Allowed(),
}

_ANY_TIME = {_E.CLOSE: _S.CLOSING, _E.REJECT: _S.REJECTED, _E.LOST: _S.CLOSED}

TRANSITIONS: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    _S.HANDSHAKE: {
        _E.HANDSHAKE_COMPLETED: _S.OPEN,
        _E.CLIENT_CLOSED_ITS_HALF: _S.INPUT_ENDED,
        _E.LAST_REQUEST: _S.FINISHING,
        **_ANY_TIME,
    },
    _S.OPEN: {_E.CLIENT_CLOSED_ITS_HALF: _S.INPUT_ENDED, _E.LAST_REQUEST: _S.FINISHING, **_ANY_TIME},
    _S.INPUT_ENDED: {_E.LAST_REQUEST: _S.LAST_REPLIES, **_ANY_TIME},
    _S.FINISHING: {
        _E.CLIENT_CLOSED_ITS_HALF: _S.LAST_REPLIES,
        _E.WE_CLOSED_OUR_HALF: _S.HALF_CLOSED,
        **_ANY_TIME,
    },
    _S.LAST_REPLIES: _ANY_TIME,
    _S.HALF_CLOSED: {_E.CLIENT_CLOSED_ITS_HALF: _S.CLOSING, **_ANY_TIME},
    _S.CLOSING: {_E.REJECT: _S.REJECTED, _E.LOST: _S.CLOSED},
    _S.REJECTED: {_E.LOST: _S.CLOSED},
    _S.CLOSED: {},
}
"""The next state for each event; an event that is not listed changes nothing."""
