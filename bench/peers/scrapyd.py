"""scrapyd: runs Scrapy's spiders, not commands; here one that is over at once, so what is left is scrapyd."""

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
max_proc = {at_once}
poll_interval = {poll}
runner = scrapyd_runner
finished_to_keep = 100000
jobs_to_keep = 100000

[settings]
bench = settings
"""
AT_ONCE = 2
POLL = 0.01
PAUSE = 0.02


class Scrapyd:
    """Its HTTP interface, asked one thing at a time."""

    name = "scrapyd"
    is_durable = False  # its queue is in SQLite, its record of what has ended in memory
    note = f"{AT_ONCE} processes, asked for every {POLL * 1000:g} ms; a Python that ends at once, not a shell"

    def missing(self) -> str:
        """Return what is missing, or nothing."""
        return library_missing("scrapyd")

    def rate(self, home: Path, programs: Programs, jobs: int) -> float:
        """Schedule, then ask until all have finished."""
        port = free_port()
        text = CONFIGURATION.format(port=port, at_once=AT_ONCE, poll=POLL)
        (home / "scrapyd.conf").write_text(text)
        self._root = f"http://127.0.0.1:{port}/"
        command: list[str | Path] = [VENV / "bin" / "python", "-m", "scrapyd", "--nodaemon", "--pidfile="]
        with served(command, home, self._is_up, PYTHONPATH=str(APPS)):
            self._schedule()
            began = time.perf_counter()
            for _ in range(jobs):
                self._schedule()
            while self._ask("daemonstatus.json")["finished"] <= jobs:
                time.sleep(PAUSE)
            return jobs / (time.perf_counter() - began)

    def _is_up(self) -> bool:
        try:
            return bool(self._ask("daemonstatus.json")["status"] == "ok")
        except OSError:
            return False

    def _schedule(self) -> None:
        self._ask("schedule.json", urlencode({"project": "bench", "spider": "true"}).encode())

    def _ask(self, what: str, data: bytes | None = None) -> dict[str, Any]:
        with urllib.request.urlopen(self._root + what, data, timeout=10) as answer:  # noqa: S310 - loopback
            return dict(json.load(answer))
