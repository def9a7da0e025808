"""The command line ``taskq``. It has to start fast: no Twisted, no msgspec, and rich only where it draws."""

from taskqd.cli.group import main

__all__ = ["main"]
