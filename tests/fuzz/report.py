"""What a campaign has tried and seen, as lines for a person."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.fuzz import innocent
from tests.fuzz.watch import Seen
from tests.fuzz.worker import Tally


class Report:
    """What was tried and seen so far."""

    def __init__(self) -> None:
        self.sessions: Counter[tuple[str, str, str]] = Counter()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.sent: Counter[tuple[str, str, str]] = Counter()
        self.replies: Counter[str] = Counter()
        self.jobs = 0
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.looks: list[tuple[float, Seen]] = []
        self.idle: list[float] = []

    def add(self, tally: Tally) -> None:
        """Add what a worker tells of a round."""
        self.sessions.update(tally.sessions)
        self.requests.update(tally.requests)
        self.sent.update(tally.sent)
        self.replies.update(tally.replies)
        self.jobs += len(tally.jobs)

    def line(self) -> str:
        """Return one line on how it goes."""
        seconds, seen = self.looks[-1]
        waited = innocent.summary([took for times in self.times.values() for took in times])
        return (
            f"{seconds:.0f} s: {self.sessions.total():,} sessions, {self.requests.total():,} requests, "
            f"{self.jobs:,} jobs; {seen.rss / 1e6:.1f} MB, {seen.descriptors} descriptors, "
            f"{seen.threads} threads; others wait {waited.median * 1000:.2f} ms at the median, "
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
        yield f"{self.jobs:12,} jobs got in, and were removed again"

    def _seen(self) -> Iterator[str]:
        yield f"{'time':>7}{'memory':>11}{'descriptors':>13}{'threads':>9}"
        for seconds, seen in self._by_minute():
            yield f"{seconds:6.0f}s{seen.rss / 1e6:8.1f} MB{seen.descriptors:13}{seen.threads:9}"
        if self.idle:
            yield f"idle, it takes {100 * max(self.idle):.1f} % of a processor at most"

    def _waits(self) -> Iterator[str]:
        yield f"{'others':9}{'replies':>9}{'median ms':>11}{'p99 ms':>9}{'worst ms':>10}"
        for verb, times in self.times.items():
            count, *waited = innocent.summary(times)
            median, p99, worst = (1000 * seconds for seconds in waited)
            yield f"{verb:9}{count:9,}{median:11.2f}{p99:9.2f}{worst:10.1f}"

    def _by_minute(self) -> Iterator[tuple[float, Seen]]:
        """Yield the first look, the first of each minute, and the last."""
        minute = -1
        for seconds, seen in self.looks:
            if seconds // 60 > minute or seconds == self.looks[-1][0]:
                minute = int(seconds // 60)
                yield seconds, seen
