r"""Sanitizes the output of jobs for a terminal: keeps text and colours, shows other controls as text.

Control sequences can overwrite the screen, rename the window, fill the clipboard, or make the terminal send
input to the next shell. Of all control characters and sequences, only line ends, tabs, carriage returns and
colours are passed on. Others are shown as text: ``^[`` for ESC, ``\x9b`` for a byte that is no character,
``\u009b`` for a control character or one that changes the direction of writing.

Carriage returns are passed on for progress bars. They return to the start of the current line only, so a
job can overwrite its own line, but none above it.
"""

import codecs
import re

MAX_SEQUENCE_LENGTH = 256
"""Maximum length of a colour sequence (characters); longer ones are shown as text."""
RESET = b"\x1b[0m"
"""Resets all colours and styles."""

_PLAIN = bytes({*range(0x20, 0x7F), *b"\n\r\t"})

_SIMPLE_COLOUR = "0?[0-79]|2[1-9]|3[0-79]|4[0-79]|5[359]|9[0-7]|10[0-7]|4:[0-5]|"
_EXTENDED_COLOUR = "[345]8(?:;5;[0-9]{1,3}|;2;[0-9]{1,3};[0-9]{1,3};[0-9]{1,3}|:5:[0-9]{1,3}|:2:[0-9:]{1,15})"
_COLOUR = f"(?:{_EXTENDED_COLOUR}|{_SIMPLE_COLOUR})"
_COLOURS = rf"\[{_COLOUR}(?:;{_COLOUR}){{0,9}}m"
"""Colours and styles after ESC (ECMA-48, SGR).

8 is excluded because it hides text, and the fonts 10 to 20 because a reset does not undo them on the Linux
console.
"""
_HARMFUL = re.compile(
    # The character class comes first, because regular expressions that begin with one are fastest.
    rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069](?<!\x1b(?={_COLOURS}))"
)
_INCOMPLETE = re.compile(r"\x1b(?:\[[0-9;:]*)?")

_INVISIBLE = (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_REPLACEMENTS = {chr(code): f"^{chr(code ^ 0x40)}" for code in (*range(0x20), 0x7F)}
_REPLACEMENTS |= {chr(code): f"\\u{code:04x}" for code in _INVISIBLE}


def sanitize_output(data: bytes, encoding: str = "utf-8") -> bytes:
    """Sanitize data that is complete, such as a line."""
    if not data.translate(None, _PLAIN):
        return data
    sanitizer = Sanitizer(encoding)
    return sanitizer.sanitize(data) + sanitizer.finish()


class Sanitizer:
    """Sanitizes a stream for a terminal with the given encoding, piece by piece.

    An incomplete character or colour sequence is held back until the next piece or ``finish``.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("backslashreplace")
        self._held = ""
        self._is_coloured = False

    def sanitize(self, data: bytes) -> bytes:
        """Return the sanitized form of a piece."""
        text = self._held + self._decoder.decode(data)
        start = text.rfind("\x1b", -MAX_SEQUENCE_LENGTH)
        if start < 0 or not _INCOMPLETE.fullmatch(text, start):
            start = len(text)
        self._held = text[start:]
        return self._replace_controls(text[:start])

    def reset_colours(self) -> bytes:
        """Return the sequence that resets colours, or nothing if none are set."""
        reset = RESET if self._is_coloured else b""
        self._is_coloured = False
        return reset

    def finish(self) -> bytes:
        """Return data that was held back, and the reset of colours."""
        held, self._held = self._held + self._decoder.decode(b"", True), ""
        return self._replace_controls(held) + self.reset_colours()

    def _replace_controls(self, text: str) -> bytes:
        shown = _HARMFUL.sub(lambda control: _REPLACEMENTS[control[0]], text).encode(
            self._encoding, "backslashreplace"
        )
        last = shown.rfind(b"\x1b")
        if last >= 0:
            self._is_coloured = not shown.startswith((b"\x1b[0m", b"\x1b[m"), last)
        return shown
