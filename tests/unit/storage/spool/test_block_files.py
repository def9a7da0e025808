"""The blocks of schedules: files to which each job gets links."""

import errno
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.model.schedule import ScheduleBlocks
from tests.fakes.deferreds import error_of, result_of
from tests.unit.storage.spool.samples import Bench, present

NOTHING = ScheduleBlocks(3, 0, ())
BLOCKS = ScheduleBlocks(3, 1, ("script", "stdin", "secret"))
CONTENTS = {"script": b"#!/bin/sh\ncat", "stdin": b"\0\xff", "secret": b"A=1\0"}


def done(bench: Bench, answer: "Deferred[Any]") -> Any:
    bench.threads.run()
    return result_of(answer)


@pytest.fixture(name="kept")
def a_bench_with_a_schedule(bench: Bench) -> Bench:
    done(bench, bench.spool.store_schedule(BLOCKS, CONTENTS, NOTHING))
    return bench


def file(bench: Bench, name: str) -> Path:
    return bench.directory / "input" / "schedules" / name


def test_blocks_of_a_schedule_are_private_and_synced(bench: Bench) -> None:
    bench.filesystem.calls.clear()
    digest = done(bench, bench.spool.store_schedule(BLOCKS, CONTENTS, NOTHING))
    assert digest == sha256(b"#!/bin/sh\ncat\0\xff").hexdigest()
    assert {name: file(bench, f"3.1.{name}").read_bytes() for name in CONTENTS} == CONTENTS
    modes = {path.name: path.stat().st_mode & 0o777 for path in file(bench, "").iterdir()}
    assert modes == {"3.1.script": 0o700, "3.1.stdin": 0o600, "3.1.secret": 0o600}
    assert file(bench, "").stat().st_mode & 0o777 == 0o700
    assert bench.filesystem.calls.count("sync") == 3
    assert bench.filesystem.calls[-1] == "sync_directory"
    assert bench.filesystem.descriptors == set()
    assert bench.spool.read_schedule_block(BLOCKS, "secret") == b"A=1\0"


def test_schedule_without_script_and_stdin_has_no_digest(bench: Bench) -> None:
    blocks = ScheduleBlocks(3, 1, ("secret",))
    assert done(bench, bench.spool.store_schedule(blocks, {"secret": b"A=1\0"}, NOTHING)) is None
    assert done(bench, bench.spool.store_schedule(NOTHING, {}, blocks)) is None


def test_job_of_a_schedule_has_links_of_its_own(kept: Bench) -> None:
    kept.filesystem.calls.clear()
    done(kept, kept.spool.link_blocks(7, BLOCKS))
    for name, content in CONTENTS.items():
        path = Path(kept.spool.path(7, name))
        assert path.read_bytes() == content
        assert path.samefile(file(kept, f"3.1.{name}"))
    assert kept.filesystem.calls[-1] == "sync_directory"
    done(kept, kept.spool.remove_jobs({7: 0}))
    assert present(kept) == {f"3.1.{name}" for name in CONTENTS}


def test_job_keeps_its_files_when_the_schedule_is_removed(kept: Bench) -> None:
    done(kept, kept.spool.link_blocks(7, BLOCKS))
    done(kept, kept.spool.remove_schedule(BLOCKS))
    assert present(kept) == {"7.script", "7.stdin", "7.secret"}
    assert kept.spool.read_block(7, "secret") == b"A=1\0"


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP])
def test_job_has_copies_where_links_are_not_possible(kept: Bench, code: int) -> None:
    kept.filesystem.fail("link_with_parents", code=code)
    done(kept, kept.spool.link_blocks(7, BLOCKS))
    for name, content in CONTENTS.items():
        path, original = Path(kept.spool.path(7, name)), file(kept, f"3.1.{name}")
        assert path.read_bytes() == content
        assert not path.samefile(original)
        assert path.stat().st_mode == original.stat().st_mode


def test_links_replace_files_of_a_reused_id(kept: Bench) -> None:
    done(kept, kept.spool.store_blocks(7, {"script": b"old"}))
    done(kept, kept.spool.link_blocks(7, BLOCKS))
    assert kept.spool.read_block(7, "script") == CONTENTS["script"]
    assert file(kept, "3.1.script").read_bytes() == CONTENTS["script"]


