"""The daemon's log on a pipe that is not read."""

import fcntl
import os
import subprocess

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import environment
from tests.end_to_end.wire import until


def test_log_that_is_not_read_does_not_stop_the_daemon(daemon: DaemonFactory) -> None:
    one = daemon(start=False)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"\n" * 4096)
    with subprocess.Popen(
        one.command(),
        cwd=one.place,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
    ) as process:
        os.close(writing)
        one.started_elsewhere(process.pid)
        until(one.answers, "the daemon to answer")
        wire = one.connect()
        for number in range(300):  # each is logged, since each connection has another address
            with_another = one.connect()
            assert with_another.ask(f"SUBMIT --label=n{number} true").startswith("JOB_ID")
            with_another.close()
        assert wire.run("echo on and on").stdout == b"on and on\n"
        process.terminate()
        assert process.wait(30) is not None
    os.set_blocking(reading, False)
    assert os.read(reading, 4096) == b"\n" * 4096
    os.close(reading)
