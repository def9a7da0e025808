"""Clients that do everything at once, and hold each answer against the model."""

import json
import random
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from tests.end_to_end.wire import Data, Result, Wire
from tests.torture.history import AttemptEnd, check_ends, check_history, read_history
from tests.torture.kinds import End, Plan
from tests.torture.model import FINAL, Broken, Model, Shown, Task

MAX_OPEN_JOBS = 150
"""If this many jobs have not ended, clients submit no more."""
BURST = 25
MAX_LOG = 16 * 1024**2
"""Bytes of a log in one reply."""
_STATUS = re.compile("STATUS ([A-Z]+) ([0-9]{1,3})")


class Lost(Exception):
    """The daemon is gone, or there is none."""


class Connection(Wire):
    """A connection that may be lost at any moment."""

    def send(self, data: bytes) -> None:
        try:
            super().send(data)
        except TimeoutError:
            raise Broken("a daemon reads what it is sent", None, data[:200]) from None
        except OSError as why:
            raise Lost(str(why)) from None

    def _receive(self) -> bool:
        try:
            is_more = super()._receive()
        except TimeoutError:
            raise Broken("every request is answered", None, "nothing for a minute") from None
        except OSError as why:
            raise Lost(str(why)) from None
        if not is_more:
            raise Lost("the connection has ended")
        return True


