"""Runs the runner, and refuses each import and each open of its installation after its start.

``python -m tests.support.sealed_runner VIOLATIONS --state DIR`` (or ``--directory DIR``): the runner has
started when ``lock`` names its process. An upgrade may remove the files of the installation under it, so
what it needs is loaded by then. Each refusal is a line in the file VIOLATIONS, since a caller may ignore an
ImportError.
"""

import itertools
import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType


class Seal:
    """Refuses imports and opens as soon as the runner of the file ``lock`` has started."""

    def __init__(self, violations: int, lock: str) -> None:
        self._violations = violations
        self._lock = lock
        self._is_closed = False
        self._is_checking = False
        self._places = tuple(
            os.path.abspath(place) + os.sep
            for place in {*sys.path, *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix + "/lib"}
            if place != "/"
        )

    def close_if_started(self) -> bool:
        """Return whether the runner has started."""
        if self._is_closed or self._is_checking:
            return self._is_closed
        self._is_checking = True
        try:
            with open(self._lock, encoding="ascii") as file:
                self._is_closed = file.read().startswith(f"{os.getpid()} ")
        except FileNotFoundError:
            pass
        finally:
            self._is_checking = False
        return self._is_closed

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse to find a module after the start (importlib.abc.MetaPathFinder)."""
        if self.close_if_started():
            self._record(f"import of {name}")
            raise ImportError(f"{name} is imported after the start of the runner")
        return None

    def on_event(self, event: str, arguments: tuple[object, ...]) -> None:
        """Refuse to open a file of the installation after the start (sys.addaudithook)."""
        if event != "open" or self._is_checking:
            return
        path = arguments[0]
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if (
            isinstance(path, str)
            and os.path.abspath(path).startswith(self._places)
            and self.close_if_started()
        ):
            self._record(f"open of {path}")
            raise OSError(f"{path} is opened after the start of the runner")

    def _record(self, violation: str) -> None:
        frames: list[str] = []
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and len(frames) < 8:
            frames.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        os.write(self._violations, f"{violation}, from {' '.join(frames)}\n".encode())


def main() -> None:
    """Seal this process and run the runner in it."""
    violations, arguments = sys.argv[1], sys.argv[2:]
    descriptor = os.open(violations, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    values = dict(itertools.pairwise(arguments))
    directory = values.get("--directory") or os.path.join(values["--state"], "runner")
    seal = Seal(descriptor, os.path.join(directory, "lock"))
    sys.meta_path.insert(0, seal)
    sys.addaudithook(seal.on_event)
    sys.argv = ["taskqd-runner", *arguments]
    from taskqd.runner.main import main as run  # noqa: PLC0415 - under the hooks, as any import of it

    run(arguments)


if __name__ == "__main__":
    main()
