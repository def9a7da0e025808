"""Receives lines in time that is linear in their length: LineOnlyReceiver copies a long one at each read."""

from twisted.protocols.basic import LineOnlyReceiver


class LineReceiver(LineOnlyReceiver):
    """A LineOnlyReceiver that keeps the pieces of a line until its end arrives."""

    delimiter = b"\n"
    _pieces: tuple[bytearray, ...] = ()  # none, or one

    def dataReceived(self, data: bytes) -> None:
        """Handle the lines that are complete."""
        if b"\n" in data:
            if self._pieces:
                data = bytes(self._pieces[0]) + data
                self._pieces = ()
            super().dataReceived(data)  # type: ignore[no-untyped-call]
            return
        if not self._pieces:
            self._pieces = (bytearray(),)
        self._pieces[0].extend(data)
        if len(self._pieces[0]) > self.MAX_LENGTH:
            self._pieces = ()
            self.lineLengthExceeded(b"")  # type: ignore[no-untyped-call]
