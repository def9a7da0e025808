"""The files of environments: private, durable, found by their hash, and read once for many jobs."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskqd.model.environment import environment_of
from taskqd.storage.spool.environment_files import MAX_CACHED
from tests.fakes.deferreds import error_of, result_of
from tests.unit.storage.spool.samples import Bench, present

BLOCK = b"A=1\0B=\xff\n\0"
ENVIRONMENT = environment_of(BLOCK)


def done(bench: Bench, answer: "Deferred[Any]") -> Any:
    bench.threads.run()
    return result_of(answer)


@pytest.fixture(name="kept")
def a_bench_with_an_environment(bench: Bench) -> Bench:
    done(bench, bench.spool.environments.store(ENVIRONMENT, BLOCK))
    return bench


def file(bench: Bench, name: str = ENVIRONMENT.sha256) -> Path:
    return bench.directory / "input" / "environments" / name


def test_environment_is_private_and_its_name_durable_when_it_is_stored(bench: Bench) -> None:
    bench.filesystem.calls.clear()
    done(bench, bench.spool.environments.store(ENVIRONMENT, BLOCK))
    assert bench.filesystem.calls[-5:] == ["write", "sync", "close", "rename", "sync_directory"]
    assert file(bench).read_bytes() == BLOCK
    assert file(bench).stat().st_mode & 0o777 == 0o600
    assert file(bench, "").stat().st_mode & 0o777 == 0o700
    assert bench.filesystem.descriptors == set()
    assert bench.spool.environments.exists(ENVIRONMENT)


def test_damaged_environment_does_not_exist_and_is_replaced(kept: Bench) -> None:
    file(kept).write_bytes(b"A=1")
    assert not kept.spool.environments.exists(ENVIRONMENT)
    done(kept, kept.spool.environments.store(ENVIRONMENT, BLOCK))
    assert kept.spool.environments.read(ENVIRONMENT) == {"A": "1", "B": "\udcff\n"}
    assert present(kept) == {ENVIRONMENT.sha256}


def test_environment_is_read_once_for_many_jobs(kept: Bench) -> None:
    kept.filesystem.calls.clear()
    for _ in range(5):
        assert kept.spool.environments.read(ENVIRONMENT) == {"A": "1", "B": "\udcff\n"}
    assert kept.filesystem.calls.count("open") == 1


def test_environments_that_were_read_longest_ago_are_read_again(kept: Bench) -> None:
    others = [b"N=%d\0" % number for number in range(MAX_CACHED)]
    for block in others:
        done(kept, kept.spool.environments.store(environment_of(block), block))
        kept.spool.environments.read(ENVIRONMENT)
        kept.spool.environments.read(environment_of(block))
    kept.filesystem.calls.clear()
    kept.spool.environments.read(ENVIRONMENT)
    assert kept.filesystem.calls == []
    kept.spool.environments.read(environment_of(others[0]))
    assert kept.filesystem.calls.count("open") == 1


@pytest.mark.parametrize("content", [b"", b"A=2\0B=\xff\n\0", BLOCK + b"C=3\0"])
def test_environment_of_other_content_is_an_error(kept: Bench, content: bytes) -> None:
    file(kept).write_bytes(content)
    with pytest.raises(ValueError, match="are not those with the SHA-256"):
        kept.spool.environments.read(ENVIRONMENT)


def test_removed_environment_is_forgotten(kept: Bench) -> None:
    kept.spool.environments.read(ENVIRONMENT)
    done(kept, kept.spool.environments.remove(ENVIRONMENT.sha256))
    assert present(kept) == set()
    with pytest.raises(FileNotFoundError):
        kept.spool.environments.read(ENVIRONMENT)
    done(kept, kept.spool.environments.remove(ENVIRONMENT.sha256))


@pytest.mark.parametrize("call", ["write", "sync", "rename", "sync_directory"])
def test_failed_write_leaves_nothing_after_the_removal(kept: Bench, call: str) -> None:
    other = environment_of(b"C=3\0")
    kept.filesystem.fail(call)
    answer = kept.spool.environments.store(other, b"C=3\0")
    kept.threads.run()
    assert isinstance(error_of(answer), OSError)
    done(kept, kept.spool.environments.remove(other.sha256))
    assert present(kept) == {ENVIRONMENT.sha256}
    assert kept.filesystem.descriptors == set()


def test_start_removes_environments_that_no_job_has(kept: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b" * 64, f"{ENVIRONMENT.sha256}.new", "notes"):
        file(kept, name).touch()
    assert kept.spool.sweep(lambda _: None, (), environments={ENVIRONMENT.sha256}) == 2
    assert present(kept) == {ENVIRONMENT.sha256, "notes"}
    [line] = caplog.messages
    assert line.startswith("1 entries in ")
    assert kept.spool.sweep(lambda _: None, ()) == 1


def test_environments_that_are_missing_are_counted(kept: Bench) -> None:
    environments = kept.spool.environments
    assert environments.missing(frozenset()) == 0
    assert environments.missing(frozenset({ENVIRONMENT.sha256})) == 0
    assert environments.missing(frozenset({ENVIRONMENT.sha256, "b" * 64})) == 1


def test_environments_are_missing_without_their_directory(bench: Bench) -> None:
    assert bench.spool.environments.missing(frozenset({"b" * 64})) == 1
