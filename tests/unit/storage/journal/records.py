"""Records of a journal, and their lines."""

from zlib import crc32

from taskqd.model.events import (
    Cancelled,
    Ended,
    Opened,
    Output,
    Record,
    Retried,
    Spawned,
    Started,
    Submitted,
)
from taskqd.model.job import Reason, Status
from taskqd.model.spec import Spec

OPENED = Opened(at=1764000000.25, format=1, store="s", boot="b", next_id=1)

LINES: list[tuple[Record, bytes]] = [
    (
        OPENED,
        b'71f38f61 1 {"type":"opened","at":1764000000.25,"format":1,"store":"s","boot":"b","next_id":1}\n',
    ),
    (
        Submitted(
            id=1, at=1764000001.5, owner="ann", command="echo Grüße", spec=Spec(retries=2, env={"A": "1"})
        ),
        '3beb62bb 2 {"type":"submitted","id":1,"at":1764000001.5,"owner":"ann",'
        '"command":"echo Grüße","spec":{"retries":2,"env":{"A":"1"}}}\n'.encode(),
    ),
    (
        Started(id=1, at=1764000002.0, attempt=1),
        b'b74dcd43 3 {"type":"started","id":1,"at":1764000002.0,"attempt":1}\n',
    ),
    (
        Spawned(id=1, at=1764000002.5, pid=4242, started=99),
        b'72b79d5a 4 {"type":"spawned","id":1,"at":1764000002.5,"pid":4242,"started":99}\n',
    ),
    (
        Cancelled(id=1, at=1764000003.0, by="ann", signal=15),
        b'b4e2e8ea 5 {"type":"cancelled","id":1,"at":1764000003.0,"by":"ann","signal":15}\n',
    ),
    (
        Ended(
            id=1,
            at=1764000004.0,
            status=Status.FAILED,
            reason=Reason.SIGNAL,
            signal=9,
            stdout=Output.inline(b"hi\n"),
            stderr=Output.inline(b"\xff"),
        ),
        (
            b'ef2307c6 6 {"type":"ended","id":1,"at":1764000004.0,"status":"FAILED","reason":"signal",'
            b'"signal":9,"stdout":{"size":3,"text":"hi\\n"},"stderr":{"size":1,"base64":"/w=="}}\n'
        ),
    ),
    (
        Retried(id=1, at=1764000005.0, by="ann"),
        b'b3619000 7 {"type":"retried","id":1,"at":1764000005.0,"by":"ann"}\n',
    ),
]
"""Records and their lines, as in docs/journal.md; a change here needs a new format."""

RECORDS = [record for record, _ in LINES]

SEGMENT = b"".join(line for _, line in LINES)


def line_of(text: bytes) -> bytes:
    """Return a line with any text and a right checksum."""
    return b"%08x %b\n" % (crc32(text), text)
