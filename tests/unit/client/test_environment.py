"""The environment of a client: what a job may inherit, and how it is sent."""

from hashlib import sha256

import pytest

from taskqd.client.environment import encode_environment, inheritable
from taskqd.errors import BadRequest


@pytest.mark.parametrize(
    "name",
    [
        *("TASKQ_TOKEN", "TASKQ_ADDRESS", "TASKQ_JOB_ID"),
        *("GITHUB_TOKEN", "github_token", "TOKEN", "TOKEN_FILE", "AWS_SECRET_ACCESS_KEY", "client_secret"),
        *("PGPASSWORD", "MYSQL_PASSWORD_FILE", "API_KEY", "ssh_key"),
        *("_", "PWD", "OLDPWD", "SHLVL", "SHELLOPTS", "BASHOPTS"),
        *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
        *("BASH_FUNC_x%%", "a.b", "1", "", "N" * 201, "\xe9"),
    ],
)
def test_variable_is_not_inherited(name: str) -> None:
    assert inheritable({name.encode(): b"hunter2", b"A": b"1"}) == {b"A": b"1"}


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "SSH_AUTH_SOCK", "DISPLAY", "CONDA_PREFIX", "LD_LIBRARY_PATH", "HTTPS_PROXY"),
        *("KEY", "KEYBOARD", "API_KEYS", "MY_TASKQ_X", "PWDS", "__", "lower", "N" * 200),
    ],
)
def test_variable_is_inherited(name: str) -> None:
    assert inheritable({name.encode(): b"\xff\n"}) == {name.encode(): b"\xff\n"}


def test_environment_is_a_sorted_block_and_its_hash() -> None:
    block, known = encode_environment({"B": "x=\udcff\n", "A": b""})
    assert block == b"A=\0B=x=\xff\n\0"
    assert known.decode() == f"{len(block)}:{sha256(block).hexdigest()}"
    assert encode_environment({b"A": b"", b"B": b"x=\xff\n"}) == (block, known)
    assert encode_environment({}).block == b""


@pytest.mark.parametrize(
    "variables, part",
    [
        ({"a.b": "hunter2"}, "expected the name of a variable"),
        ({"": "hunter2"}, "expected the name of a variable"),
        ({"A": "hunter2\0"}, "the value of A contains a NUL byte"),
        ({"A": "\ud800"}, "lone surrogate"),
    ],
)
def test_invalid_environment_is_refused(variables: dict[str, str], part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        encode_environment(variables)
    assert part in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
