r"""What jobs print, made harmless for a terminal: colours stay, everything else that is no text is shown.

A terminal obeys what it is shown. It can be told to write over what stands there, to rename its window, to
fill the clipboard, or to type an answer into the next shell. So of all control characters and sequences only
line ends, tabs and colours go through to it; the others stand there as text and can be read: ``^[`` for ESC,
``\x9b`` for a byte that is no character, ``\u009b`` for a character that is a control, or that turns the
direction of writing.

A carriage return goes through too: progress bars live by it. It goes back to the beginning of its own line of
the screen and no further, so a job can hide by it what it has printed there, as it can by its colours, and no
line that stands above.
"""

import codecs
import re

LONGEST = 256
"""A colour is told by fewer characters; what is longer is shown."""
RESET = b"\x1b[0m"
"""Ends all colours."""

_PLAIN = bytes({*range(0x20, 0x7F), *b"\n\r\t"})

_BASIC = "0?[0-79]|2[1-9]|3[0-79]|4[0-79]|5[359]|9[0-7]|10[0-7]|4:[0-5]|"
_OF_MANY = "[345]8(?:;5;[0-9]{1,3}|;2;[0-9]{1,3};[0-9]{1,3};[0-9]{1,3}|:5:[0-9]{1,3}|:2:[0-9:]{1,15})"
_COLOUR = f"(?:{_OF_MANY}|{_BASIC})"
_COLOURS = rf"\[{_COLOUR}(?:;{_COLOUR}){{0,9}}m"
"""What follows ESC: colours and styles as in ECMA-48, SGR. Not 8, which hides text, and not the fonts, 10 to
20: no reset takes them back on Linux's console."""
_HARMFUL = re.compile(
    # The class comes first, since what begins with one is found fastest.
    rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069](?<!\x1b(?={_COLOURS}))"
)
_BEGUN = re.compile(r"\x1b(?:\[[0-9;:]*)?")

_UNSEEN = (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = {chr(code): f"^{chr(code ^ 0x40)}" for code in (*range(0x20), 0x7F)}
_SHOWN |= {chr(code): f"\\u{code:04x}" for code in _UNSEEN}


def sanitize_output(data: bytes, encoding: str = "utf-8") -> bytes:
    """Return what may be written of something that is whole by itself, such as a line."""
    if not data.translate(None, _PLAIN):
        return data
    washer = Washer(encoding)
    return washer.wash(data) + washer.end()


class Washer:
    """Washes one stream that goes to a terminal of an ``encoding``, a piece after the other.

    What is only the beginning of a character or of a colour is held until the next piece, or the ``end``.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("backslashreplace")
        self._exclusively = ""
        self._is_coloured = False

    def wash(self, data: bytes) -> bytes:
        """Return what may be written of a piece."""
        text = self._exclusively + self._decoder.decode(data)
        begun = text.rfind("\x1b", -LONGEST)
        if begun < 0 or not _BEGUN.fullmatch(text, begun):
            begun = len(text)
        self._exclusively = text[begun:]
        return self._shown(text[:begun])

    def calm(self) -> bytes:
        """Return what ends the colours that are set, nothing where none is: other words come next."""
        ends = RESET if self._is_coloured else b""
        self._is_coloured = False
        return ends

    def end(self) -> bytes:
        """Return what is held, and what ends the colours: nothing more comes."""
        held, self._exclusively = self._exclusively + self._decoder.decode(b"", True), ""
        return self._shown(held) + self.calm()

    def _shown(self, text: str) -> bytes:
        shown = _HARMFUL.sub(lambda control: _SHOWN[control[0]], text).encode(
            self._encoding, "backslashreplace"
        )
        last = shown.rfind(b"\x1b")
        if last >= 0:
            self._is_coloured = not shown.startswith((b"\x1b[0m", b"\x1b[m"), last)
        return shown
