"""Errors and their codes (docs/protocol.md §7)."""

import re

import pytest

from taskqd import errors
from taskqd.protocol import replies

PERMANENT = {
    *("BAD_REQUEST", "UNKNOWN_COMMAND", "LINE_TOO_LONG", "TOO_LARGE", "NO_SUCH_JOB", "GONE", "WRONG_STATE"),
    *("KEY_CONFLICT", "FORBIDDEN", "AUTH_FAILED"),
}

TRANSIENT = {
    *("NOT_FINISHED", "AUTH_REQUIRED", "TIMED_OUT", "LAGGED", "QUEUE_FULL", "DRAINING", "STORE_FAILED"),
    "INTERNAL",
}
"""The closed list of docs/protocol.md §7."""


@pytest.mark.parametrize("error", errors.TaskqError.__subclasses__())
def test_error_class_has_a_code_of_the_protocol(error: type[errors.TaskqError]) -> None:
    assert error.code in PERMANENT | TRANSIENT
    words = re.sub("(?<!^)([A-Z])", r"_\1", error.__name__).upper()
    assert error.code in (words, "INTERNAL")
    may_retry = "may retry" in str(error.__doc__)
    assert may_retry == (error.code in TRANSIENT - {"INTERNAL"})


def test_start_refused_is_an_internal_error() -> None:
    assert issubclass(errors.SettingsError, errors.StartRefused)
    assert issubclass(errors.JournalDamaged, errors.StartRefused)
    assert errors.StartRefused.code == "INTERNAL"


def test_lagged_has_the_number_to_continue_with() -> None:
    lagged = errors.Lagged(17)
    assert (lagged.sequence, replies.error(lagged)) == (17, b"ERROR LAGGED 17\r\n")
