"""The editor of the user, and the file that it opens."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

_SHELL = "/bin/sh"


class EditedFile:
    """A file with a text, in a directory that only its user can enter, until it is ``removed``."""

    def __init__(self, name: str, text: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="taskq-edit-")) / name
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))

    def read(self) -> str:
        """Return the text; an editor may have replaced the file, or removed it, which is an empty text."""
        try:
            return self.path.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""

    def edit(self) -> int:
        """Open the file in the editor; return the exit code of that, below 0 if a signal ended it."""
        editor = find_editor()
        ignored = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGQUIT)]
        try:
            for number, _ in ignored:  # Ctrl-C is for the editor, which does not inherit these handlers
                signal.signal(number, lambda *_: None)
            return subprocess.run([_SHELL, "-c", f'{editor} "$@"', editor, self.path], check=False).returncode
        finally:
            for number, handler in ignored:
                signal.signal(number, handler)

    def remove(self) -> None:
        """Remove the file, its directory, and what an editor has left in it."""
        shutil.rmtree(self.path.parent, ignore_errors=True)


def find_editor() -> str:
    """Return the command of the editor, which may have arguments."""
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    return chosen or ("sensible-editor" if shutil.which("sensible-editor") else "vi")
