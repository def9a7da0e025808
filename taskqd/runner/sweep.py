"""Kills what a killed runner has left, by the records that it has made of its attempts."""

from collections.abc import Collection

from taskqd.execution import proc
from taskqd.execution.proc import Process
from taskqd.runner.attempt_files import Record

MAX_ROUNDS = 10
"""Scans for processes: one that forks while it is killed leaves a child that only the next scan finds."""
KILL_TIMEOUT = 5.0
"""Seconds to wait for the end of each process that was killed."""


def find_leftovers(table: Collection[Process], records: Collection[Record]) -> list[Process]:
    """Return the processes of the recorded attempts.

    These are all with the mark of an attempt that run as its user, and all of its session. A session is
    recognized by its leader, if the start time is the same, or by a member that has the mark; its number
    alone may have been reused.
    """
    uids = {record.mark: record.uid for record in records}
    sessions = {record.mark: record.pid for record in records}
    leaders = {(record.pid, record.started) for record in records if record.pid is not None}
    marked = {each for each in table if each.mark and uids.get(each.mark) == each.uid}
    found = {each.pid for each in table if each.identity in leaders}
    found |= {each.session for each in marked if each.session == sessions[each.mark]}
    return [each for each in table if each in marked or each.session in found]


def sweep(records: Collection[Record]) -> list[Process]:
    """Kill the processes of attempts, and return those that do not end; blocks. Raises OSError."""
    found: list[Process] = []
    for _ in range(MAX_ROUNDS):
        found = find_leftovers(proc.scan(since=0), records)
        if not found or proc.kill_all(found, KILL_TIMEOUT):
            break
    return found
