"""The command ``taskq``. It must start fast: no Twisted, no msgspec, and rich only to draw tables and bars.

This module imports nothing that takes time, so that Ctrl-C is handled before the slow imports begin.
"""

import _signal  # type: ignore[import-not-found]
import gc
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command and exit."""
    if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))
    gc.disable()  # until the modules of the command are imported, see ``Command.invoke``
    _open_standard_streams()
    from taskqd.cli.app import main as run  # noqa: PLC0415

    run()


def _open_standard_streams() -> None:
    """Open /dev/null for closed standard streams, so that no socket gets their descriptor numbers."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115
