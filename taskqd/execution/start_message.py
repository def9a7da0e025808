"""Makes the message that has a runner start an attempt."""

from collections.abc import Mapping

from taskqd.execution.command_line import command_line, may_be_refused, process_environment
from taskqd.execution.messages import UTF_8, File, Start
from taskqd.execution.run import MARK, CannotStart, Run

_BYTES = "latin-1"


def make_start(run: Run, outputs: Mapping[int, str], order: str | None = None) -> Start:
    """Return the message; ``outputs`` are the paths for the streams 1 and 2, ``order`` that for their order.

    If the runner changes the user, it has no paths, but the kinds of the files to send with it. Raises
    CannotStart if the system lacks a program that the command line needs.
    """
    spec, redirects = run.spec, _redirects(run)
    try:
        argv, env = command_line(run), process_environment(run)
    except FileNotFoundError as why:
        raise CannotStart(str(why), why) from None
    encoding = UTF_8
    paths = [run.stdin or "", run.cwd or "", *outputs.values(), order or "", *redirects]
    strings = [*argv, *env, *env.values(), *paths]
    try:
        "\0".join(strings).encode(UTF_8)
    except UnicodeEncodeError:
        encoding = _BYTES

    def encoded(text: str) -> str:
        return text if encoding == UTF_8 else text.encode("utf-8", "surrogateescape").decode(_BYTES)

    is_explained = may_be_refused(run)
    is_changed = run.user is not None
    kinds = ("stdout", "stderr", *(kind for kind in ("script", "stdin") if getattr(run, kind) is not None))
    return Start(
        id=run.id,
        attempt=run.attempt,
        word=run.word,
        argv=argv if encoding == UTF_8 else list(map(encoded, argv)),
        env=dict(env) if encoding == UTF_8 else {encoded(name): encoded(env[name]) for name in env},
        encoding=encoding,
        mark="" if is_changed else run.env.get(MARK, ""),
        stdin=None if is_changed or run.stdin is None else encoded(run.stdin),
        stdout="" if is_changed else encoded(outputs[1]),
        stderr="" if is_changed else encoded(outputs[2]),
        order=None if is_changed or order is None else encoded(order),
        max_output=spec.max_output,
        timeout=spec.timeout,
        idle_timeout=spec.idle_timeout,
        kill_after=spec.kill_after,
        uid=None if is_changed else run.uid,
        cwd=encoded(run.cwd) if is_explained and run.cwd is not None else None,
        interpreter=encoded(run.interpreter[0]) if is_explained and run.interpreter else None,
        redirects=list(map(encoded, redirects)) if is_explained else [],
        user=run.user,
        interactive=spec.interactive,
        files=[File(kind, 0, 0) for kind in kinds] if is_changed else [],
        memory_max=spec.memory_max,
    )


def _redirects(run: Run) -> list[str]:
    """Return the output files that the shell opens, each once."""
    return list(dict.fromkeys(filter(None, run.output_files)))