def connect(path: Path) -> Connection:
    """Return a new connection; raises Lost."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError as why:
        connection.close()
        raise Lost(str(why)) from None
    return Connection(connection)


class Client(Thread):
    """A client that sends random requests, and reconnects when the daemon is gone, until it is stopped."""

    def __init__(self, name: str, model: Model, path: Path, chance: random.Random, on_answer: Event) -> None:
        super().__init__(name=name, daemon=True)
        self.broken: BaseException | None = None
        self._model = model
        self._path = path
        self._chance = chance
        self._on_answer = on_answer
        self._stopping = Event()
        self._wire: Connection

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._session()
        except BaseException as why:  # noqa: BLE001 - the campaign looks at it and ends
            self.broken = why

    def _session(self) -> None:
        try:
            self._wire = connect(self._path)
        except Lost:
            self._stopping.wait(0.01)
            return
        try:
            while not self._stopping.is_set():
                self._act()
        except Lost:
            pass
        finally:
            self._wire.close()

    def _act(self) -> None:
        act = self._chance.choices(list(_ACTS), list(_ACTS.values()))[0]
        if act in _SUBMITTING and self._model.open() >= MAX_OPEN_JOBS:
            act = Client._wait
        act(self)

    # submissions

    def _submit(self) -> None:
        self._send_all([self._model.new(self._chance, self.name)])

    def _submit_after(self) -> None:
        """Submit a job that waits for the end of another, which may be removed meanwhile."""
        first = self._model.pick(self._chance, {"PENDING", "RUNNING"})
        if first is not None:
            task = self._model.new(self._chance, self.name)
            task.plan = task.plan._replace(options=f"{task.plan.options} --after-any={first.id}".strip())
            self._send_all([task])

    def _submit_many(self) -> None:
        count = self._chance.randint(2, BURST)
        self._send_all([self._model.new(self._chance, self.name) for _ in range(count)])

    def _repeat_unanswered(self) -> None:
        task = self._model.to_repeat()
        if task is not None:
            self._send_all([task])

    def _send_all(self, tasks: list[Task]) -> None:
        """Submit, pipelined, and take the answers; those that get none may have been taken all the same."""
        waiting = list(tasks)
        try:
            for task in tasks:
                self._model.sending(task)
            self._wire.send(b"".join(task.plan.request(task.token, task.key) for task in tasks))
            while waiting:
                reply = self._wire.line()
                self._submitted(waiting.pop(0), reply)
        finally:
            for task in waiting:
                self._model.unanswered(task)

    def _submitted(self, task: Task, reply: str) -> None:
        is_missing = reply.startswith("ERROR GONE ") and "--after-any" in task.plan.options
        if is_missing or reply.startswith("ERROR DRAINING "):
            self._model.refused(task)
            return
        self._model.taken(task, _job_id(task, reply))
        self._on_answer.set()

    def _submit_and_hang_up(self) -> None:
        task = self._model.new(self._chance, self.name)
        self._model.sending(task)
        request = task.plan.request(task.token, task.key)
        try:
            self._wire.send(request[: self._chance.randint(1, len(request))])
        finally:
            self._model.unanswered(task)
        raise Lost("hung up")

    def _repeat(self) -> None:
        """Repeat a submission with its key, and submit something else with the same key."""
        task = self._model.borrow_keyed(self._chance)
        if task is None:
            return
        other = Plan("conflict", f"echo {task.token}", lambda _: End(None, b""))
        token = f"conflict-{task.token}"
        self._model.refuse(token, other, task.key)
        try:
            self._wire.send(task.plan.request(task.token, task.key) + other.request(token, task.key))
            same, conflict = self._wire.lines(2)
        finally:
            self._model.return_keyed(task)
        if same.startswith("ERROR DRAINING "):
            return
        self._model.taken(task, _job_id(task, same))
        if not conflict.startswith(("ERROR KEY_CONFLICT ", "ERROR DRAINING ")):
            raise Broken("another submission under a known key is refused", task, conflict)

    def submit_again(self, wire: Connection, task: Task) -> None:
        """Repeat a submission that got no reply; called from another thread."""
        self._wire = wire
        self._send_all([task])

    # queries

    def _wait(self) -> None:
        self._status_by("WAIT", {"PENDING", "RUNNING"}, " --timeout=150ms")

    def _status(self) -> None:
        self._status_by("STATUS", FINAL | {"PENDING", "RUNNING"}, "")

    def _status_by(self, verb: str, statuses: set[str], options: str) -> None:
        task = self._model.pick(self._chance, statuses)
        if task is None:
            return
        asked = time.monotonic()
        reply = self._wire.ask(f"{verb} {task.id}{options}")
        if reply.startswith("ERROR TIMED_OUT ") and verb == "WAIT":
            return
        if self._is_gone(task, reply):
            return
        status = self._status_in(task, reply, asked)
        if verb == "WAIT" and status not in FINAL and not task.retries:
            raise Broken("WAIT answers when the job has ended", task, reply)

    def _status_in(self, task: Task, reply: str, asked: float) -> str:
        form = _STATUS.fullmatch(reply)
        if form is None or int(form[2]) > 100 or (form[1] == "COMPLETED") != (form[2] == "100"):
            raise Broken("a status is answered", task, reply)
        self._model.status_seen(task, form[1], asked)
        return form[1]

    def _is_gone(self, task: Task, reply: str) -> bool:
        if not reply.startswith("ERROR GONE "):
            return False
        self._model.gone(task, time.monotonic())
        return True

    def _show(self) -> None:
        task = self._model.pick(self._chance, {"PENDING", "RUNNING"})
        if task is not None:
            noted = self._model.attempts(task)
            job = self._shown(task, f"SHOW {task.id}")
            if job is not None:
                self._model.check_noted(task, noted, job)

    def _shown(self, task: Task, request: str) -> Shown | None:
        asked = time.monotonic()
        reply = self._wire.ask(request)
        return None if self._is_gone(task, reply) else self._job_in(task, reply, asked)

    def _job_in(self, task: Task, reply: str, asked: float) -> Shown:
        if not reply.startswith("JOB "):
            raise Broken("a job is shown", task, reply)
        job: Shown = json.loads(reply[4:])
        if self._model.observed(job, asked, time.monotonic()) is not task:
            raise Broken("the job that was asked for is shown", task, job)
        return job

    def _list(self) -> None:
        task = self._model.pick(self._chance, set())
        if task is None:
            return
        asked = time.monotonic()
        for job in self._wire.list(
            self._chance.choice((f"--from={task.id} --limit=20", "--reverse --limit=20"))
        ):
            self._model.observed(job, asked, time.monotonic())

    def _read_running(self) -> None:
        """Read the output of a running job: a prefix of its final output."""
        task = self._model.pick(self._chance, {"RUNNING"})
        if task is None:
            return
        asked = time.monotonic()
        self._wire.send(b"SHOW %d\r\nOUTPUT %d stdout --limit=16M\r\nSHOW %d\r\n" % ((task.number,) * 3))
        first = self._wire.line()
        data = self._data()
        second = self._wire.line()
        if data is None or self._is_gone(task, first) or self._is_gone(task, second):
            return
        before, after = (self._job_in(task, reply, asked) for reply in (first, second))
        if before["attempts"] == after["attempts"] and before["started_at"] == after["started_at"]:
            end = task.plan.end(after["attempts"]) if after["attempts"] else End(None, b"")
            if not end.stdout.startswith(data.data):
                raise Broken("output is what was printed", task, (data, before, after))

    def _data(self) -> Data | None:
        """Return the next reply, a DATA block; None if the job is gone."""
        line = self._wire.line()
        if line.startswith("ERROR GONE "):
            return None
        form = re.fullmatch(r"DATA (stdout|stderr) ([0-9]+) ([0-9]+)", line)
        if form is None:
            raise Broken("output can be read", None, line)
        data = self._wire.read(int(form[3]))
        if self._wire.read(2) != b"\r\n":
            raise Broken("a block ends in CRLF", None, line)
        return Data(form[1], int(form[2]), data)

    # control

    def _cancel(self) -> None:
        task = self._model.pick(self._chance, {"PENDING", "RUNNING"})
        if task is None:
            return
        self._model.cancelling(task)
        asked = time.monotonic()
        reply = self._wire.ask(f"CANCEL {task.id}" + self._chance.choice(("", "", " --signal=KILL")))
        if reply.startswith("ERROR WRONG_STATE ") or self._is_gone(task, reply):
            return
        if self._status_in(task, reply, asked) not in {"CANCELLED", "RUNNING"}:
            raise Broken("a cancel is decided when it is answered", task, reply)
        self._model.cancelled(task)
        self._on_answer.set()

    def _retry(self) -> None:
        task = self._model.pick(self._chance, FINAL)
        job = self._shown(task, f"SHOW {task.id}") if task else None
        if task is None or job is None or job["status"] not in FINAL:
            return
        self._model.retrying(task)
        reply = self._wire.ask(f"RETRY {task.id}")
        if reply.startswith("ERROR WRONG_STATE ") or self._is_gone(task, reply):
            return
        if _job_id(task, reply) != task.id:
            raise Broken("a retried job keeps its id", task, reply)
        self._model.retried(task, job["attempts"])
        self._on_answer.set()

    def _change_mind(self) -> None:
        """Hold a job, change it, and release it; a kill in between leaves it held."""
        task = self._model.pick(self._chance, {"PENDING"})
        if task is None:
            return
        values = self._chance.choice(
            ("--priority=7", "--queue=b", "--kill-after=2s", "--delay=50ms --priority=0")
        )
        asked = time.monotonic()
        self._wire.send(f"HOLD {task.id}\r\nSET {task.id} {values}\r\nRELEASE {task.id}\r\n".encode())
        for reply in self._wire.lines(3):
            if reply.startswith("JOB "):
                self._job_in(task, reply, asked)
            elif not reply.startswith("ERROR WRONG_STATE ") and not self._is_gone(task, reply):
                self._status_in(task, reply, asked)
        self._on_answer.set()

    def _suspend(self) -> None:
        """Suspend a job and continue it; a kill in between leaves it suspended."""
        task = self._model.pick(self._chance, {"RUNNING"})
        if task is None:
            return
        asked = time.monotonic()
        for request in ("SUSPEND", "CONTINUE"):
            reply = self._wire.ask(f"{request} {task.id}")
            if not reply.startswith("ERROR WRONG_STATE ") and not self._is_gone(task, reply):
                self._status_in(task, reply, asked)
            self._on_answer.set()

    def _pause(self) -> None:
        """Pause a queue or all queues for a moment; a kill in between leaves it paused."""
        queue = self._chance.choice(("a", "b", ""))
        slots = self._chance.choice(("1", "2", "none", "default"))
        fair = self._chance.choice(("true", "false", "default"))
        change = f"SET-QUEUE a --slots={slots} --fair={fair}"
        all_slots = f"SET-SLOTS {self._chance.choice(('2', '5', 'default'))}"
        self._wire.send(f"PAUSE {queue}\r\n{change}\r\n{all_slots}\r\nRESUME {queue}\r\n".encode())
        for reply in self._wire.lines(4):
            if not reply.startswith(("OK", 'QUEUE {"name":"a",')):
                raise Broken("a decision about a queue is answered", None, reply)

    def _remove(self) -> None:
        """Check a job that has ended, then remove it."""
        task = self._model.pick(self._chance, FINAL)
        if task is None or not self.verify(self._wire, task) or not self._model.may_remove(task):
            return
        reply = self._wire.ask(f"REMOVE {task.id}")
        if reply.startswith("ERROR WRONG_STATE "):
            if not task.retries:
                raise Broken("a job that has ended can be removed", task, reply)
            return
        if self._is_gone(task, reply):
            return
        if reply != "OK":
            raise Broken("a removal is answered", task, reply)
        self._model.gone(task, time.monotonic(), is_acknowledged=True)
        self._on_answer.set()
        self._ask_for_gone(task)

    def _ask_for_gone(self, task: Task) -> None:
        verb = self._chance.choice(("SHOW", "STATUS", "RESULT", "RETRY", "CANCEL", "REMOVE", "HISTORY"))
        reply = self._wire.ask(f"{verb} {task.id}")
        if not reply.startswith("ERROR GONE "):
            raise Broken("what was removed is GONE", task, (verb, reply))

    def verify(self, wire: Connection, task: Task) -> bool:
        """Check a job's end: description, result and history; False if it has not ended or is gone."""
        self._wire = wire
        attempts_at_retry = task.attempts_at_retry
        noted = self._model.notes(task)
        asked = time.monotonic()
        wire.send(b"SHOW %d\r\nRESULT %d\r\nHISTORY %d\r\nSHOW %d\r\n" % ((task.number,) * 4))
        first, result = wire.lines(2)
        history = read_history(wire)
        second = wire.line()
        if self._is_gone(task, first) or self._is_gone(task, second):
            return False
        before, after = (self._job_in(task, reply, asked) for reply in (first, second))
        self._model.check_noted(task, [note.attempt for note in noted], before)
        if before != after or after["status"] not in FINAL:
            return False
        if task.retries and not self._is_still(task, after):
            return False
        end = self._model.check_end(task, after, attempts_at_retry)
        ends = check_history(task, history, after, noted, self._model)
        check_ends(task, ends, self._model.notes(task), self._model)
        self._check_result(task, after, result, end)
        self._check_log(task, after)
        for attempt in ends:
            if attempt.reason != "undone" and attempt.attempt < after["attempts"]:
                self._check_earlier(task, attempt)
        return True

    def _check_earlier(self, task: Task, attempt: AttemptEnd) -> None:
        """Check the output of an attempt before the last one."""
        end = task.plan.end(attempt.attempt)
        is_exact = end.is_exact and attempt.reason not in {"interrupted", "cancelled"}
        for stream, whole in (("stdout", end.stdout), ("stderr", end.stderr)):
            if task.plan.kind == "nowhere" and stream == "stderr":
                continue  # it has the shell's error message
            self._wire.send(
                b"OUTPUT %d %b --attempt=%d --limit=16M\r\n" % (task.number, stream.encode(), attempt.attempt)
            )
            data = self._data()
            if data is None:
                return
            if not (data.data == whole if is_exact else whole.startswith(data.data)):
                raise Broken("the output of every attempt is byte-exact", task, (data.data[:500], attempt))

    def _check_log(self, task: Task, job: Shown) -> None:
        """Check that the log has all bytes of both streams, each without a gap."""
        self._wire.send(b"LOG %d --limit=16M\r\n" % task.number)
        sizes = {"stdout": 0, "stderr": 0}
        while (line := self._wire.line()).startswith("DATA "):
            stream, offset, length = line.split(" ")[1:4]
            if int(offset) != sizes[stream]:
                raise Broken("a log has each stream without a gap", task, (line, sizes))
            sizes[stream] += len(self._wire.read(int(length)))
            self._wire.read(len(b"\r\n"))
        if line.startswith("ERROR GONE ") or not self._is_still(task, job):
            return
        wanted = {stream: job[f"{stream}_bytes"] for stream in sizes}
        if sum(wanted.values()) <= MAX_LOG and sizes != wanted:
            raise Broken("a log has all of both streams", task, (line, sizes, job))

    def _is_still(self, task: Task, job: Shown) -> bool:
        """Whether a job has not changed."""
        return self._shown(task, f"SHOW {task.id}") == job

    def _check_result(self, task: Task, job: Shown, reply: str, end: End | None) -> None:
        if reply.startswith("ERROR TOO_LARGE "):
            result = self._read_all(task, job)
            if result is None:
                return
        elif reply.startswith("RESULT "):
            result = _result(task, reply)
        else:
            raise Broken("a job that has ended has a result", task, (reply, job))
        expected = end or End(None, b"", b"", "-")
        streams = [(result.stdout, expected.stdout), (result.stderr, expected.stderr)]
        if task.plan.kind == "nowhere":
            del streams[1]  # it has the shell's error message
        for found, whole in streams:
            is_right = found == whole if expected.is_exact else whole.startswith(found)
            if not is_right:
                raise Broken("results are byte-exact", task, (found[:500], whole[:500], job))
        if expected.is_exact and result.exit_code != expected.exit_code:
            raise Broken("the exit code is the job's", task, (reply[-100:], job))
        if (len(result.stdout), len(result.stderr)) != (job["stdout_bytes"], job["stderr_bytes"]):
            raise Broken("SHOW knows the size of the output", task, (reply[-100:], job))

    def _read_all(self, task: Task, job: Shown) -> Result | None:
        """Read both streams in parts; None if the job was retried or removed meanwhile."""
        found = []
        for stream in ("stdout", "stderr"):
            pieces: list[bytes] = []
            while len(pieces) < 100:
                offset = sum(map(len, pieces))
                self._wire.send(b"OUTPUT %d %b --offset=%d\r\n" % (task.number, stream.encode(), offset))
                piece = self._data()
                if piece is None:
                    return None
                if not piece.data:
                    break
                pieces.append(piece.data)
            found.append(b"".join(pieces))
        code = "-" if job["exit_code"] is None else str(job["exit_code"])
        return Result(found[0], found[1], code) if self._is_still(task, job) else None


