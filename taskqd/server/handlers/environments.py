"""Checks which clients may pass their environment on to a job, and which may name one by its hash."""

from taskqd.errors import BadRequest, Forbidden, TaskqError
from taskqd.model.spec import Spec
from taskqd.model.submission import Refusal, SimilarSubmissions
from taskqd.server.interfaces import IClient


def check_is_local(client: IClient, spec: Spec) -> None:
    """Raise Forbidden for the environment of a client that is no process on this machine."""
    if spec.environment is not None and not client.is_local:
        raise Forbidden(
            "permission denied: --environment is allowed only over the daemon's UNIX socket, since it has "
            "whatever is secret in a login session; name what the job needs by --env or --secret"
        )


def check_environment(client: IClient, spec: Spec) -> None:
    """Raise Forbidden or BadRequest if a client may not submit a job with this environment.

    By its hash a client may name only what it has sent itself: replies show hashes to other users.
    """
    check_is_local(client, spec)
    environment = spec.environment
    if environment is not None and environment.sha256 and environment != client.environment:
        raise BadRequest(
            f"the environment {environment.sha256} of {environment.size} bytes is not the last one that was "
            "accepted on this connection; send its block, with --environment=<n>"
        )


def checked(
    client: IClient, submissions: list[SimilarSubmissions | Refusal]
) -> list[SimilarSubmissions | Refusal]:
    """Return submissions, with the errors in place of those whose environment the client may not name."""
    return [_checked(client, each) for each in submissions]


def _checked(client: IClient, submissions: SimilarSubmissions | Refusal) -> SimilarSubmissions | Refusal:
    if isinstance(submissions, Refusal) or submissions.spec.environment is None:
        return submissions
    try:
        check_environment(client, submissions.spec)
    except TaskqError as error:
        return Refusal(error, len(submissions.commands))
    return submissions
