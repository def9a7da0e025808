"""The place up to which the output of a job was read, to continue there on another connection (FOLLOW)."""

from collections.abc import Callable

from taskqd.client.decoder import LogPiece, Output


class FollowPosition:
    """An attempt of a job, and the next offset of each of its streams.

    The offsets are given for the attempt that is the latest at the first ``resume``.
    """

    def __init__(self, stdout: int = 0, stderr: int = 0) -> None:
        self.offsets = {"stdout": stdout, "stderr": stderr}
        self.is_new = True
        self._attempt: int | None = 0
        """The attempt to which the offsets belong; None if it is uncertain."""

    def resume(self, attempts: int) -> bool:
        """Continue with a job that has this many attempts; return whether its output starts over.

        It does if the job is in another attempt than the offsets, or if that is uncertain.
        """
        if self.is_new or attempts == self._attempt:
            self._attempt = attempts
            self.is_new = False
            return False
        had_output = any(self.offsets.values())
        self._start_attempt(attempts)
        return had_output

    def advance(self, piece: Output | LogPiece, count_attempts: Callable[[], int]) -> None:
        """Move behind a piece of output; one that does not continue its stream begins a later attempt.

        ``count_attempts`` returns how many attempts the job has now.
        """
        if self._attempt == 0 or piece.offset < self.offsets[piece.stream]:
            self._start_attempt(self._next_attempt(count_attempts))
        self.offsets[piece.stream] = piece.offset + len(piece.data)

    def _start_attempt(self, attempt: int | None) -> None:
        self._attempt = attempt
        self.offsets = {"stdout": 0, "stderr": 0}

    def _next_attempt(self, count_attempts: Callable[[], int]) -> int | None:
        """Return the attempt after the known one, or None if several are possible."""
        if self._attempt is None:
            return None
        attempts = count_attempts()
        return attempts if attempts == self._attempt + 1 else None


def describe_restart(job: object) -> str:
    """Return the message that the output of a job starts over."""
    return f"job {job} is running again; its output starts from the beginning"