def _job_id(task: Task, reply: str) -> int:
    form = re.fullmatch("JOB_ID ([1-9][0-9]*)", reply)
    if form is None:
        raise Broken("a submission is answered with an id", task, reply)
    return int(form[1])


def _result(task: Task, reply: str) -> Result:
    """Parse a RESULT line."""
    wire = _Read(reply)
    try:
        return wire.read_result()
    except AssertionError as why:
        raise Broken("a result is well-formed", task, str(why)) from None


class _Read(Wire):
    """A line that was read before."""

    def __init__(self, line: str) -> None:
        self._line = line

    def line(self) -> str:
        return self._line


Act = Callable[[Client], None]

_ACTS: dict[Act, int] = {
    Client._submit: 26,
    Client._submit_many: 5,
    Client._submit_after: 4,
    Client._repeat_unanswered: 12,
    Client._repeat: 4,
    Client._submit_and_hang_up: 1,
    Client._wait: 12,
    Client._status: 6,
    Client._show: 8,
    Client._list: 3,
    Client._read_running: 6,
    Client._cancel: 4,
    Client._retry: 4,
    Client._change_mind: 6,
    Client._suspend: 4,
    Client._pause: 2,
    Client._remove: 36,
}
"""The requests of clients, and their weights."""

_SUBMITTING = {Client._submit, Client._submit_many, Client._submit_after, Client._submit_and_hang_up}
