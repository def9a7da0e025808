"""Outcomes as the messages that report them, and back."""

from taskqd.execution.messages import AttemptKey, Ended
from taskqd.execution.run import Outcome
from taskqd.model.job import Reason

RUNNER_KILLED = "its runner was killed"
"""The detail of attempts whose runner has ended without saying what became of them."""
SUSPECTED = f"{RUNNER_KILLED} while this was the newest job to start"
"""The detail of the one of these attempts that was the last to start: it may have killed the runner."""


def ended_message(key: AttemptKey, outcome: Outcome, at: float) -> Ended:
    """Return the message for the end of an attempt at a time of day."""
    return Ended(
        id=key.id,
        attempt=key.attempt,
        word=key.word,
        at=at,
        reason=None if outcome.reason is None else outcome.reason.value,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        detail=outcome.detail,
        stdout=outcome.stdout,
        stderr=outcome.stderr,
        usage=outcome.usage,
        is_shortage=outcome.is_shortage,
        is_void=outcome.is_void,
        pid=outcome.pid,
        order=outcome.order,
        suspended=outcome.suspended,
    )


def outcome_of(ended: Ended, *, is_late: bool = False) -> Outcome:
    """Return the outcome that a message reports; one that ``is_late`` has the time of the end."""
    return Outcome(
        reason=None if ended.reason is None else parse_reason(ended.reason),
        exit_code=ended.exit_code,
        signal=ended.signal,
        detail=ended.detail,
        stdout=ended.stdout,
        stderr=ended.stderr,
        usage=ended.usage,
        is_shortage=ended.is_shortage,
        is_void=ended.is_void,
        pid=ended.pid,
        order=ended.order,
        ended_at=ended.at if is_late else None,
        suspended=ended.suspended,
    )


def parse_reason(text: str) -> Reason:
    """Return the reason in a message; one that this release does not know is an interruption."""
    try:
        return Reason(text)
    except ValueError:
        return Reason.INTERRUPTED
