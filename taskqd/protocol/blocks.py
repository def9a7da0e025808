"""The raw blocks that follow a SUBMIT line, each with a line end behind it (docs/protocol.md §3)."""

from taskqd.errors import BadRequest


class BlockReader:
    """Takes the bytes of blocks of known sizes as they come, in whatever pieces, and keeps them or not.

    ``wanted`` is how many bytes it can take at most; when it is 0, all blocks are there. What is thrown away
    is not ``is_kept``.
    """

    def __init__(self, sizes: tuple[int, ...], is_kept: bool) -> None:
        self.blocks: list[bytes] = []
        self._sizes = list(sizes)
        self.is_kept = is_kept
        self._pieces: list[bytes] = []
        self._left = sizes[0]
        self._may_be_cr = True

    @property
    def wanted(self) -> int:
        """The bytes to be fed next, at most; 1 where a line end is due."""
        return (self._left or 1) if self._sizes else 0

    def feed(self, data: bytes) -> None:
        """Take up to ``wanted`` bytes; raises BadRequest where a line end is due and something else comes."""
        if self._left:
            self._left -= len(data)
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
        self._left = self._sizes[0] if self._sizes else 0
        self._may_be_cr = True
