"""Units of resources as a text, and the variable of a resource."""

import pytest

from taskqd.model.units import need_variable, pack_units, unpack_units


@pytest.mark.parametrize(
    "units, text",
    [
        ({}, ""),
        ({"gpu": ("0",)}, "gpu=0"),
        ({"gpu": ("0", "GPU-1:2/3"), "a.b@c": ("x",)}, "gpu=0,GPU-1:2/3 a.b@c=x"),
    ],
)
def test_units_are_packed_and_unpacked(units: dict[str, tuple[str, ...]], text: str) -> None:
    assert pack_units(units) == text
    assert unpack_units(text) == units


def test_equal_units_share_their_text() -> None:
    assert pack_units({"gpu": ("0",)}) is pack_units({"gpu": ("0",)})


def test_variable_of_a_resource_has_its_letters_and_digits() -> None:
    assert need_variable("gpu") == "TASKQ_NEED_GPU"
    assert need_variable("fast/gpu-2") == "TASKQ_NEED_FAST_GPU_2"
