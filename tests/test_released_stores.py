"""The store of each released version can be opened by this one, with all its jobs.

``tests/stores/VERSION`` was made by that version's daemon (``tests/stores/make.py``) and never changes.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from taskqd import __version__
from taskqd.errors import Gone, JournalDamaged
from taskqd.model.events import FORMAT, Ended, Event, Opened, Snapshot, Started, Submitted
from taskqd.model.job import Job, Reason, Status
from taskqd.model.spec import Spec
from taskqd.model.submission import SECRET_BLOCK, unpack_secrets
from taskqd.server.handlers.job_view import JobView
from taskqd.state.queue_state import QueueState
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.journal.codec import encode
from taskqd.storage.journal.journal import Journal
from taskqd.storage.journal.snapshot import SnapshotWriter
from taskqd.storage.spool.output_order import OrderParser
from taskqd.storage.spool.spool import Spool
from tests.fakes.clocks import START, ThreadReactor, in_thread
from tests.fakes.deferreds import begin, result_of
from tests.fakes.journal import read_all

STORES = Path(__file__).parent / "stores"
VERSIONS = sorted(path.name for path in STORES.iterdir() if path.name[0].isdigit())

NUMBERS = b"".join(b"%d\n" % number for number in range(1, 3001))


def found(job: Job) -> tuple[Any, ...]:
    return job.status, job.reason, job.attempts, job.exit_code


JOBS: dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]] = {
    1: ((Status.COMPLETED, None, 2, 0), (b"hello\n", b"")),
    2: ((Status.COMPLETED, None, 1, 0), (NUMBERS, b"")),
    3: ((Status.FAILED, Reason.EXIT, 2, 3), (b"\xff\0", b"oh\n")),
    4: ((Status.COMPLETED, None, 1, 0), (b"in\nv\n", b"")),
    5: ((Status.FAILED, Reason.SIGNAL, 2, -9), (b"", b"")),
    6: ((Status.CANCELLED, Reason.CANCELLED, 1, -15), (b"", b"")),
    7: ((Status.CANCELLED, Reason.CANCELLED, 0, None), (b"", b"")),
    9: ((Status.COMPLETED, None, 1, 0), (b"second run\n", b"")),
    10: ((Status.PENDING, Reason.RETRYING, 1, None), (b"", b"")),
    11: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
}
"""Jobs of all stores; job 8 was removed."""

SINCE_0_2: dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]] = {
    **JOBS,
    10: ((Status.CANCELLED, Reason.CANCELLED, 2, -15), (b"", b"")),
    11: ((Status.COMPLETED, None, 1, 0), (b"4\n", b"")),
    12: ((Status.COMPLETED, None, 1, 0), (b"", b"")),
    13: ((Status.FAILED, Reason.EXIT, 0, None), (b"", b"")),
    14: ((Status.COMPLETED, None, 1, 0), (b"", b"")),
    15: ((Status.FAILED, Reason.EXIT, 2, 1), (b"", b"")),
    16: ((Status.COMPLETED, None, 1, 0), (b"", b"")),
    17: ((Status.FAILED, Reason.DEPENDENCY, 0, None), (b"", b"")),
    18: ((Status.COMPLETED, None, 1, 0), (b"sorry\n", b"")),
    22: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
}
"""Jobs of the stores since version 0.2; 13 is an array, and so was 19, which was removed."""


SINCE_0_3: dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]] = {
    **SINCE_0_2,
    23: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
}
"""Jobs of the stores since version 0.3, with a job that has secrets."""


SINCE_0_5: dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]] = {
    **SINCE_0_3,
    24: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
    25: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
    26: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
    27: ((Status.COMPLETED, None, 1, 0), (b"", b"")),
}
"""Jobs of the stores since version 0.5, with time zones, clock jumps and void starts."""


SINCE_0_7: dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]] = {
    **SINCE_0_5,
    28: ((Status.COMPLETED, None, 1, 0), (b"late\n", b"")),
}
"""Jobs of the stores since version 0.7, with one that ended while no daemon ran."""


SINCE_0_9: dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]] = {
    **SINCE_0_7,
    29: ((Status.CANCELLED, Reason.EXPIRED, 0, None), (b"", b"")),
    30: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
    31: ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b"")),
    32: ((Status.COMPLETED, None, 1, 0), (b"a b c\n", b"")),
    33: ((Status.COMPLETED, None, 1, 0), (b"avalue\nold", b"")),
}
"""Jobs of the stores since version 0.9, with expiries, an exclusive label, and a schedule with blocks."""


SINCE_0_10: dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]] = {
    **SINCE_0_9,
    34: ((Status.FAILED, Reason.EXIT, 1, 1), (b"", b"")),
    35: ((Status.COMPLETED, None, 1, 0), (b"", b"")),
    36: ((Status.COMPLETED, None, 1, 0), (b"one\n", b"two\n")),
    37: ((Status.COMPLETED, None, 1, 0), (b"one\nthree\n", b"two\n")),
    **dict.fromkeys(range(38, 42), ((Status.PENDING, Reason.QUEUED, 0, None), (b"", b""))),
    42: ((Status.COMPLETED, None, 1, 0), (b"hi\n", b"")),
    43: ((Status.COMPLETED, None, 1, 0), (b"", b"")),
    44: ((Status.PENDING, Reason.RETRYING, 1, None), (b"", b"")),
}
"""Jobs of the stores since version 0.10, with units, changed scripts, input, a suspended job."""


BEFORE_0_5 = ("0.1.0", "0.2.0", "0.3.0", "0.4.0")
BEFORE_0_7 = (*BEFORE_0_5, "0.5.0", "0.6.0")
BEFORE_0_9 = (*BEFORE_0_7, "0.7.0", "0.8.0")
BEFORE_0_10 = (*BEFORE_0_9, "0.9.0")


def known(version: str) -> dict[int, tuple[tuple[Any, ...], tuple[bytes, bytes]]]:
    """Return the jobs in a version's store."""
    older = {"0.1.0": JOBS, "0.2.0": SINCE_0_2, "0.3.0": SINCE_0_3, "0.4.0": SINCE_0_3}
    since_0_5 = SINCE_0_5 if version in BEFORE_0_7 else SINCE_0_7 if version in BEFORE_0_9 else SINCE_0_9
    return older.get(version, since_0_5 if version in BEFORE_0_10 else SINCE_0_10)


