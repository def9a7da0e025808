"""Reads the raw blocks after a line of SUBMIT or SCHEDULE, each with a line end (docs/protocol.md §3)."""

from taskqd.errors import BadRequest


class BlockReader:
    """Reads blocks of known sizes, in pieces of any size; keeps them only if ``is_kept``."""

    def __init__(self, sizes: tuple[int, ...], is_kept: bool) -> None:
        self.blocks: list[bytes] = []
        self.is_kept = is_kept
        self._sizes = list(sizes)
        self._pieces: list[bytes] = []
        self._missing = sizes[0]
        self._may_be_cr = True

    @property
    def wanted(self) -> int:
        """The maximum number of bytes to feed next: 1 if a line end is expected, 0 if all blocks are read."""
        return (self._missing or 1) if self._sizes else 0

    def feed(self, data: bytes) -> None:
        """Read up to ``wanted`` bytes; raises BadRequest if a block is not followed by a line end."""
        if self._missing:
            self._missing -= len(data)
            if self.is_kept:
                self._pieces.append(data)
        elif data == b"\r" and self._may_be_cr:
            self._may_be_cr = False
        elif data == b"\n":
            self._end_block()
        else:
            raise BadRequest(f"expected CRLF after the {self._sizes[0]} bytes of a block, not {data!r}")

    def _end_block(self) -> None:
        self.blocks.append(b"".join(self._pieces))
        self._pieces = []
        del self._sizes[0]
        self._missing = self._sizes[0] if self._sizes else 0
        self._may_be_cr = True
