"""Removes telnet sequences at the start of a line, before the framing.

LineReceiver alone could not do it: a sequence may contain a line feed (the window size of a terminal with 10
rows does), and one that is followed by no line feed would wait for it without an answer. Within a line a
sequence is part of the line, and within a block it is data.
"""

from collections.abc import Callable

from taskqd.protocol import telnet

_LINE_START_IAC = b"\n" + bytes([telnet.IAC])


class TelnetFilter:
    """Answers the sequences through `answer`, unless `is_paused()`."""

    def __init__(self, answer: Callable[[bytes], object], is_paused: Callable[[], bool]) -> None:
        self._answer = answer
        self._is_paused = is_paused

    def skip(self, data: bytes, line_start: int) -> int:
        """Answer the sequences at the start of a line, and return where the first one begins that is left.

        It is left because it is incomplete or because reading has paused; without one, the line begins there.
        """
        position = line_start
        while position < len(data) and data[position] == telnet.IAC and not self._is_paused():
            sequence = telnet.parse_sequence(data, position)
            if sequence is None:
                break
            self._answer(sequence.answer)
            position = sequence.end
        return position

    @staticmethod
    def find_next(data: bytes, start: int, end: int) -> int:
        """Return where the next line starts that begins with a sequence, `end` if there is none before it."""
        line_feed = data.find(_LINE_START_IAC, start, end)
        return end if line_feed < 0 else line_feed + 1
