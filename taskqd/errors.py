"""Everything that can be refused, each with the code that says so on the wire.

The codes are the closed list of docs/protocol.md §7. The domain raises these; the protocol turns each into
one ``ERROR`` line. An error that is not of this tree is a bug of ours and is answered ``INTERNAL``.
"""

import errno
from typing import ClassVar


class TaskqError(Exception):
    """A request or a start that was refused; its text says what was expected, what came and what to do."""

    code: ClassVar[str] = "INTERNAL"


class BadRequest(TaskqError):
    """The request's text is not of the form that its verb takes."""

    code = "BAD_REQUEST"


class UnknownCommand(TaskqError):
    """The first word of the line is no verb of this server."""

    code = "UNKNOWN_COMMAND"


class LineTooLong(TaskqError):
    """A line is longer than the server reads."""

    code = "LINE_TOO_LONG"


class TooLarge(TaskqError):
    """A block or a reply is larger than the server takes or sends in one piece."""

    code = "TOO_LARGE"


class NoSuchJob(TaskqError):
    """No job ever had that id."""

    code = "NO_SUCH_JOB"


class Gone(TaskqError):
    """There was a job of that id, and it has been removed."""

    code = "GONE"


class WrongState(TaskqError):
    """The job is not in a state in which that can be done to it."""

    code = "WRONG_STATE"


class KeyConflict(TaskqError):
    """Another submission already stands under that key."""

    code = "KEY_CONFLICT"


class Forbidden(TaskqError):
    """Whoever asks may not do that."""

    code = "FORBIDDEN"


class AuthFailed(TaskqError):
    """The token is not one that the server knows."""

    code = "AUTH_FAILED"


class NotFinished(TaskqError):
    """The job has no result yet; worth another try."""

    code = "NOT_FINISHED"


class AuthRequired(TaskqError):
    """The request needs an AUTH before it; worth another try."""

    code = "AUTH_REQUIRED"


class TimedOut(TaskqError):
    """The wait's own time was up before the job ended; worth another try."""

    code = "TIMED_OUT"


class Lagged(TaskqError):
    """Who watches is too slow, or asks for events that are not there any more; worth another try.

    The text is the ``sequence`` from which on there is no gap: the number to go on with.
    """

    code = "LAGGED"

    def __init__(self, sequence: int) -> None:
        super().__init__(str(sequence))
        self.sequence = sequence


class QueueFull(TaskqError):
    """There is as much as there may be: of pending jobs, of connections, of requests; worth another try."""

    code = "QUEUE_FULL"


class Draining(TaskqError):
    """The server is stopping and takes no new work; worth another try."""

    code = "DRAINING"


class StoreFailed(TaskqError):
    """The journal could not be written or synced, so nothing was accepted; worth another try."""

    code = "STORE_FAILED"


class StartRefused(TaskqError):
    """The daemon cannot start; its text is the one line that tells the operator why."""


class SettingsError(StartRefused):
    """A setting is not what it must be; the text names the file or option, the key and what was expected."""


class JournalDamaged(StartRefused):
    """A record of the journal cannot be trusted; the text names the file and the line."""


SHORTAGES = frozenset((errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""The errors by which the system says that the machine lacks processes, descriptors or memory."""


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error is the machine's fault and not that of the job whose start met it."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORTAGES)
