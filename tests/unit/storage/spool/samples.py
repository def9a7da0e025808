"""A spool whose file system and threads the test controls."""

from pathlib import Path

from taskqd.storage.spool.output import OutputWriter
from taskqd.storage.spool.spool import Spool
from tests.fakes.clocks import Threads, clock
from tests.fakes.deferreds import result_of
from tests.fakes.filesystem import FakeFilesystem


class Bench:
    """A spool on a fake file system, with threads that the test runs."""

    def __init__(self, directory: Path) -> None:
        self.filesystem = FakeFilesystem()
        self.clock = clock()
        self.threads = Threads()
        self.directory = directory
        self.spool = Spool(str(directory), self.filesystem, self.threads)
        self.spool.open()

    def open_output(self, job_id: int, attempt: int, limit: int = 10**9) -> OutputWriter:
        """Open an attempt, and return what a runner writes its output with."""
        self.spool.open_attempt(job_id, attempt)
        paths = self.spool.output_paths(job_id, attempt)
        return OutputWriter(paths, self.filesystem, self.clock, self.threads, limit, [])

    def read(self, stream: int, offset: int, length: int, attempt: int = 1) -> bytes:
        piece = self.spool.read_output(7, attempt, stream, offset, length)
        self.threads.run()
        return result_of(piece)

    def reports(self, content: bytes) -> int:
        Path(self.spool.path(7, "progress")).write_bytes(content)
        return self.spool.read_progress(7).percent


def present(bench: Bench) -> set[str]:
    """Return the names of all files of the spool."""
    return {path.name for path in bench.directory.rglob("*") if path.is_file()}


def filled(bench: Bench, *names: str) -> None:
    """Create files of jobs below 1000."""
    for name in names:
        is_output = name.endswith(("stdout", "stderr", "order"))
        kind = "output" if is_output else "input" if "." in name else "progress"
        directory = bench.directory / kind if kind == "progress" else bench.directory / kind / "0"
        directory.mkdir(exist_ok=True)
        (directory / name).touch()
