"""The command edit."""

from collections.abc import Sequence
from enum import Enum

import click

from taskqd.cli import job_options, job_text, parameters
from taskqd.cli.app import taskq
from taskqd.cli.context import REFUSED, Session
from taskqd.cli.display.text import confirm
from taskqd.cli.editor import EditedFile, find_editor
from taskqd.client import Changes, Client, Facts, Ref, Refused
from taskqd.errors import BadRequest


class _End(Enum):
    """How an edit ended: the job is as wanted, a mistake can be corrected, or the job has changed."""

    DONE = "done"
    MISTAKE = "mistake"
    TOO_LATE = "too late"


@taskq.command(
    epilog="""\b
Examples:
  taskq edit 7
  EDITOR='code --wait' taskq edit 7 8
"""
)
@parameters.job_arguments
@click.pass_obj
def edit(session: Session, jobs: Sequence[Ref]) -> int:
    """Edit a pending job: its command or script and its options.

    Opens $VISUAL, $EDITOR, sensible-editor or vi; for several jobs, one after the other. When the editor
    ends, one request changes all that was changed in the file, or nothing. After a mistake you can edit the
    file again. If the text could not be used, it is kept in a file, which is named. Only the owner of a job
    may change its command. Prints the id of each changed job.
    """
    with session.answer_list(len(jobs) > 1):
        return max([_edit(session, job, f"job {job}: " if len(jobs) > 1 else "") for job in jobs])


def _edit(session: Session, job: Ref, subject: str) -> int:
    try:
        with session.connect() as client:
            facts = client.show(job)
            _check_can_be_edited(facts)
            before = _text(client, facts)
    except Refused as refusal:
        return session.print_refusal(refusal, subject.removesuffix(": "), {"id": job})
    file = EditedFile(f"job-{job}.conf", before)
    is_done = False
    try:
        is_done = _edit_until_done(session, job, file, before, subject)
    finally:
        if is_done or file.read() in ("", before):
            file.remove()
        else:
            session.print_message(f"job {job} was not changed; your text is in {file.path}")
    return 0 if is_done else REFUSED


def _check_can_be_edited(job: Facts) -> None:
    """Raise Refused, as the daemon would, for a job that cannot be edited."""
    if job.get("array") is not None:
        raise Refused(
            "WRONG_STATE",
            f"job {job['id']} is a task of array {job['array']}; `taskq edit {job['array']}` edits all tasks",
        )
    if not _is_pending(job):
        raise Refused(
            "WRONG_STATE",
            f"job {job['id']} is {job['status']}; `taskq edit` is only for jobs that have not started",
        )


def _is_pending(job: Facts) -> bool:
    return bool(job["tasks"]["pending"]) if "tasks" in job else job["status"] == "PENDING"


def _text(client: Client, job: Facts) -> str:
    is_own = client.hello()["you"]["name"] == job["owner"]
    script = None
    if job.get("script") is not None and is_own:
        script = b"".join(piece.data for piece in client.stream(job["id"], "script"))
        if b"\0" in script:
            raise Refused(
                "BAD_REQUEST",
                "the script has NUL bytes, so it is no text; `taskq set --script` sends another",
            )
    return job_text.write(job, script, is_own)


def _edit_until_done(session: Session, job: Ref, file: EditedFile, before: str, subject: str) -> bool:
    """Open the editor, and again after a mistake if the user wants that; return whether all is done."""
    while True:
        code = file.edit()
        if code:
            session.print_message(
                f"{subject}{find_editor()} failed with exit code {code}; nothing was changed"
            )
            return False
        end = _apply(session, job, file, before, subject)
        if end is not _End.MISTAKE:
            return end is _End.DONE
        if not confirm("edit again?", default=True):
            return False


def _apply(session: Session, job: Ref, file: EditedFile, before: str, subject: str) -> _End:
    """Send what was changed."""
    text = file.read()
    if text == before or not text.strip():
        why = "is unchanged" if text == before else "is empty"
        session.print_message(f"{subject}the file {why}; nothing was changed")
        return _End.DONE
    try:
        changes = _changes(before, text)
    except (BadRequest, click.UsageError) as why:
        message = why.format_message() if isinstance(why, click.UsageError) else str(why)
        session.print_message(f"{subject}{message}")
        return _End.MISTAKE
    if not changes:
        session.print_message(f"{subject}no value is changed; nothing was changed")
        return _End.DONE
    with session.connect() as client:
        try:
            session.print_answer(str(job), client.set(job, **changes))
        except Refused as refusal:
            session.print_refusal(refusal, subject.removesuffix(": "), {"id": job})
            return _End.MISTAKE if _can_be_edited(client, job) else _End.TOO_LATE
    return _End.DONE


def _changes(before: str, after: str) -> Changes:
    options, executed = job_text.read(before).changes(job_text.read(after))
    changes: Changes = job_options.parse_changes(options)
    changes.update(executed)  # type: ignore[typeddict-item]
    return changes


def _can_be_edited(client: Client, job: Ref) -> bool:
    try:
        return _is_pending(client.show(job))
    except Refused:
        return False
