"""Which job has which named unit of a resource."""

from taskqd.state.unit_assignments import UnitAssignments


def test_job_gets_the_first_free_units_of_resources_with_names() -> None:
    units = UnitAssignments({"gpu": ("a", "b", "c"), "tape": ("0",)})
    assert units.assign(1, {"gpu": 2, "disk": 5}) == {"gpu": ("a", "b")}
    assert units.assign(2, {"tape": 1, "gpu": 1}) == {"gpu": ("c",), "tape": ("0",)}
    assert units.assign(3, {"disk": 5}) == {}
    units.release(1)
    units.release(3)
    assert units.assign(4, {"gpu": 1}) == {"gpu": ("a",)}
    assert units.of(2, "gpu") == ("c",)
    assert units.of(1, "gpu") == units.of(2, "disk") == ()
    assert units.describe("gpu") == {"a": 4, "b": None, "c": 2}


def test_units_that_are_no_longer_in_the_settings_stay_with_their_job_and_are_not_given_again() -> None:
    units = UnitAssignments({"gpu": ("a", "c")})
    units.restore(1, {"gpu": ("b",), "tape": ("0",)})
    units.restore(2, {"gpu": ("a",)})
    assert units.describe("gpu") == {"a": 2, "c": None, "b": 1}
    assert units.assign(3, {"gpu": 1}) == {"gpu": ("c",)}
    for job_id in (1, 2):
        units.release(job_id)
    assert units.describe("gpu") == {"a": None, "c": 3}
