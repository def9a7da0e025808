"""Named units of resources, such as the GPUs 0 and 1: which of them an attempt has.

An attempt stores its units as one text, ``gpu=0,1 fpga=a``, which equal assignments share: there may be many
attempts in memory.
"""

from collections.abc import Mapping
from sys import intern

Units = Mapping[str, tuple[str, ...]]
"""The names of units by resource."""

VARIABLE_PREFIX = "TASKQ_NEED_"


def pack_units(units: Units) -> str:
    """Return units as one text; their names have no blank, comma or ``=`` (protocol.values.is_name)."""
    return intern(" ".join(f"{resource}={','.join(names)}" for resource, names in units.items()))


def unpack_units(packed: str) -> dict[str, tuple[str, ...]]:
    """Return the units of a text by resource."""
    pairs = (word.partition("=") for word in packed.split())
    return {resource: tuple(names.split(",")) for resource, _, names in pairs}


def need_variable(resource: str) -> str:
    """Return the variable that names the units of a resource to a job: ``TASKQ_NEED_GPU``."""
    return VARIABLE_PREFIX + "".join(each if each.isalnum() else "_" for each in resource).upper()
