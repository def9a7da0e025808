"""Results of Deferreds that have fired."""

from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Value = TypeVar("Value")


def result_of(deferred: "Deferred[Value]") -> Value:
    """Return the result of a Deferred; fails the test if it has not fired, raises its error."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "the Deferred has not fired"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return cast("Value", results[0])


def error_of(deferred: "Deferred[Any]") -> BaseException:
    """Return the error of a Deferred that has failed."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "the Deferred has not fired"
    assert isinstance(results[0], Failure), f"no error, but {results[0]!r}"
    return cast("BaseException", results[0].value)


def begin(coroutine: "Coroutine[Deferred[Any], Any, Value]") -> "Deferred[Value]":
    """Start a coroutine and return its Deferred."""
    return Deferred.fromCoroutine(coroutine)
