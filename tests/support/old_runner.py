"""A small runner of another release: ``old_runner.py VERSIONS --state DIR``.

It has the base protocol, ``start`` and ``ended``, and no notes: it exits after a ``retire``. It does not
change when the protocol grows, and ignores what it does not know. VERSIONS is a file with a list such as
``1,2``, read for each daemon; if the daemon speaks none of them, the base protocol remains.
"""

import fcntl
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from typing import Any

NAME = "0123456789abcdef"


def lock(path: str, text: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    return descriptor


class OldRunner:
    """Serves one daemon after the other."""

    def __init__(self, versions: str, directory: str) -> None:
        self.versions = versions
        os.makedirs(directory, 0o700, exist_ok=True)
        os.chdir(directory)
        self.own = lock(f"{NAME}.lock", f"{os.getpid()}\n")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{NAME}.sock")
        self.listener.listen()
        self.active: int | None = lock("lock", f"{os.getpid()} {NAME}\n")
        self.running: dict[tuple[Any, ...], tuple[subprocess.Popen[bytes], Any]] = {}
        self.reasons: dict[tuple[Any, ...], str] = {}
        self.ends: dict[tuple[Any, ...], dict[str, Any]] = {}

    def run(self) -> None:
        while self.active is not None or self.running or self.ends:
            daemon, _ = self.listener.accept()
            self.serve(daemon)
            daemon.close()
        for kind in ("sock", "lock"):
            os.unlink(f"{NAME}.{kind}")

    def serve(self, daemon: socket.socket) -> None:
        """Handle the lines of a daemon until it goes, or nothing is left to do."""
        selector, unread = selectors.DefaultSelector(), b""
        selector.register(daemon, selectors.EVENT_READ)
        while self.active is not None or self.running or self.ends:
            if selector.select(0.02):
                data = daemon.recv(65_536)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    self.handle(json.loads(line), daemon)
            for key in [key for key, (process, _) in self.running.items() if process.poll() is not None]:
                self.on_exit(key, daemon)

    def handle(self, message: dict[str, Any], daemon: socket.socket) -> None:
        key = (message.get("id"), message.get("attempt"), message.get("word"))
        match message["t"]:
            case "hello":
                with open(self.versions, encoding="ascii") as file:
                    own = {int(each) for each in file.read().split(",")}
                common = max(own & {*message["versions"]}, default=0)
                running = [{"id": id_, "attempt": n, "word": word} for id_, n, word in self.running]
                welcome = {"t": "welcome", "runner": NAME, "pid": os.getpid(), "version": common}
                welcome |= {"release": "0.0.1", "running": running, "ended": [*self.ends]}
                send(daemon, welcome | {"is_retiring": self.active is None}, *self.ends.values())
            case "start":
                out = subprocess.PIPE
                process = subprocess.Popen(
                    message["argv"], env=message["env"], stdout=out, stdin=-3, start_new_session=True
                )
                self.running[key] = (process, message)
            case "end" if key in self.running:
                self.reasons[key] = message["why"]
                os.killpg(self.running[key][0].pid, message["number"])
            case "ack":
                for each in message["ends"]:
                    self.ends.pop(tuple(each), None)
            case "retire" if self.active is not None:
                os.close(self.active)
                self.active = None

    def on_exit(self, key: tuple[Any, ...], daemon: socket.socket) -> None:
        process, start = self.running.pop(key)
        text = process.communicate()[0].decode()
        code, reason = process.returncode, self.reasons.get(key)
        reason = reason or (None if code == 0 else "signal" if code < 0 else "exit")
        ended = {
            "t": "ended",
            "at": time.time(),
            "reason": reason,
            "stdout": {"size": len(text), "text": text},
        }
        ended |= {name: start[name] for name in ("id", "attempt", "word")}
        self.ends[key] = ended | ({"signal": -code} if code < 0 else {"exit_code": code})
        send(daemon, self.ends[key])


def send(daemon: socket.socket, *messages: dict[str, Any]) -> None:
    daemon.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


if __name__ == "__main__":
    OldRunner(os.path.abspath(sys.argv[1]), os.path.join(sys.argv[3], "runner")).run()
