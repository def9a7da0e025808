"""The exceptions of taskqd, each with its code on the wire (docs/protocol.md §7).

The server answers a TaskqError with one ``ERROR`` line, and any other exception, which is a bug, with
``INTERNAL``.
"""

import errno
from typing import ClassVar


class TaskqError(Exception):
    """A request or a start was refused; the text says what was refused, why, and what to do."""

    code: ClassVar[str] = "INTERNAL"


class BadRequest(TaskqError):
    """The request does not have the syntax of its verb."""

    code = "BAD_REQUEST"


class UnknownCommand(TaskqError):
    """The first word of the line is not a verb of this server."""

    code = "UNKNOWN_COMMAND"


class LineTooLong(TaskqError):
    """A line is longer than the limit."""

    code = "LINE_TOO_LONG"


class TooLarge(TaskqError):
    """A block or a reply is larger than the limit."""

    code = "TOO_LARGE"


class NoSuchJob(TaskqError):
    """No job or schedule has had this id."""

    code = "NO_SUCH_JOB"


class Gone(TaskqError):
    """The job with this id has been removed."""

    code = "GONE"


class WrongState(TaskqError):
    """The command is not possible in the status of the job."""

    code = "WRONG_STATE"


class LabelInUse(WrongState):
    """A submission names a label with --unless, and a job with that label is pending or running."""


class KeyConflict(TaskqError):
    """The key belongs to a job with another command or other options."""

    code = "KEY_CONFLICT"


class Forbidden(TaskqError):
    """The client is not permitted to do this."""

    code = "FORBIDDEN"


class AuthFailed(TaskqError):
    """The credentials are invalid."""

    code = "AUTH_FAILED"


class NotFinished(TaskqError):
    """The job has no result yet; the client may retry."""

    code = "NOT_FINISHED"


class AuthRequired(TaskqError):
    """The client must authenticate first; then the client may retry."""

    code = "AUTH_REQUIRED"


class TimedOut(TaskqError):
    """The job did not end within the timeout of the request; the client may retry."""

    code = "TIMED_OUT"


class Lagged(TaskqError):
    """A subscriber is too slow, or asks for events that are not available any more; the client may retry.

    The text is the ``sequence`` to continue from: all events from it on are available.
    """

    code = "LAGGED"

    def __init__(self, sequence: int) -> None:
        super().__init__(str(sequence))
        self.sequence = sequence


class QueueFull(TaskqError):
    """A limit of pending jobs, connections or requests is reached; the client may retry."""

    code = "QUEUE_FULL"


class Draining(TaskqError):
    """The server is stopping and accepts no jobs; the client may retry."""

    code = "DRAINING"


class StoreFailed(TaskqError):
    """The journal could not be written or synced, so nothing was accepted; the client may retry."""

    code = "STORE_FAILED"


class BlocksLost(StoreFailed):
    """The files of a schedule are gone, so its job was not accepted; a retry does not help."""


class StartRefused(TaskqError):
    """The daemon cannot start; the text is one line for the operator."""


class SettingsError(StartRefused):
    """A setting is invalid; the text names the file or option, the setting and what was expected."""


class JournalDamaged(StartRefused):
    """A record of the journal is damaged; the text names the file and the line."""


SHORTAGES = frozenset((errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""The errno values of system calls that fail because the machine lacks processes, descriptors or memory."""


def is_shortage(error: BaseException | None) -> bool:
    """Whether a start failed because the machine lacks resources, rather than because of the job."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORTAGES)
