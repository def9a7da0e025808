"""The environment that a client passes on to its jobs, as the block of a SUBMIT (docs/protocol.md §3)."""

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from taskqd.client.encoder import encode_text
from taskqd.errors import BadRequest

Text = TypeVar("Text", str, bytes)

_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,199}")
_NOT_INHERITED = rb"""TASKQ_.*                        # the daemon's own, and the token of taskq
    |.*(TOKEN|SECRET|PASSWORD).*|.*_KEY  # what is secret, and not meant for every job
    |_|PWD|OLDPWD|SHLVL                  # of the shell that calls; the job has another one
    |SHELLOPTS|BASHOPTS                  # options of that shell, which would change those of the job's
    |LISTEN_(PID|FDS|FDNAMES)|NOTIFY_SOCKET|WATCHDOG_(PID|USEC)  # of the process that systemd started
    """


class EnvironmentBlock(NamedTuple):
    """An encoded environment: the block, and the option that names it without sending it again."""

    block: bytes
    known: bytes


def inheritable(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the variables that a job may inherit.

    Left out are those that describe the caller's process, those whose names say that they are secret, and
    those with other names than a shell can set, such as exported functions of bash.
    """
    left_out = re.compile(_NOT_INHERITED, re.IGNORECASE | re.VERBOSE)  # here, since few commands need it
    return {
        name: value
        for name, value in environ.items()
        if _NAME.fullmatch(name) and not left_out.fullmatch(name)
    }


def encode_environment(variables: Mapping[Text, str | bytes]) -> EnvironmentBlock:
    """Return variables as a block; raises BadRequest for an invalid name, and for a NUL byte in a value."""
    from hashlib import sha256  # noqa: PLC0415 - only needed here, and slow to import

    entries = []
    for name, value in sorted((encode_text(name), encode_text(value)) for name, value in variables.items()):
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"expected the name of a variable, with letters, digits and _, not {name[:60]!r}"
            )
        if b"\0" in value:
            raise BadRequest(f"the value of {name.decode('ascii')} contains a NUL byte")
        entries.append(name + b"=" + value + b"\0")
    block = b"".join(entries)
    return EnvironmentBlock(block, b"%d:%b" % (len(block), sha256(block).hexdigest().encode("ascii")))
