"""Starts that root's runner gets from a daemon that it does not trust; these tests need no root."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.execution import command_line
from taskqd.execution.messages import AttemptKey, File, Start
from taskqd.execution.proc import Process
from taskqd.execution.run import CannotStart
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import User
from taskqd.runner import untrusted_daemon
from taskqd.runner.admission import Admitted
from taskqd.runner.attempt_files import Record
from taskqd.runner.untrusted_daemon import UntrustedDaemon
from taskqd.storage.filesystem import Filesystem
from tests.fakes.clocks import clock, in_thread

WORD = "0123456789abcdef"
KEY = AttemptKey(7, 1, WORD)
NAME, DEAD = "a" * 16, "b" * 16
USERS = {
    "ada": User("ada", 1000, 100, "/home/ada"),
    "root": User("root", 0, 0, "/root"),
    "toor": User("toor", 0, 100, "/root"),
    "wheel": User("wheel", 1001, 0, "/"),
    "member": User("member", 1002, 100, "/"),
}
GROUPS = {"ada": {100, 27}, "member": {100, 0}, "wheel": {0}, "root": {0}, "toor": {100}}


class FakeUsers:
    """The users of USERS; ``error`` is raised in their place if it is set."""

    error: OSError | None = None

    def find(self, name: str) -> User | None:
        if self.error is not None:
            raise self.error
        return USERS.get(name)


class FakeFiles:
    """Makes no files, and records what it should do."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: OSError | None = None
        self.records: list[Record] = []

    def provide(self, key: AttemptKey, store: str, uid: int, gid: int, blocks: Mapping[str, int]) -> Any:
        self.calls.append(("provide", key, store, uid, gid, sorted(blocks)))
        if self.error is not None:
            raise self.error
        return {kind: f"/jobs/{key.id}.{kind}" for kind in blocks}

    def record_process(self, *arguments: Any) -> None:
        self.calls.append(("record", *arguments))
        if self.error is not None:
            raise self.error

    def remove_copies(self, key: AttemptKey) -> None:
        self.calls.append(("remove copies", key))

    def remove(self, key: AttemptKey) -> None:
        self.calls.append(("remove", key))
        if self.error is not None:
            raise self.error

    def records_of(self, runner: str) -> list[Record]:
        return [record for record in self.records if record.runner == runner]


class FakeDirectory:
    """A directory with the files of runners; those of ``alive`` live."""

    def __init__(self) -> None:
        self.alive = {NAME}
        self.removed: list[str] = []

    def is_alive(self, name: str) -> bool:
        return name in self.alive

    def remove(self, name: str) -> None:
        self.removed.append(name)


