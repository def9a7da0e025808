"""scrapyd: runs Scrapy's spiders, not commands. The spider here exits at once: only scrapyd is measured."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.load import Programs
from bench.peers.install import APPS, VENV, library_missing
from bench.place import free_port, served

CONFIGURATION = """\
[scrapyd]
bind_address = 127.0.0.1
http_port = {port}
max_proc = {parallel}
poll_interval = {poll}
runner = scrapyd_runner
finished_to_keep = 100000
jobs_to_keep = 100000

[settings]
bench = settings
"""
PARALLEL = 2
QUEUE_POLL_INTERVAL = 0.01
"""Seconds between two looks of scrapyd into its queue; its default is 5."""
STATUS_INTERVAL = 0.02
"""Seconds between two requests for the status."""


class Scrapyd:
    """A scrapyd, used by its HTTP interface with one request at a time."""

    name = "scrapyd"
    is_durable = False  # its queue is in SQLite, its record of ended jobs in memory
    note = (
        f"{PARALLEL} processes, queue polled every {QUEUE_POLL_INTERVAL * 1000:g} ms; "
        "a Python that exits at once, not a shell"
    )

    def missing(self) -> str:
        """Return the name of the missing package, "" if it is installed."""
        return library_missing("scrapyd")

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Schedule the jobs, then poll until all have finished."""
        port = free_port()
        text = CONFIGURATION.format(port=port, parallel=PARALLEL, poll=QUEUE_POLL_INTERVAL)
        (home / "scrapyd.conf").write_text(text)
        self._root = f"http://127.0.0.1:{port}/"
        command: list[str | Path] = [VENV / "bin" / "python", "-m", "scrapyd", "--nodaemon", "--pidfile="]
        with served(command, home, self._is_up, PYTHONPATH=str(APPS)):
            self._schedule()
            began = time.perf_counter()
            for _ in range(jobs):
                self._schedule()
            while self._ask("daemonstatus.json")["finished"] <= jobs:
                time.sleep(STATUS_INTERVAL)
            return jobs / (time.perf_counter() - began)

    def _is_up(self) -> bool:
        try:
            return bool(self._ask("daemonstatus.json")["status"] == "ok")
        except OSError:
            return False

    def _schedule(self) -> None:
        self._ask("schedule.json", urlencode({"project": "bench", "spider": "true"}).encode())

    def _ask(self, page: str, data: bytes | None = None) -> dict[str, Any]:
        with urllib.request.urlopen(self._root + page, data, timeout=10) as answer:  # noqa: S310 - loopback
            return dict(json.load(answer))
