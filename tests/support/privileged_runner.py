"""Runs root's runner for an unprivileged daemon, and speaks to it as that daemon does."""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from taskqd.execution.users import User
from tests.support.other_users import acting
from tests.support.runner_process import PLAIN, Json, Link, RunnerProcess

HIDDEN = "TASKQ_ENV_"


class PrivilegedRunner(RunnerProcess):
    """A runner with ``--daemon-user``; its directories and the daemon's files are in ``place``."""

    def __init__(self, place: Path, daemon: User, *options: str, command: Sequence[str] = PLAIN) -> None:
        self.daemon = daemon
        self.spool = place / "spool"
        self.spool.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.spool, daemon.uid, daemon.gid)
        super().__init__(place, *options, command=command)
        self.jobs = place / "runner.jobs"

    def _arguments(self) -> list[str]:
        return ["--daemon-user", self.daemon.name, "--directory", str(self.directory)]

    def connect(self) -> Link:
        with acting(self.daemon):
            return super().connect()

    def make_start(self, id_: int, command: str, attempt: int = 1, **fields: object) -> Json:
        """Return a start of ``sh -c command`` by the user games, without files (see ``send_start``)."""
        return {
            "t": "start",
            "id": id_,
            "attempt": attempt,
            "word": f"{id_:08x}{attempt:08x}",
            "argv": ["/bin/sh", "-c", command],
            "env": {},
            "user": "games",
            **fields,
        }

    def send_start(
        self, link: Link, start: Json, blocks: dict[str, bytes] | None = None, **descriptors: int
    ) -> dict[str, Path]:
        """Send a start with its descriptors; return the paths of the files for its output.

        ``blocks`` are the contents of script and stdin; ``descriptors`` replace those that would be sent.
        """
        paths = {
            kind: self.spool / f"{start['id']}.{start['attempt']}.{kind}" for kind in ("stdout", "stderr")
        }
        opened: dict[str, int] = {}
        for kind, path in paths.items():
            opened[kind] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for kind, content in (blocks or {}).items():
            path = self.spool / f"{start['id']}.{kind}"
            path.write_bytes(content)
            opened[kind] = os.open(path, os.O_RDONLY)
        sent = {**opened, **descriptors}
        status = {kind: os.fstat(descriptor) for kind, descriptor in sent.items()}
        files = [[kind, status[kind].st_dev, status[kind].st_ino] for kind in sent]
        line = json.dumps({"files": files, **start}).encode() + b"\n"
        socket.send_fds(link.socket, [line], list(sent.values()))
        for descriptor in opened.values():
            os.close(descriptor)
        return paths

    def run(
        self, link: Link, start: Json, blocks: dict[str, bytes] | None = None, **descriptors: int
    ) -> Json:
        """Send a start, and return its end, which is acknowledged."""
        self.send_start(link, start, blocks, **descriptors)
        ended = link.wait_for("ended", start["id"])
        link.ack((start["id"], start["attempt"], start["word"]))
        return ended

    def copies(self) -> list[str]:
        """Return the names of the files that are kept for attempts."""
        return sorted(os.listdir(self.jobs))
