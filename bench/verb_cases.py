"""Requests of all verbs to a daemon with a store of mixed_store.py, and how their replies end."""

from collections.abc import Callable
from typing import NamedTuple

Request = Callable[[int], str]
"""Returns the n-th request, counted from 0."""


class Case(NamedTuple):
    """A kind of request.

    The reply ends with the line that begins with ``last``, or, if that is empty, after ``lines`` lines.
    ``why`` is the reason if the cost grows. With ``is_stranger`` the user who has five jobs asks, with
    ``is_fresh`` each request has a new connection, and with ``is_once`` there is only one.
    """

    name: str
    request: Request
    last: str = ""
    lines: int = 1
    why: str = ""
    is_stranger: bool = False
    is_fresh: bool = False
    is_once: bool = False


SEARCH = "looks at up to 100,000 jobs per request"
ALL_JOBS = "looks at all jobs, in portions"
INDEX = "compares 1 to 7 bytes per job in an index (decision 0062)"
BLOCKS = "looks for the job in a set per 4,096 records (decision 0062)"
TASKS = "one record, but a few bytes per task"


def _same(text: str, last: str = "", *, name: str = "", lines: int = 1, why: str = "") -> Case:
    return Case(name or text, lambda _: text, last, lines, why)


def cases(jobs: int, times: int, token: str) -> list[Case]:
    """Return the cases for a store of ``jobs`` mixed jobs, to be sent ``times`` times each, in order."""
    first_pending = jobs // 2 + 1
    step = max(1, (jobs - first_pending) // (times + 1))
    watched = first_pending

    def ended(text: str, last: str = "", name: str = "") -> Case:
        return Case(name or text.split(maxsplit=1)[0], lambda n: text.format(2 + n * step), last)

    def pending(text: str, name: str, last: str = "") -> Case:
        return Case(name, lambda n: text.format(first_pending + 1 + n * step, n=n % 9), last)

    return [
        *_reads(watched),
        Case("LIST of a user who has 5 jobs", lambda _: "LIST", "END", why=INDEX, is_stranger=True),
        ended("STATUS {}"),
        ended("SHOW {}"),
        ended("RESULT {}"),
        ended("OUTPUT {} stdout --limit=1", last="h"),
        ended("LOG {}", last="END"),
        ended("WAIT {}", name="WAIT for an ended job"),
        ended("FOLLOW {}", last="STATUS", name="FOLLOW of an ended job"),
        ended("HISTORY {}", last="END", name="HISTORY of an ended job")._replace(why=BLOCKS),
        pending("HISTORY {}", "HISTORY of a pending job", last="END")._replace(why=BLOCKS),
        pending("WHY {}", "WHY"),
        *_submissions(watched),
        pending("HOLD {}", "HOLD"),
        pending("RELEASE {}", "RELEASE"),
        pending("SET {} --priority={n}", "SET --priority"),
        pending("SET {} --queue=q{n}", "SET --queue"),
        pending("CANCEL {}", "CANCEL of a pending job"),
        pending("RETRY {}", "RETRY"),
        pending("CANCEL {} --cascade", "CANCEL --cascade"),
        pending("REMOVE {}", "REMOVE"),
        *_acts_on_many(),
        *_rules(),
        *_connections(token),
        Case("SHUTDOWN, to its reply", lambda _: "SHUTDOWN", is_once=True),
    ]


def _reads(watched: int) -> list[Case]:
    lists = {  # each with the reason of its growth
        "LIST": "",
        "LIST --limit=1000": "",
        "LIST --reverse": "",
        "LIST --status=FAILED": INDEX,
        "LIST --status=RUNNING": INDEX,
        "LIST --status=FAILED,CANCELLED": INDEX,
        "LIST --queue=rare": INDEX,
        "LIST --owner=rare": INDEX,
        "LIST --label=rare": INDEX,
        "LIST --status=FAILED --owner=rare": INDEX,
        "LIST --owner=ana --queue=q7": INDEX,
        "LIST --owner=bob --queue=q7": INDEX,
        "LIST --match=rare": SEARCH,
        "LIST --match=none": SEARCH,
        "LIST --key=none": "",
        "LIST --status=COMPLETED,FAILED,CANCELLED --tasks --reverse --limit=50": INDEX,
    }
    return [
        *(_same(request, "END", why=why) for request, why in lists.items()),
        _same("STATS"),
        _same("QUEUES", "END"),
        _same(f"WATCH --job={watched}\r\nPING", name="WATCH, to its end by the next request", lines=3),
    ]


def _submissions(watched: int) -> list[Case]:
    return [
        Case("SUBMIT", lambda n: f"SUBMIT echo hello world {n}"),
        Case("SUBMIT --priority=5", lambda _: "SUBMIT --priority=5 true"),
        Case("SUBMIT --label --unless", lambda n: f"SUBMIT --unless=unless-{n} true", why=INDEX),
        Case("SUBMIT --key", lambda n: f"SUBMIT --key=key-{n} true"),
        Case("SUBMIT --after", lambda _: f"SUBMIT --after={watched} true"),
        Case("SUBMIT --array=1-10", lambda _: "SUBMIT --array=1-10 true"),
        Case("SCHEDULE", lambda _: "SCHEDULE --every=1h true"),
        _same("SCHEDULES", "END"),
        Case("UNSCHEDULE", lambda n: f"UNSCHEDULE {n + 1}"),
    ]


def _acts_on_many() -> list[Case]:
    return [
        *(_same(f"{verb} --label=rare", why=INDEX) for verb in ("HOLD", "RELEASE", "SUSPEND", "CONTINUE")),
        _same("SET --with-label=rare --priority=5", why=INDEX),
        _same("CANCEL --owner=rare --label=rare", why=INDEX),
        _same("RETRY --status=CANCELLED --label=rare", why=INDEX),
        _same("REMOVE --status=CANCELLED --label=rare", why=INDEX),
        _same("HOLD --match=none", why=ALL_JOBS),
    ]


def _rules() -> list[Case]:
    def alternating(name: str, *requests: str) -> Case:
        return Case(name, lambda n: requests[n % 2])

    return [
        Case("SET-QUEUE", lambda n: f"SET-QUEUE default --slots={n % 9 + 1}"),
        Case("SET-SLOTS", lambda n: f"SET-SLOTS {n % 9 + 1}"),
        alternating("PAUSE and RESUME of a queue", "PAUSE q7", "RESUME q7"),
        alternating("PAUSE and RESUME of all", "PAUSE", "RESUME"),
        alternating("DRAIN and DRAIN --off", "DRAIN", "DRAIN --off"),
    ]


def _connections(token: str) -> list[Case]:
    return [
        _same("PING"),
        _same("HELLO"),
        _same("HELP", "END"),
        Case("AUTH, with its connection", lambda _: f"AUTH {token}", is_fresh=True),
        Case("QUIT, with its connection", lambda _: "QUIT", is_fresh=True),
    ]


def queue_cases(queues: int) -> list[Case]:
    """Return cases for a store of mixed_store.queued_jobs, whose job 1 blocks one job per queue."""
    return [
        _same("QUEUES", "END", why="a line per queue"),
        Case("WHY", lambda n: f"WHY {2 + n % queues}"),
        Case("SUBMIT to one of them", lambda n: f"SUBMIT --queue=q{2 + n % queues} true"),
        Case("SET --queue", lambda n: f"SET {2 + n % queues} --queue=other"),
    ]


def array_cases(tasks: int) -> list[Case]:
    """Return cases for a store of mixed_store.array, whose job 2 is the array."""
    return [
        _same("STATUS 2", name="STATUS"),
        _same("SHOW 2", name="SHOW"),
        _same("LIST", "END"),
        _same("LIST --array=2", "END", name="LIST --array"),
        _same("WHY 2", name="WHY"),
        _same(f"SUBMIT --array=1-{tasks} true", name="SUBMIT of another", why=TASKS),
        Case("HOLD and RELEASE", lambda n: ("HOLD 2", "RELEASE 2")[n % 2], why=TASKS),
        Case("SET --priority", lambda n: f"SET 2 --priority={n % 9}", why=TASKS),
        Case("CANCEL and RETRY", lambda n: ("CANCEL 2", "RETRY 2")[n % 2], why=TASKS),
    ]
