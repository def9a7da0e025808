"""Generates the manual page taskq(1) in roff from the help of the commands."""

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
    ("0", "Success."),
    ("result, wait, run, follow", "The exit code of the job; 128+N if signal N ended it."),
    (str(REFUSED), "The request was refused, or the job has no exit code."),
    ("2", "The command line is invalid."),
    (str(NO_DAEMON), "No daemon answers."),
    (
        str(DROPPED),
        "result, run, follow, output: the job succeeded, but output over --max-output was dropped.",
    ),
    (str(NOT_FINISHED), "Not finished, or a timeout."),
    (f"{INTERRUPTED}, {BROKEN_PIPE}", "Ctrl-C, or stdout was closed."),
)
_ENVIRONMENT = (
    ("TASKQ_ADDRESS", "Address of the daemon, as --address."),
    ("TASKQ_TOKEN", "Token for a daemon on TCP or TLS."),
    ("TASKQ_TOKEN_FILE", "File that contains the token."),
    (
        "TASKQ_CA",
        "TLS: file of the CA that signed the daemon's certificate, instead of the CAs of the system.",
    ),
    (
        "TASKQ_CERT, TASKQ_KEY",
        "TLS: client certificate and its key, instead of a token.",
    ),
    ("TASKQ_RECONNECT", "How long to wait for a daemon that is being restarted, as --reconnect."),
    ("NO_COLOR", "If set and not empty, no colours are used on a terminal."),
)


def page(group: click.Group) -> str:
    """Return the manual page."""
    context = click.Context(group, info_name="taskq", color=False)
    return "\n".join(_page(group, context))


def _page(group: click.Group, context: click.Context) -> Iterator[str]:
    yield f'.TH TASKQ 1 "" "taskqd {__version__}" "User Commands"'
    yield from (".SH NAME", "taskq \\- submit shell commands to a taskqd daemon")
    yield from (".SH SYNOPSIS", ".B taskq", "[OPTIONS] COMMAND [ARGS]...")
    yield ".SH DESCRIPTION"
    yield from prose_to_roff(group.help or "")
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
    yield from prose_to_roff(_without_exit_codes(group.epilog or ""))
    yield from (".SH SEE ALSO", ".BR twistd (1)")


def _without_exit_codes(epilog: str) -> str:
    """Return the paragraphs of the epilog that have no separate section in the manual page."""
    paragraphs = re.split(r"\n\s*\n", epilog.strip())
    return "\n\n".join(each for each in paragraphs if "Exit codes:" not in each)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield ".PP"
    yield f"\\fBtaskq {_escaped(command.name or '')}\\fR {_escaped(usage)}"
    yield ".RS 4"
    yield from prose_to_roff(command.help or "")
    yield from _options(command, context)
    yield from prose_to_roff(command.epilog or "")
    yield ".RE"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options; common options only for the group, not for each command."""
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
        yield from (".TP", f"\\fB{_escaped(term)}\\fR", _protected(_bold_code(" ".join(meaning.split()))))


def prose_to_roff(text: str) -> Iterator[str]:
    """Yield a help text as roff; paragraphs that click does not wrap keep their line breaks."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [line.rstrip() for line in paragraph.split("\n")]
        if lines[0].strip() != "\b":
            yield from (".PP", _protected(_bold_code(" ".join(" ".join(lines).split()))))
            continue
        yield ".PP"
        yield from (".nf", *(_protected(_escaped(line)) for line in lines[1:]), ".fi")


def _bold_code(text: str) -> str:
    """Return text with the parts in backquotes in bold."""
    pieces = _CODE.split(text)
    return "".join(
        f"\\fB{_escaped(piece)}\\fR" if number % 2 else _escaped(piece) for number, piece in enumerate(pieces)
    )


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _protected(line: str) -> str:
    """Return a line escaped so that roff does not interpret it as a request."""
    return "\\&" + line if line.startswith((".", "'")) else line
