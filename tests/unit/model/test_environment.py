"""The block of an environment: what is accepted, and what an error says of it."""

from hashlib import sha256

import pytest

from taskqd.errors import BadRequest
from taskqd.model.environment import Environment, environment_of, sort_block, unpack_environment


@pytest.mark.parametrize(
    "block, sorted_block",
    [
        (b"", b""),
        (b"A=1\0", b"A=1\0"),
        (b"B=2\0A=\0_c9=x=y \n\xff\0", b"A=\0B=2\0_c9=x=y \n\xff\0"),
        (b"A_B=1\0A=2\0AB=3\0", b"A=2\0AB=3\0A_B=1\0"),
        (b"PATH=/bin\0" + b"N" * 200 + b"=\0", b"N" * 200 + b"=\0PATH=/bin\0"),
    ],
)
def test_equal_environments_are_equal_blocks(block: bytes, sorted_block: bytes) -> None:
    assert sort_block(block) == sorted_block


@pytest.mark.parametrize(
    "block, part",
    [
        (b"A=1\0B=hunter2", "the last one has none"),
        (b"A=1\0hunter2\0", "variable 2 of the environment is not NAME=value"),
        (b"A=1\0\0", "variable 2 of the environment is not NAME=value"),
        (b"=hunter2\0", "variable 1 of the environment is not NAME=value"),
        (b"9=hunter2\0", "variable 1 of the environment is not NAME=value"),
        (b"BASH_FUNC_x%%=hunter2\0", "variable 1 of the environment is not NAME=value"),
        (b"N" * 201 + b"=hunter2\0", "variable 1 of the environment is not NAME=value"),
        (b"A=\nhunter2\0TASKQ_TOKEN=hunter2\0", "variable 2 of the environment is TASKQ_TOKEN"),
        (b"A=1\0B=2\0A=hunter2\0", "two variables A"),
    ],
)
def test_invalid_block_is_refused_without_its_values(block: bytes, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        sort_block(block)
    assert part in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_block_is_known_by_its_size_and_hash() -> None:
    environment = environment_of(b"A=1\0B=\xff\n\0")
    assert environment == Environment(9, sha256(b"A=1\0B=\xff\n\0").hexdigest())
    assert unpack_environment(b"A=1\0B=\xff\n\0", environment) == {"A": "1", "B": "\udcff\n"}


@pytest.mark.parametrize("block", [b"A=1\0B=\xff\n", b"A=2\0B=\xff\n\0", b""])
def test_other_block_than_the_expected_one_is_an_error(block: bytes) -> None:
    with pytest.raises(ValueError, match="are not those with the SHA-256"):
        unpack_environment(block, environment_of(b"A=1\0B=\xff\n\0"))
