"""The resources of the settings: amounts, or units with names.

A value in TOML is a number (``gpu = 2``), a list of names (``gpu = ["0", "1"]``), or a table with that list
and a variable (``[resources.gpu]``, ``units`` and ``env``). As an option it is ``gpu=2`` or ``gpu=0,1``;
``gpu=0,`` is one unit with the name 0.
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from taskqd.config.converters import InvalidValue, number, pairs_of, shown
from taskqd.errors import SettingsError
from taskqd.model.units import need_variable
from taskqd.protocol.values import is_name

MAX_RESOURCE = 1_000_000_000
"""The largest total of a resource; its unit may be as small as a megabyte."""
MAX_UNITS = 256
"""The largest number of units that have names."""
MAX_UNIT_CHARACTERS = 1000
"""Characters of all names of a resource's units: they are in a variable, and in memory with each attempt."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


class NamedUnits(Struct, frozen=True):
    """The units of a resource that have names, and a variable besides TASKQ_NEED_… for those of a job."""

    names: tuple[str, ...]
    variable: str | None = None


def resources(value: Any) -> dict[str, int | NamedUnits]:
    """Convert {name: amount, list of names or table}, or a list of NAME=AMOUNT or NAME=UNIT,UNIT."""
    return {name: _resource(name, given) for name, given in pairs_of(value, _read_option).items()}


def _read_option(text: str) -> Any:
    return text.removesuffix(",").split(",") if "," in text else number(text)


def _resource(name: str, given: Any) -> int | NamedUnits:
    found: int | NamedUnits | None = None
    if type(given) is int and 1 <= given <= MAX_RESOURCE:
        found = given
    elif isinstance(given, list):
        found = _named_units(given, None)
    elif isinstance(given, dict) and "units" in given and given.keys() <= {"units", "env"}:
        found = _named_units(given["units"], given.get("env"))
    if found is None or not is_name(name):
        raise InvalidValue(f"{name} = {shown(given)}")
    return found


def _named_units(names: Any, variable: Any) -> NamedUnits | None:
    """Return units with names, which may be numbers in TOML; None if something of them is invalid."""
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_UNITS:
        return None
    texts = tuple(f"{name}" if type(name) is int else name for name in names)
    if not all(isinstance(text, str) and is_name(text) for text in texts) or len(set(texts)) < len(texts):
        return None
    is_variable = isinstance(variable, str) and _VARIABLE.fullmatch(variable) is not None
    if len(",".join(texts)) > MAX_UNIT_CHARACTERS or (variable is not None and not is_variable):
        return None
    return None if is_variable and variable.startswith("TASKQ_") else NamedUnits(texts, variable)


def totals_of(resources: Mapping[str, int | NamedUnits]) -> dict[str, int]:
    """Return the total of each resource."""
    return {
        name: len(each.names) if isinstance(each, NamedUnits) else each for name, each in resources.items()
    }


def units_of(resources: Mapping[str, int | NamedUnits]) -> dict[str, NamedUnits]:
    """Return the resources whose units have names; raises SettingsError if two have the same variable."""
    units = {name: each for name, each in resources.items() if isinstance(each, NamedUnits)}
    owners: dict[str, str] = {}
    for name, each in units.items():
        for variable in filter(None, (need_variable(name), each.variable)):
            other = owners.setdefault(variable, name)
            if other != name:
                raise SettingsError(
                    f"the units of the resources {other} and {name} have the same variable, {variable}; "
                    "change the name or the env of one of them"
                )
    return units
