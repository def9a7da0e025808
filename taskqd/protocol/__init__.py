"""The line protocol: text to values and back (docs/protocol.md)."""