class Site:
    """A copy of a store, opened by this version."""

    def __init__(self, state: Path, version: str = "") -> None:
        self.state = state
        self.version = version
        self.reactor = ThreadReactor()
        self.journal = Journal(str(state), self.reactor, Filesystem(), "boot", self.reactor, in_thread)
        self.spool = Spool(str(state), Filesystem(), in_thread)
        self.queue_state = QueueState()

    def open(self) -> None:
        self.journal.lock()
        for batch in self.journal.replay():
            self.queue_state.apply_replayed(batch)
        self.queue_state.last_id = max(self.queue_state.last_id, self.journal.next_id - 1)
        self.journal.start_writing(self.queue_state.last_id)
        self.spool.open()

    def close(self) -> None:
        self.reactor.until(self.journal.close())

    def output(self, job: Job) -> tuple[bytes, bytes]:
        view = JobView(
            *(self.journal, self.spool, lambda job: job.reason, lambda job: job.not_before),
            lambda pid, started: False,
        )
        return result_of(begin(view.read_both_streams(job)))


@pytest.fixture(name="site", params=VERSIONS)
def a_site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    shutil.copytree(STORES / request.param, tmp_path / "state")
    return Site(tmp_path / "state", request.param)


def test_store_of_this_version_exists() -> None:
    assert __version__ in VERSIONS, "python -m tests.stores.make"


def check(site: Site) -> None:
    jobs = known(site.version)
    assert sorted(site.queue_state.jobs) == sorted(jobs)
    for job_id, (state, output) in jobs.items():
        job = site.queue_state.get(job_id)
        assert found(job) == state, job_id
        if job.status.is_final:
            assert site.output(job) == output, job_id
    with pytest.raises(Gone):
        site.queue_state.get(8)


def test_released_store_has_the_same_jobs(site: Site) -> None:
    site.open()
    check(site)
    last_id = max(known(site.version))
    assert site.queue_state.last_id == last_id
    assert site.journal.next_id == last_id + 1
    assert (
        site.spool.sweep(
            lambda job_id: job.attempts if (job := site.queue_state.jobs.get(job_id)) else None,
            (),
            site.queue_state.schedules.file_names(),
            lambda job_id: site.queue_state.get(job_id).spec.script_file,
            site.queue_state.environments.hashes,
        )
        == 0
    )
    site.close()