class Bench:
    """An admission over fakes, and descriptors of files in ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.users, self.files, self.directory = FakeUsers(), FakeFiles(), FakeDirectory()
        parts: list[Any] = [self.directory, self.files, NAME, self.users, UserLimits(str(place))]
        parts += [Filesystem(), clock(), in_thread]
        self.admission = UntrustedDaemon(*parts)
        self.opened: list[int] = []

    def open(self, *kinds: str) -> list[int]:
        for kind in kinds:
            (self.place / kind).touch()
            flags = os.O_WRONLY if kind.startswith("std") and kind != "stdin" else os.O_RDONLY
            self.opened.append(os.open(self.place / kind, flags))
        return self.opened[-len(kinds) :]

    def admit(self, *kinds: str, store: str = "s", **fields: Any) -> Admitted:
        kinds = kinds or ("stdout", "stderr")
        values: dict[str, Any] = {"argv": ["/bin/sh", "-c", "true"], "env": {}, "user": "ada", **fields}
        start = Start(id=7, attempt=1, word=WORD, files=[File(kind, 0, 0) for kind in kinds], **values)
        return self.admission.admit(start, self.open(*kinds), store)

    def open_files(self) -> list[int]:
        """Return the indexes of the descriptors that are still open."""
        return [index for index, each in enumerate(self.opened) if is_open(each)]


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.fixture(name="bench")
def a_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(untrusted_daemon, "groups_of", lambda user: frozenset(GROUPS[user.name]))
    monkeypatch.setattr(command_line, "find_program", lambda program: f"/usr/bin/{program}")
    bench = Bench(tmp_path)
    yield bench
    for index in bench.open_files():
        os.close(bench.opened[index])


def refusal(bench: Bench, *kinds: str, **fields: Any) -> str:
    with pytest.raises(CannotStart) as why:
        bench.admit(*kinds, **fields)
    assert bench.open_files() == [], "every refusal closes the descriptors"
    return str(why.value)


def test_user_is_changed_by_the_runner_s_own_words_before_those_of_the_daemon(bench: Bench) -> None:
    start, _ = bench.admit(env={"TASKQ_ENV_A": "1"})
    assert start.argv == [
        *("/usr/bin/setpriv", "--reuid=1000", "--regid=100", "--groups=27,100"),
        *("--inh-caps=-all", "--ambient-caps=-all", "--", "/bin/sh", "-c", "true"),
    ]
    assert start.env == {"TASKQ_ENV_A": "1", "TASKQ_RUN": f"s.7.1.{WORD}"}
    assert (start.uid, start.mark, start.user, start.files) == (1000, f"s.7.1.{WORD}", None, [])


def test_interactive_attempt_is_admitted(bench: Bench) -> None:
    start, _ = bench.admit(interactive=True)
    assert start.interactive


def test_interactive_attempt_with_a_file_as_its_stdin_is_refused(bench: Bench) -> None:
    assert "is interactive and has a file as its stdin" in refusal(
        bench, "stdout", "stderr", "stdin", interactive=True
    )


def test_limits_of_the_machine_are_set_before_the_user_is_changed(bench: Bench) -> None:
    (bench.place / "limits.conf").write_text("ada hard nproc 50\n")
    start, _ = bench.admit()
    assert start.argv[0] == "/usr/bin/prlimit"
    assert start.argv[1].startswith("--nproc=")
    assert start.argv[2:4] == ["--", "/usr/bin/setpriv"]


def test_output_keeps_its_descriptors_and_inputs_are_copied_and_closed(bench: Bench) -> None:
    start, output = bench.admit("stdout", "stderr", "script", "stdin")
    assert bench.files.calls == [("provide", KEY, "s", 1000, 100, ["script", "stdin"])]
    assert start.stdin == "/jobs/7.stdin"
    assert bench.open_files() == [0, 1]
    output.write(1, bytes(5000))
    output.write(2, b"short")
    output.close()
    assert (bench.place / "stdout").stat().st_size == 5000
    assert bench.open_files() == []


@pytest.mark.parametrize(
    "name, text",
    [
        ("root", "root is root, and it runs nothing as root"),
        ("toor", "toor is root, and it runs nothing as root"),
        ("wheel", "wheel is in group 0"),
        ("member", "member is in group 0"),
        ("ben", "this machine has no user ben"),
        (None, "the daemon names no user"),
    ],
)
def test_root_members_of_its_group_and_unknown_users_are_refused(
    bench: Bench, name: str | None, text: str
) -> None:
    assert text in refusal(bench, user=name)
    assert bench.files.calls == []


def test_failed_lookup_is_a_shortage_if_descriptors_are_lacking(bench: Bench) -> None:
    bench.users.error = OSError(24, "Too many open files")
    with pytest.raises(CannotStart, match="its user ada cannot be looked up") as why:
        bench.admit()
    assert why.value.is_shortage
    assert bench.open_files() == []


def test_files_that_cannot_be_made_end_the_attempt(bench: Bench) -> None:
    bench.files.error = OSError(28, "No space left on device")
    assert "its files cannot be provided" in refusal(bench)


def test_start_whose_complaint_would_be_explained_is_refused(bench: Bench) -> None:
    assert "the daemon must not set redirects" in refusal(bench, redirects=["/log"])


@pytest.mark.parametrize("name", ["../x", "a.b", "", "x" * 65, "a\n"])
def test_store_whose_name_is_malformed_is_refused(bench: Bench, name: str) -> None:
    assert "the name of the store is malformed" in refusal(bench, store=name)


@pytest.mark.parametrize(
    "kinds",
    [
        ("stderr", "stdout"),
        ("stdout",),
        ("stdout", "stderr", "stdin", "script"),
        ("stdout", "stderr", "run"),
        ("stdout", "stderr", "stdin", "stdin"),
    ],
)
def test_files_in_another_order_are_refused(bench: Bench, kinds: tuple[str, ...]) -> None:
    assert "its files are" in refusal(bench, *kinds)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -0.5])
@pytest.mark.parametrize("field", ["kill_after", "timeout", "idle_timeout"])
def test_durations_that_are_none_are_refused(bench: Bench, field: str, value: float) -> None:
    assert "one of its durations" in refusal(bench, **{field: value})


def test_limit_of_memory_must_be_positive(bench: Bench) -> None:
    for size in (0, -1):
        assert "or that of memory below 1" in refusal(bench, memory_max=size)


def test_process_is_recorded_and_a_failure_only_logged(bench: Bench) -> None:
    bench.admission.on_spawned(KEY, 4711, 5)
    bench.files.error = OSError(28, "No space left on device")
    bench.admission.on_spawned(KEY, 4712, 6)
    bench.admission.on_spawned(KEY, 4_194_305, None)
    assert bench.files.calls == [("record", KEY, 4711, 5), ("record", KEY, 4712, 6)]


def test_record_stays_until_nothing_is_left(bench: Bench) -> None:
    bench.admission.on_ended(KEY, has_leftovers=True)
    bench.admission.on_cleared(KEY)
    bench.admission.on_ended(KEY, has_leftovers=False)
    bench.admission.on_ended(KEY._replace(word="../x"), has_leftovers=False)
    assert bench.files.calls == [("remove copies", KEY), ("remove", KEY), ("remove", KEY)]


def test_files_that_cannot_be_removed_are_logged(bench: Bench) -> None:
    bench.files.error = OSError(30, "Read-only file system")
    bench.admission.on_ended(KEY, has_leftovers=False)
    bench.admission.on_cleared(KEY)
    assert bench.files.calls == [("remove", KEY)] * 2


def test_sweep_ends_the_processes_of_a_dead_runner_and_removes_its_files(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Any] = []

    def sweep(records: list[Record]) -> list[Process]:
        swept.append(records)
        return []

    monkeypatch.setattr(untrusted_daemon, "sweep", sweep)
    record = Record(KEY, DEAD, "s", 1000, 4711, 5)
    bench.files.records = [record, record._replace(runner=NAME)]
    done = bench.admission.sweep(DEAD)
    assert done is not None
    assert swept == [[record]]
    assert bench.files.calls == [("remove", KEY)]
    assert bench.admission.sweep("c" * 16) is not None
    assert len(swept) == 1, "there is no record of that runner"


@pytest.mark.parametrize("name", [NAME, "c" * 16, "../x", "", "B" * 16, "b" * 16 + "\n"])
def test_runner_that_lives_or_is_none_is_neither_swept_nor_removed(bench: Bench, name: str) -> None:
    bench.directory.alive.add("c" * 16)
    assert bench.admission.sweep(name) is None
    bench.admission.settle(name)
    assert bench.directory.removed == []
    bench.admission.settle(DEAD)
    assert bench.directory.removed == [DEAD]


def test_start_that_was_admitted_is_not_admitted_again(bench: Bench) -> None:
    """The Start that is executed has fields that only the runner sets, which a daemon could not send."""
    start, output = bench.admit()
    output.close()
    again = replace(start, user="ada", files=[File("stdout", 0, 0), File("stderr", 0, 0)])
    with pytest.raises(CannotStart, match="the daemon must not set mark, uid"):
        bench.admission.admit(again, bench.open("stdout", "stderr"), "s")
