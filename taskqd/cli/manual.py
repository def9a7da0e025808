"""The manual page taskq(1), in roff, made of the help of the commands."""

import re
from collections.abc import Iterator

import click

from taskqd import __version__
from taskqd.cli.app import SECTIONS
from taskqd.cli.context import BROKEN_PIPE, DROPPED, NO_DAEMON, NOT_FINISHED, REFUSED
from taskqd.cli.interrupts import INTERRUPTED

_ESCAPES = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})
_CODE = re.compile(r"`([^`]*)`")

_EXIT_CODES = (
    ("0", "Done."),
    ("result, wait, run, follow", "The job's own exit code; 128+N where signal N ended it."),
    (str(REFUSED), "Refused, or a job without an exit code."),
    ("2", "The command line is not right."),
    (str(NO_DAEMON), "No daemon answers."),
    (
        str(DROPPED),
        "result, run, follow, output: the job did well, but some output was dropped, over --max-output.",
    ),
    (str(NOT_FINISHED), "Not finished, or not in time."),
    (f"{INTERRUPTED}, {BROKEN_PIPE}", "Ctrl-C, or nobody read what was printed."),
)
_ENVIRONMENT = (
    ("TASKQ_ADDRESS", "Where the daemon is, as with --address."),
    ("TASKQ_TOKEN", "The token for a daemon on TCP or TLS."),
    ("TASKQ_TOKEN_FILE", "A file with the token, in place of it."),
    ("TASKQ_CA", "On TLS: the file of the CA that the daemon's certificate is of, in place of the system's."),
    (
        "TASKQ_CERT, TASKQ_KEY",
        "On TLS: a certificate that says who you are, and its key, in place of a token.",
    ),
    ("TASKQ_RECONNECT", "How long a daemon that has gone may take to come back, as with --reconnect."),
    ("NO_COLOR", "Where it is set and not empty, a terminal gets no colours."),
)


def page(group: click.Group) -> str:
    """Return the page."""
    context = click.Context(group, info_name="taskq", color=False)
    return "\n".join(_page(group, context))


def _page(group: click.Group, context: click.Context) -> Iterator[str]:
    yield f'.TH TASKQ 1 "" "taskqd {__version__}" "User Commands"'
    yield from (".SH NAME", "taskq \\- hand shell commands to a taskqd daemon")
    yield from (".SH SYNOPSIS", ".B taskq", "[OPTIONS] COMMAND [ARGS]...")
    yield ".SH DESCRIPTION"
    yield from _prose(group.help or "")
    yield ".SH OPTIONS"
    yield from _options(group, context)
    yield ".SH COMMANDS"
    for title, names in SECTIONS.items():
        yield f".SS {_escaped(title)}"
        for name in names:
            if command := group.get_command(context, name):
                yield from _command(command, click.Context(command, info_name=name, parent=context))
    yield ".SH EXIT STATUS"
    yield from _terms(_EXIT_CODES)
    yield ".SH ENVIRONMENT"
    yield from _terms(_ENVIRONMENT)
    yield ".SH VALUES AND EXAMPLES"
    yield from _prose(_without_exit_codes(group.epilog or ""))
    yield from (".SH VIEW ALSO", ".BR twistd (1)")


def _without_exit_codes(epilog: str) -> str:
    """Return the paragraphs of the help's end that have no section of their own here."""
    paragraphs = re.split(r"\n\s*\n", epilog.strip())
    return "\n\n".join(each for each in paragraphs if "Exit codes:" not in each)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield ".PP"
    yield f"\\fBtaskq {_escaped(command.name or '')}\\fR {_escaped(usage)}"
    yield ".RS 4"
    yield from _prose(command.help or "")
    yield from _options(command, context)
    yield from _prose(command.epilog or "")
    yield ".RE"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options, those that all commands have only once for all."""
    is_group = isinstance(command, click.Group)
    records = []
    for parameter in command.get_params(context):
        is_common = {"--json", "--jsonl", "--address", "--help"} & set(parameter.opts)
        record = parameter.get_help_record(context)
        if record and record[1] and (is_group or not is_common):
            records.append(record)
    yield from _terms(records)


def _terms(records: "list[tuple[str, str]] | tuple[tuple[str, str], ...]") -> Iterator[str]:
    for term, meaning in records:
        yield from (".TP", f"\\fB{_escaped(term)}\\fR", _safe(_marked(" ".join(meaning.split()))))


def _prose(text: str) -> Iterator[str]:
    """Yield a help text as roff; a paragraph that click does not fill keeps its lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [line.rstrip() for line in paragraph.split("\n")]
        if lines[0].strip() != "\b":
            yield from (".PP", _safe(_marked(" ".join(" ".join(lines).split()))))
            continue
        yield ".PP"
        yield from (".nf", *(_safe(_escaped(line)) for line in lines[1:]), ".fi")


def _marked(text: str) -> str:
    """Return text with what stands in backquotes in bold."""
    pieces = _CODE.split(text)
    return "".join(
        f"\\fB{_escaped(piece)}\\fR" if number % 2 else _escaped(piece) for number, piece in enumerate(pieces)
    )


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _safe(line: str) -> str:
    """Return a line that roff does not take for a request."""
    return "\\&" + line if line.startswith((".", "'")) else line
