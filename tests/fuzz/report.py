"""The report of a campaign: inputs, replies, statistics of the daemon, and latencies."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.fuzz import bystander
from tests.fuzz.process_stats import ProcessStats
from tests.fuzz.worker import Tally


class Report:
    """The sums of a campaign so far."""

    def __init__(self) -> None:
        self.sessions: Counter[tuple[str, str, str]] = Counter()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.sent: Counter[tuple[str, str, str]] = Counter()
        self.replies: Counter[str] = Counter()
        self.jobs = 0
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.stats: list[tuple[float, ProcessStats]] = []
        self.idle: list[float] = []

    def add(self, tally: Tally) -> None:
        """Add the tally of a worker for one round."""
        self.sessions.update(tally.sessions)
        self.requests.update(tally.requests)
        self.sent.update(tally.sent)
        self.replies.update(tally.replies)
        self.jobs += len(tally.jobs)

    def line(self) -> str:
        """Return one line about the progress."""
        seconds, seen = self.stats[-1]
        waited = bystander.summary([took for times in self.times.values() for took in times])
        return (
            f"{seconds:.0f} s: {self.sessions.total():,} sessions, {self.requests.total():,} requests, "
            f"{self.jobs:,} jobs; {seen.rss / 1e6:.1f} MB, {seen.descriptors} descriptors, "
            f"{seen.threads} threads; the bystander waits {waited.median * 1000:.2f} ms at the median, "
            f"{waited.worst * 1000:.0f} ms at worst"
        )

    def text(self) -> str:
        """Return everything, as tables."""
        parts = (self._inputs(), self._replies(), self._seen(), self._waits())
        return "\n\n".join("\n".join(lines) for lines in parts)

    def _inputs(self) -> Iterator[str]:
        yield f"{'fuzzer':9}{'over':6}{'as':8}{'sessions':>12}{'requests':>12}{'MB sent':>10}"
        for key in sorted(self.sessions):
            kind, transport, login = key
            who = login or ("peer" if transport == "unix" else "-")
            count, requests, size = self.sessions[key], self.requests[key], self.sent[key] / 1e6
            yield f"{kind:9}{transport:6}{who:8}{count:12,}{requests:12,}{size:10.1f}"
        count, requests, size = (each.total() for each in (self.sessions, self.requests, self.sent))
        yield f"{'in all':23}{count:12,}{requests:12,}{size / 1e6:10.1f}"

    def _replies(self) -> Iterator[str]:
        yield from (f"{count:12,} {word}" for word, count in self.replies.most_common())
        yield f"{self.jobs:12,} jobs were accepted, and removed again"

    def _seen(self) -> Iterator[str]:
        yield f"{'time':>7}{'memory':>11}{'descriptors':>13}{'threads':>9}"
        for seconds, seen in self._by_minute():
            yield f"{seconds:6.0f}s{seen.rss / 1e6:8.1f} MB{seen.descriptors:13}{seen.threads:9}"
        if self.idle:
            yield f"idle, the daemon uses {100 * max(self.idle):.1f} % of a processor at most"

    def _waits(self) -> Iterator[str]:
        yield f"{'bystander':9}{'replies':>9}{'median ms':>11}{'p99 ms':>9}{'worst ms':>10}"
        for verb, times in self.times.items():
            count, *waited = bystander.summary(times)
            median, p99, worst = (1000 * seconds for seconds in waited)
            yield f"{verb:9}{count:9,}{median:11.2f}{p99:9.2f}{worst:10.1f}"

    def _by_minute(self) -> Iterator[tuple[float, ProcessStats]]:
        """Yield the first statistics, the first of each minute, and the last."""
        minute = -1
        for seconds, seen in self.stats:
            if seconds // 60 > minute or seconds == self.stats[-1][0]:
                minute = int(seconds // 60)
                yield seconds, seen
