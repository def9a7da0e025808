"""Sample jobs and replies for the tests of ``taskq top``."""

import json
import time
from collections.abc import Iterator, Sequence

from taskqd.cli.top.state import Snapshot, State
from taskqd.client import Facts
from tests.fakes.daemon import Request, data, refused

AT = "1970-01-12T13:46:00.000Z"


def a_job(number: int, status: str, **more: object) -> Facts:
    facts: Facts = {
        "id": number,
        "status": status,
        "queue": "default",
        "owner": "ana",
        "command": f"job-{number}",
    }
    times = {"submitted_at": AT, "started_at": AT, "completed_at": AT}
    return {**facts, **times, "exit_code": None, "progress": 0, **more}


def a_queue(name: str, **more: object) -> Facts:
    counts = dict.fromkeys(("pending", "running", "completed", "failed", "cancelled"), 0)
    return {"name": name, "slots": None, "busy": 0, "paused": False, **counts, **more}


STATS: Facts = {
    "slots": 4,
    "busy": 3,
    "uptime": 7200.0,
    "paused": False,
    "draining": False,
    "resources": {"gpu": {"total": 2, "busy": 1}},
    "jobs": {"pending": 2, "running": 2, "completed": 1, "failed": 1, "cancelled": 0},
}

RUNNING = [a_job(1, "RUNNING", progress=40), a_job(2, "RUNNING", queue="q", array=30, index=5)]

PENDING = [a_job(3, "PENDING", held=True, reason="held"), a_job(4, "PENDING", reason="queued")]

ENDED = [a_job(5, "COMPLETED", exit_code=0), a_job(6, "FAILED", exit_code=3)]

SNAPSHOT = Snapshot(
    STATS, [a_queue("default"), a_queue("q", slots=2, busy=1, paused=True)], RUNNING, PENDING, ENDED
)


def at(number: int, snapshot: Snapshot = SNAPSHOT) -> State:
    """Return a state in which the job with this id is selected."""
    state = State(address="unix:/x")
    state.update(snapshot)
    state.move(number - 1)
    return state


def watch_reply(*events: Facts) -> Iterator[bytes]:
    """Reply to WATCH with these events, then keep the connection open."""
    yield b"OK 1\r\n"
    for number, event in enumerate(events, 1):
        yield b"EVENT %d " % number + json.dumps(event).encode() + b"\r\n"
    while True:
        time.sleep(0.01)
        yield b""


def list_reply(jobs: Sequence[Facts]) -> bytes:
    """Return the reply to a LIST."""
    return b"".join(b"JOB " + json.dumps(job).encode() + b"\r\n" for job in jobs) + b"END 2\r\n"


def answer(request: Request) -> bytes | Iterator[bytes]:
    """Reply as a daemon with jobs of each status."""
    if request.verb == "LIST":
        return list_reply(
            RUNNING if "RUNNING" in request.line else PENDING if "start" in request.line else ENDED
        )
    if request.verb == "SHOW":
        jobs = [job for job in (*RUNNING, *PENDING, *ENDED) if request.line == f"SHOW {job['id']}"]
        return list_reply(jobs).removesuffix(b"END 2\r\n") or refused("GONE", "removed")
    queues = [b"QUEUE " + json.dumps(queue).encode() + b"\r\n" for queue in SNAPSHOT.queues]
    answers: dict[str, bytes | Iterator[bytes]] = {
        "WATCH": watch_reply(),
        "STATS": b"STATS " + json.dumps(STATS).encode() + b"\r\n",
        "QUEUES": b"".join(queues) + b"END 2\r\n",
        "OUTPUT": data("stdout", 0, b"hello from the job\n"),
        "RETRY": b"JOB_ID 5\r\n",
        "PAUSE": b"OK\r\n",
        "RESUME": b"OK\r\n",
    }
    return answers.get(request.verb, b"STATUS PENDING 0\r\n")


def event(kind: str, job: int, **more: object) -> Facts:
    return {"type": kind, "id": job, **more}