def test_new_version_keeps_the_blocks_that_are_not_given(kept: Bench) -> None:
    changed = ScheduleBlocks(3, 2, ("script", "stdin"))
    digest = done(kept, kept.spool.store_schedule(changed, {"stdin": b"in"}, BLOCKS))
    assert digest == sha256(CONTENTS["script"] + b"in").hexdigest()
    assert file(kept, "3.2.script").read_bytes() == CONTENTS["script"]
    assert file(kept, "3.1.stdin").read_bytes() == CONTENTS["stdin"]
    done(kept, kept.spool.remove_schedule(BLOCKS))
    assert present(kept) == {"3.2.script", "3.2.stdin"}


FAILING: dict[str, Callable[[Bench], "Deferred[Any]"]] = {
    "write": lambda bench: bench.spool.store_schedule(BLOCKS, CONTENTS, NOTHING),
    "sync": lambda bench: bench.spool.store_schedule(BLOCKS, CONTENTS, NOTHING),
    "sync_directory": lambda bench: bench.spool.link_blocks(7, BLOCKS),
    "remove": lambda bench: bench.spool.remove_schedule(BLOCKS),
}


@pytest.mark.parametrize("call", FAILING)
def test_failure_of_the_file_system_fails_and_closes_the_files(kept: Bench, call: str) -> None:
    kept.filesystem.fail(call)
    answer = FAILING[call](kept)
    kept.threads.run()
    assert isinstance(error_of(answer), OSError)
    assert kept.filesystem.descriptors == set()


def test_files_of_a_schedule_that_are_gone_fail_its_job(kept: Bench) -> None:
    file(kept, "3.1.stdin").unlink()
    answer = kept.spool.link_blocks(7, BLOCKS)
    kept.threads.run()
    assert isinstance(error_of(answer), FileNotFoundError)


def test_sweep_removes_files_of_unknown_schedules_and_versions(
    kept: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("3.2.secret", "4.1.stdin", "README"):
        file(kept, name).touch()
    done(kept, kept.spool.link_blocks(7, BLOCKS))
    known = {"3.1.script", "3.1.secret"}
    assert kept.spool.sweep({7: 0}.get, (), known) == 3
    assert present(kept) == {*known, "7.script", "7.stdin", "7.secret", "README"}
    [record] = caplog.records
    assert record.getMessage().endswith(f"are left alone: {file(kept, 'README')}")
    assert kept.spool.sweep(lambda _: None, ()) == 5


# Scripts of jobs that are replaced.


def test_new_script_of_a_job_is_durable_in_another_file(bench: Bench) -> None:
    done(bench, bench.spool.store_blocks(7, {"script": b"old", "stdin": b"in"}))
    bench.filesystem.calls.clear()
    digest = done(bench, bench.spool.replace_script(7, 1, b"#!/bin/sh\nnew", has_stdin=True))
    assert digest == sha256(b"#!/bin/sh\nnewin").hexdigest()
    calls = [call for call in bench.filesystem.calls if call.startswith("sync")]
    assert calls == ["sync", "sync_directory"]
    new, old = Path(bench.spool.path(7, "script", 1)), Path(bench.spool.path(7, "script"))
    assert (new.name, new.read_bytes(), new.stat().st_mode & 0o777) == (
        "7.1.script",
        b"#!/bin/sh\nnew",
        0o700,
    )
    assert (old.name, old.read_bytes()) == ("7.script", b"old")
    assert done(bench, bench.spool.read_script(7, 1, 2, 7)) == b"/bin/sh"
    os.close(bench.spool.open_block(7, "script", 1))
    done(bench, bench.spool.remove_script(7, 0))
    assert present(bench) == {"7.1.script", "7.stdin"}
    done(bench, bench.spool.remove_jobs({7: 0}))
    assert present(bench) == set()


def test_job_without_script_has_the_digest_of_its_stdin(bench: Bench) -> None:
    done(bench, bench.spool.store_blocks(7, {"stdin": b"in"}))
    assert done(bench, bench.spool.replace_script(7, 1, None, has_stdin=True)) == sha256(b"in").hexdigest()
    assert done(bench, bench.spool.replace_script(7, 1, None, has_stdin=False)) is None
    assert present(bench) == {"7.stdin"}


def test_script_that_is_gone_cannot_be_read(bench: Bench) -> None:
    reading = bench.spool.read_script(7, 0, 0, 1)
    bench.threads.run()
    assert "7.script cannot be read" in str(error_of(reading))
