"""The files to which a job writes its output in place of the daemon's: --stdout, --stderr and --merge.

The job's own shell opens them, as its user (execution/command_line.py). Their names may contain ``%j``, the
job's id, ``%a``, the number of the attempt, and ``%%``, a percent sign.
"""

import re

from taskqd.errors import BadRequest
from taskqd.model.spec import Spec

MAX_PATH_BYTES = 4095
"""The longest path that Linux opens: PATH_MAX without the NUL (limits.h)."""

_FIELD = re.compile("%.?", re.DOTALL)


def check_path(text: str) -> str:
    """Return the name of an output file as it was given; raises BadRequest."""
    if not text.startswith("/"):
        raise BadRequest(f"expected a path that begins with /, not {text[:60]!r}")
    if len(text.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise BadRequest(f"expected a path of at most {MAX_PATH_BYTES} bytes")
    for field in _FIELD.findall(text):
        if field not in ("%j", "%a", "%%"):
            raise BadRequest(
                f"expected %j for the job's id, %a for the attempt or %% for a percent sign, not {field!r}"
            )
    return text


def output_files(spec: Spec, job_id: int, attempt: int) -> tuple[str | None, str | None]:
    """Return the files to which an attempt writes its stdout and its stderr; None for the daemon's."""
    if spec.stdout is None and spec.stderr is None:
        return None, None
    values = {"%j": str(job_id), "%a": str(attempt), "%%": "%"}
    stdout, stderr = (
        path and _FIELD.sub(lambda field: values[field[0]], path) for path in (spec.stdout, spec.stderr)
    )
    return stdout, stdout if spec.merge else stderr


def check_outputs(spec: Spec) -> None:
    """Raise BadRequest if options of output contradict each other."""
    if spec.merge and spec.stderr is not None:
        raise BadRequest("--merge gives the job one stream, whose file --stdout names; omit --stderr")
    has_none = spec.stdout is not None and (spec.merge or spec.stderr is not None)
    if has_none and spec.idle_timeout is not None:
        raise BadRequest(
            "--idle-timeout waits for output that the daemon reads, and the job writes all of its output to "
            "files; use --timeout"
        )
