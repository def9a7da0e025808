"""Times, and a stdout with a given encoding."""

import io

NOW = 1_000_000.0
AT = "1970-01-12T13:46:40.000Z"
"""The time of NOW."""
EARLIER = "1970-01-12T13:43:40.000Z"
LATER = "1970-01-12T15:46:40.000Z"


class Stream(io.StringIO):
    """A stdout with a given encoding, which is a terminal or not."""

    def __init__(self, encoding: str, is_terminal: bool = True) -> None:
        super().__init__()
        self._encoding = encoding
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal
