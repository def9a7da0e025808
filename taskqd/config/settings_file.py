"""The configuration file: TOML -> values by the name of their settings.

The keys are the names of the settings. Those of a table, such as ``[retention]``, have its name before them
(``retention-age``), and each key may be written with ``_`` or with ``-``.
"""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from taskqd.config.converters import shown
from taskqd.config.limits import LIMITS
from taskqd.config.settings import SETTINGS, check, unknown_setting
from taskqd.errors import SettingsError

_PREFIXES = {"retention": "retention-", "on_end": "on-end-"}
"""Tables whose keys are settings, and the prefix of those settings' names."""
_QUEUE_KEYS = {"slots": "queue", "fair": "queue-fair", "rate": "queue-rate"}
"""The keys of the table of a queue, and the setting of each, which has its values by queue."""
_TABLES = {
    setting.field: name
    for name, setting in SETTINGS.items()
    if setting.is_table and name not in _QUEUE_KEYS.values()
} | {"queues": "queue"}
"""Tables that are one setting each, by their name in the file; that of the queues is several."""


def read_toml(text: str, source: str) -> dict[str, Any]:
    """Return the settings in the text of a file called ``source``, by name; raises SettingsError."""
    try:
        document = msgspec.toml.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as why:
        raise SettingsError(f"{source} is not TOML: {why}") from None
    document = _with_known_spelling(document, [*SETTINGS, *_PREFIXES], "", source)
    tables = {table: _check_table(document.pop(table, {}), table, source) for table in (*_PREFIXES, *_TABLES)}
    for name in (*_TABLES.values(), *_QUEUE_KEYS.values()):
        if name in document:
            raise unknown_setting(name, source)
    for table, prefix in _PREFIXES.items():
        keys = [name.removeprefix(prefix) for name in SETTINGS if name.startswith(prefix)]
        for key, value in _with_known_spelling(tables[table], keys, f"{table}.", source).items():
            if prefix + key in document:
                raise _duplicate(source, prefix + key, f"once in [{table}]")
            document[prefix + key] = value
    document.update(_queue_settings(tables.pop("queues"), source))
    tables["limits"] = _with_known_spelling(tables["limits"], LIMITS, "limits.", source)
    document.update({name: tables[table] for table, name in _TABLES.items() if tables.get(table)})
    return {name: check(name, value, source) for name, value in document.items()}


def _with_known_spelling(
    table: Mapping[str, Any], keys: Collection[str], path: str, source: str
) -> dict[str, Any]:
    """Return a table whose keys are spelled as in ``keys``, whether written with ``_`` or ``-``.

    Unknown keys are not changed. Raises SettingsError if a key is there in both spellings.
    """
    spellings = {key.replace("_", "-"): key for key in keys}
    result: dict[str, Any] = {}
    for written, value in table.items():
        key = spellings.get(written.replace("_", "-"), written)
        if key in result:
            raise _duplicate(source, path + key, "with - and with _")
        result[key] = value
    return result


def _duplicate(source: str, key: str, how: str) -> SettingsError:
    return SettingsError(f"{source}: {key} is set twice, {how}; keep one of them")


def _check_table(content: Any, table: str, source: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SettingsError(f"{source}: {table} must be a table, [{table}], not {shown(content)}")
    return content


def _queue_settings(queues: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """Return the settings of queues by name, with the value of each queue that has one."""
    settings: dict[str, dict[str, Any]] = {}
    for queue, content in queues.items():
        if not isinstance(content, dict) or not content or not content.keys() <= _QUEUE_KEYS.keys():
            raise SettingsError(
                f"{source}: queues.{queue} must be a table, [queues.{queue}], with one or more of "
                f"{', '.join(_QUEUE_KEYS)}, not {shown(content)}"
            )
        for key, value in content.items():
            settings.setdefault(_QUEUE_KEYS[key], {})[queue] = value
    return settings