def test_released_store_has_the_same_specs(site: Site) -> None:
    site.open()
    jobs = site.queue_state.jobs
    assert (jobs[1].command, jobs[1].spec) == ("echo hello", Spec(key="first", label="hello"))
    assert site.queue_state.by_key("first", jobs[1].owner) is jobs[1]
    assert jobs[1].owner == "root"
    assert (jobs[4].spec.script, jobs[4].spec.stdin, jobs[4].spec.env) == (28, 3, {"NAME": "v"})
    assert Path(site.spool.path(4, "script")).read_bytes() == b'#!/bin/sh\ncat; echo "$NAME"\n'
    assert Path(site.spool.path(11, "stdin")).read_bytes() == b"last"
    assert (jobs[7].spec.timeout, jobs[7].spec.nice) == (9.0, 1)
    assert (jobs[10].failures, jobs[11].spec.retries) == (0, 2)
    if site.version != "0.1.0":
        assert (jobs[12].spec.label, jobs[12].spec.priority, jobs[12].spec.queue) == ("a b", 5, "q")
        assert (jobs[12].command, jobs[12].original_spec) == ("true", Spec(queue="q", hold=True))
        assert (jobs[15].array, jobs[15].index, len(jobs[15].past)) == (13, 2, 1)
        assert jobs[22].is_held
        assert site.queue_state.describe_queue("q")["paused"]
        assert site.queue_state.describe_queue("q")["slots"] == 3
        zoned = [] if site.version in BEFORE_0_5 else [(3, "30 4 * * *", False)]
        zoned += [] if site.version in BEFORE_0_9 else [(4, "@yearly", True)]
        schedules = [(one.id, one.cron, one.is_paused) for one in site.queue_state.schedules.by_id.values()]
        assert schedules == [(1, "@yearly", True), *zoned]
        assert site.queue_state.schedules.last_id == 2 + len(zoned)
    if site.version not in ("0.1.0", "0.2.0"):
        assert (jobs[23].spec.secrets, jobs[23].spec.key, jobs[23].is_held) == (("KEY",), "again", True)
        assert unpack_secrets(site.spool.read_block(23, SECRET_BLOCK), ["KEY"]) == {"KEY": "value"}
        submitted = read_all(site.journal.events_of(23))[0][1]
        assert isinstance(submitted, Submitted)
        assert (submitted.origin or "").startswith("pid ")
    if site.version not in BEFORE_0_5:
        assert (jobs[24].spec.tz, jobs[25].spec.cwd_base64) == ("Europe/Berlin", b"/tmp/\xff")
        assert site.queue_state.schedules.by_id[3].spec.tz == "Australia/Lord_Howe"
        history = read_all(site.journal.events_of(27))
        assert [event.is_void for _, event in history if isinstance(event, Ended)] == [True, False]
    if site.version not in BEFORE_0_7:
        [start] = [event for _, event in read_all(site.journal.events_of(28)) if isinstance(event, Started)]
        [end] = [event for _, event in read_all(site.journal.events_of(28)) if isinstance(event, Ended)]
        assert (len(start.word), len(start.runner)) == (16, 16)
        assert end.ended_at is not None
        assert start.at < end.ended_at < end.at - 1
        assert jobs[28].completed_at == end.ended_at
    if site.version not in BEFORE_0_9:
        assert (jobs[30].spec.expires, jobs[31].spec.unless) == (36500 * 86400.0, "nightly")
        assert (jobs[32].command, jobs[32].spec.script) == ('"a b" c', 10)
        assert jobs[32].spec.script_line == 'echo "$@"'
        changed = site.queue_state.schedules.by_id[4]
        assert (changed.command, changed.every, changed.spec.label) == ("a", None, "after")
        assert (changed.last_job, jobs[33].command, jobs[33].spec.label) == (33, "a", "before")
        for name, content in (
            ("script", b'echo "$1$KEY"; cat\n'),
            ("stdin", b"new"),
            ("secret", b"KEY=value\0"),
        ):
            assert site.spool.read_schedule_block(changed.blocks, name) == content
        assert site.spool.read_block(33, "stdin") == b"old"
    site.close()


