"""What comes on a connection, cut into requests: lines, the blocks behind them, telnet's sequences between.

What is read are the bytes that ``pacing`` has ahead, and what they ask goes to ``exchange``. How lines are
understood is in wire.py, when more is read in pacing.py.
"""

from typing import Protocol

from twisted.logger import Logger

from taskqd.errors import BadRequest, LineTooLong, TaskqError
from taskqd.model.submission import Submission
from taskqd.protocol import parser, telnet
from taskqd.protocol.blocks import BlockReader
from taskqd.protocol.submit_cache import parse_batchable
from taskqd.server.flow_control import FlowControl
from taskqd.server.pending import PendingRequest, SubmitBatch, is_batchable
from taskqd.server.pipeline import RequestPipeline

_CR = 13
LONG_LINE = 256
LOOK_EVERY = 8
"""After a line of LONG_LINE bytes, and after every LOOK_EVERY lines, it is seen how late it is."""
LINES_PER_TURN = 250
"""So many lines of a connection are read in one turn of the reactor: then others have theirs."""


class Speaker(Protocol):
    """A connection, as it is seen from where it is read."""

    def lineReceived(self, line: bytes) -> None:
        """Take a line that is no plain submission, without its end."""

    def expect(self, request: parser.Request, line: bytes) -> PendingRequest:
        """Return what is asked by a request, read from ``line``, whose blocks are on their way."""

    def release(self, asked: PendingRequest) -> None:
        """Give back what was set aside for blocks."""

    @property
    def is_late(self) -> bool:
        """Whether the reactor's thread was held for long enough, so that others have their turn."""

    def answer(self, data: bytes) -> None:
        """Send what telnet wants to hear."""

    def end(self) -> None:
        """Read no more, and close once all is written that was answered."""


class Reading:
    """Reads what ``speaker`` sends, in lines of at most ``longest_line`` bytes, unless it ``is_deaf``.

    While it ``is_paused`` nothing is read, and ``is_behind`` tells whether there is something to be read.
    Behind an AUTH it ``is_identifying``: what comes there is read only when it is known who it is from.
    """

    _log = Logger()

    def __init__(
        self, speaker: Speaker, exchange: RequestPipeline, pacing: FlowControl, longest_line: int
    ) -> None:
        self.is_deaf = False
        self.is_paused = False
        self.is_behind = False
        self.is_identifying = False
        self._speaker = speaker
        self._exchange = exchange
        self._pacing = pacing
        self._longest_line = longest_line
        self._is_first_line = True
        self._left = 0
        self._block: tuple[PendingRequest, BlockReader] | None = None

    def read(self) -> None:
        """Read what is ahead, up to LINES_PER_TURN lines and pieces of blocks: the rest has another turn."""
        pacing = self._pacing
        data, at = pacing.ahead, 0
        self._left = LINES_PER_TURN
        while at < len(data) and not self.is_paused and not self.is_deaf:
            if not self._left:
                pacing.yield_to_reactor()
                break
            begun = at
            if self._block is not None:
                at = self._read_block(*self._block, data, at)
            elif data[at] == telnet.IAC:
                at = self._read_telnet(data, at)
            else:
                at = self._read_submissions(data, at)
                if at == begun:
                    at = self._read_line(data, at)
            if at == begun:
                break  # what is there is not whole
        pacing.ahead = b"" if self.is_deaf else pacing.ahead[at:]
        self.is_behind = self.is_paused and bool(pacing.ahead)

    def forget_block(self) -> None:
        """Wait no longer for the blocks of a request."""
        if self._block is not None:
            self._speaker.release(self._block[0])
            self._block = None

    def _read_telnet(self, data: bytes, at: int) -> int:
        sequence = telnet.read(data, at)
        if sequence is None:
            return at
        self._speaker.answer(sequence.answer)
        return sequence.end

    def _read_block(self, asked: PendingRequest, reader: BlockReader, data: bytes, at: int) -> int:
        self._left -= 1
        piece = data[at : at + reader.wanted]
        try:
            reader.feed(piece)
        except BadRequest as why:
            self.forget_block()
            self._give_up(why)
        else:
            if not reader.wanted:
                self._block = None
                if reader.is_kept:
                    asked.blocks = reader.blocks
                    self._exchange.ask(asked)
        return at + len(piece)

    def _read_submissions(self, data: bytes, at: int) -> int:
        """Read plain submissions, which are asked for together, up to the first line that is none."""
        begun, longest = at, self._longest_line
        orders: list[Submission] = []
        while (end := data.find(b"\n", at)) >= 0:
            try:
                order = (
                    parse_batchable(data, at, end - (data[end - 1] == _CR)) if end - at <= longest else None
                )
            except Exception:  # noqa: BLE001 - it is met again where the line is read alone, and answered
                break
            if order is None:
                break
            orders.append(order)
            at = end + 1
            if len(orders) == self._left:
                break
        if orders:
            self._left -= len(orders)
            self._is_first_line = False
            self._exchange.ask(SubmitBatch(orders, at - begun))
        return at

    def _read_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        if end < 0:
            if len(data) - at <= self._longest_line + 1:  # a CR may be the last of it
                return at
            end = len(data)
        self._left -= 1
        self._speaker.lineReceived(data[at:end].removesuffix(b"\r"))
        if (end - at >= LONG_LINE or not self._left % LOOK_EVERY) and self._speaker.is_late:
            self._left = 0
        return end + 1

    def _request(self, line: bytes) -> parser.Request | None:
        """Return what a line asks for, if it does."""
        if len(line) > self._longest_line:
            return _lost(
                LineTooLong(f"a request line has at most {self._longest_line} bytes; send more with --script")
            )
        if not line.strip():
            return None
        try:
            return parser.parse_line(line)
        except Exception:  # noqa: BLE001 - whatever a bug of ours raises, the client gets an answer
            self._log.failure("a line of {length} bytes met a bug of taskqd's", length=len(line))
            return _lost(TaskqError("this line met a bug of taskqd's; the daemon's log has it"))

    def take(self, line: bytes) -> None:
        """Have done what a line asks for, or wait for its blocks."""
        request = self._request(line)
        is_first_line, self._is_first_line = self._is_first_line, False
        if request is None:
            self._exchange.followed()
        elif request.is_lost:
            self._give_up(request.error)
        elif is_first_line and parser.is_http(line):
            self._speaker.end()
        elif request.blocks:
            self._wait_for_blocks(request, line)
        elif is_batchable(request):
            self._exchange.ask(SubmitBatch([request.argument], len(line)))
        else:
            if request.verb == "AUTH" and request.error is None:
                self.is_identifying = True  # whether blocks behind it are wanted is told by who it is then
            self._exchange.ask(PendingRequest(request, len(line), line=line))

    def _wait_for_blocks(self, request: parser.Request, line: bytes) -> None:
        self._exchange.followed()
        asked = self._speaker.expect(request, line)
        is_kept = asked.request.error is None
        self._block = (asked, BlockReader(request.blocks, is_kept))
        if not is_kept:
            self._exchange.ask(asked)

    def _give_up(self, why: TaskqError | None) -> None:
        """Answer with an error once all before it is answered, and end: what follows can't be understood."""
        self.is_deaf = True
        self._exchange.ask(PendingRequest(_lost(why), 0))


def _lost(why: TaskqError | None) -> parser.Request:
    return parser.Request("", None, why, is_lost=True)
