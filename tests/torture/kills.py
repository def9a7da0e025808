"""Kills the daemon, its runner, or both, and notes which attempts that may interrupt."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum

from tests.torture.model import Model
from tests.torture.victim import Victim

MAX_GAP = 0.2
"""Seconds between the kills of daemon and runner, if both are killed and not at the same moment."""


class Target(Enum):
    """The processes that one kill ends."""

    DAEMON = "daemon"
    RUNNER = "runner"
    BOTH = "both"


TARGETS = {Target.DAEMON: 60, Target.RUNNER: 25, Target.BOTH: 15}
"""The weights of the targets."""


class Killer:
    """Kills; ``targets`` and ``moments`` count the kills."""

    def __init__(self, victim: Victim, model: Model, chance: random.Random) -> None:
        self.targets: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        self._victim = victim
        self._model = model
        self._chance = chance
        self._target = self._choose()

    @property
    def kills(self) -> int:
        return self.targets.total()

    def _choose(self) -> Target:
        return self._chance.choices(list(TARGETS), list(TARGETS.values()))[0]

    def kill(self, moment: str, others: Iterable[int] = ()) -> None:
        """Kill a random target; ``others`` are processes that a kill of the daemon ends too.

        Nothing is killed if the target is a runner and none has started yet; it is the next target then.
        """
        target = self._target
        if target is not Target.DAEMON and not self._victim.runner_processes.pids():
            return
        self._target = self._choose()
        self.targets[target.value] += 1
        self.moments[moment] += 1
        if target is Target.RUNNER:
            self._kill_runner()
        elif target is Target.DAEMON:
            self._note_running()
            self.kill_daemon(others)
        else:
            self._kill_both(others)

    def _kill_both(self, others: Iterable[int]) -> None:
        gap = self._chance.choice((0.0, self._chance.uniform(0, MAX_GAP)))
        if self._chance.random() < 0.5:
            self._kill_runner()
            time.sleep(gap)
            self.kill_daemon(others)
        else:
            self.kill_daemon(others)
            time.sleep(gap)
            self._kill_runner()

    def _kill_runner(self) -> None:
        self._model.note_interruption()
        self._victim.runner_processes.kill()

    def kill_daemon(self, others: Iterable[int] = ()) -> None:
        """Kill the daemon alone, uncounted, and wait until it has ended."""
        self._victim.signal(signal.SIGKILL)
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._victim.wait_for_end()

    def _note_running(self) -> None:
        """Note the attempts that have a process when the daemon is killed."""
        self._model.survived(self._victim.marks().values())