@pytest.mark.parametrize("version", [version for version in VERSIONS if version not in BEFORE_0_10])
def test_released_store_has_what_0_10_added(tmp_path: Path, version: str) -> None:
    shutil.copytree(STORES / version, tmp_path / "state")
    site = Site(tmp_path / "state", version)
    site.open()
    jobs = site.queue_state.jobs
    assert site.queue_state.capacity.set_slots == 3
    [ended] = [event for _, event in read_all(site.journal.events_of(34)) if isinstance(event, Ended)]
    assert (jobs[34].attempts, ended.progress, ended.progress_text) == (1, 40, "half")
    assert (jobs[35].spec.merge, jobs[35].spec.stdout) == (True, "/dev/null")
    [ended] = [event for _, event in read_all(site.journal.events_of(36)) if isinstance(event, Ended)]
    assert [entry[1:] for entry in OrderParser().feed((ended.order or "").encode())] == [(4, 0), (0, 4)]
    entries = OrderParser().feed(site.spool.read_order(37, 1, 0, 1000))
    assert [entry[1:] for entry in entries] == [(4, 0), (0, 4), (6, 0)]
    assert site.queue_state.by_key("changed", "root") is jobs[38]
    assert jobs[38].command == "echo new"
    assert (jobs[39].spec.script, jobs[39].spec.script_file, jobs[39].spec.script_line) == (5, 1, "true")
    assert jobs[40].spec.after == (38,)
    assert jobs[40].spec.named is not None
    environment = jobs[41].spec.environment
    assert environment is not None
    assert site.spool.environments.read(environment) == {"A": "1"}
    assert jobs[42].spec.interactive
    assert jobs[43].spec.memory_max == 1 << 30
    names = [event.name for _, event in read_all(site.journal.events_of(44))]
    assert [name for name in names if name != "spawned"] == [
        *("submitted", "started", "suspended", "continued", "suspended", "ended")
    ]
    site.close()


def test_released_store_continues_its_pending_jobs(site: Site) -> None:
    site.open()
    taken = [site.queue_state.next_job(2e9), site.queue_state.next_job(2e9), site.queue_state.next_job(2e9)]
    pending = [10, 11] if site.version == "0.1.0" else [] if site.version in BEFORE_0_10 else [44]
    assert [job.id for job in taken if job] == pending
    site.close()


def test_released_store_can_be_appended_to_and_compacted(site: Site) -> None:
    site.open()
    new_id = site.queue_state.last_id + 1
    event = Submitted(id=new_id, at=START, owner="ada", command="true")
    site.reactor.until(site.journal.append(event))
    SnapshotWriter(site.journal.segments, Filesystem(), site.journal.last_durable_segment - 1).write()
    site.close()
    again = Site(site.state, site.version)
    again.open()
    added = again.queue_state.get(new_id)
    assert added.spec == event.spec
    again.queue_state.jobs.remove(added)
    assert list(again.state.glob("journal/*.snapshot"))
    check(again)
    again.close()


def test_released_store_has_the_history_of_its_jobs(site: Site) -> None:
    site.open()
    histories: list[tuple[int, Event]] = read_all(site.journal.events_of(1))
    # A process that had ended before it could be noted has no spawned.
    assert [event.name for _, event in histories if event.name != "spawned"] == [
        *("submitted", "started", "ended", "retried", "started", "ended")
    ]
    site.close()


@pytest.mark.parametrize("kind", ["segment", "snapshot"])
def test_newer_format_is_refused_with_its_number(tmp_path: Path, kind: str) -> None:
    site = Site(tmp_path)
    directory = tmp_path / "journal"
    directory.mkdir()
    newer: dict[str, Any] = {"at": START, "format": FORMAT + 1, "store": "s", "boot": "b", "next_id": 1}
    if kind == "segment":
        path = directory / "00000001.journal"
        path.write_bytes(encode(Opened(**newer), 1))
    else:
        path = directory / "00000001.snapshot"
        path.write_bytes(encode(Snapshot(**newer, records=0), 1))
    with pytest.raises(JournalDamaged) as refusal:
        list(site.journal.replay())
    assert str(path) in str(refusal.value)
    assert f"its format is {FORMAT + 1}, but this version of taskqd reads formats up to {FORMAT}" in str(
        refusal.value
    )
    assert sorted(directory.iterdir()) == [path]


def test_newer_format_with_unknown_records_is_refused_with_its_number(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (tmp_path / "journal").mkdir()
    newer = Opened(at=START, format=FORMAT + 1, store="s", boot="b", next_id=1)
    path = tmp_path / "journal" / "00000001.journal"
    path.write_bytes(encode(newer, 1) + b"something quite else\n")
    with pytest.raises(JournalDamaged, match=f"format is {FORMAT + 1}"):
        list(site.journal.replay())
