"""Which running job has which named unit of a resource.

Nothing here is persistent: the units of an attempt are recorded with its start (events.Started).
"""

from collections.abc import Mapping

from taskqd.model.units import Units


class UnitAssignments:
    """The units of resources that have names, and the jobs that hold them; ``names`` are by resource."""

    def __init__(self, names: Units) -> None:
        self.names = names
        self._holders: dict[str, dict[str, int]] = {resource: {} for resource in names}
        self._held: dict[int, Units] = {}

    def assign(self, job_id: int, needs: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """Give a job the first free units of each resource that it needs; capacity is allocated to it.

        Resources without names have no units.
        """
        assigned = {}
        for resource in sorted(needs.keys() & self.names.keys()):
            holders = self._holders[resource]
            free = [name for name in self.names[resource] if name not in holders]
            assigned[resource] = tuple(free[: needs[resource]])
        self.restore(job_id, assigned)
        return assigned

    def restore(self, job_id: int, units: Units) -> None:
        """Give a job units that it has already; those without a name any more stay its own until it ends."""
        if units:
            self._held[job_id] = units
            for resource, names in units.items():
                self._holders.setdefault(resource, {}).update(dict.fromkeys(names, job_id))

    def release(self, job_id: int) -> None:
        """Take the units of a job back; does nothing if it has none."""
        for resource, names in self._held.pop(job_id, {}).items():
            for name in names:
                del self._holders[resource][name]

    def of(self, job_id: int, resource: str) -> tuple[str, ...]:
        """Return the units of a resource that a job has."""
        return self._held.get(job_id, {}).get(resource, ())

    def count_known(self, resource: str, names: tuple[str, ...]) -> int:
        """Return how many of the units are among those of the settings; the resource has names there."""
        return len(set(names) & set(self.names[resource]))

    def describe(self, resource: str) -> dict[str, int | None]:
        """Return the holder of each unit of a resource, None for a free one."""
        holders = self._holders[resource]
        return {name: holders.get(name) for name in dict.fromkeys((*self.names[resource], *holders))}
