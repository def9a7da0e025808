from taskqd.model import spec_pool as specs
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec
from taskqd.model.spec_pool import SpecPool


def test_equal_specs_become_one() -> None:
    known = SpecPool()
    first = known.intern(Spec(label="x", env={"A": "1"}))
    assert known.intern(Spec(label="y")) == Spec(label="y")
    assert known.intern(Spec(label="x", env={"A": "1"})) is first
    assert known.intern(first) is first


def test_what_asks_for_nothing_is_plain() -> None:
    known = SpecPool()
    assert known.intern(DEFAULT_SPEC) is DEFAULT_SPEC
    assert known.intern(Spec()) is DEFAULT_SPEC
    assert known.intern(Spec(queue="default", env={})) is DEFAULT_SPEC


def test_what_differs_stays_apart() -> None:
    known = SpecPool()
    different = [Spec(retries=1), Spec(priority=1), Spec(array=Array(1, 2)), Spec(after=(1,)), Spec(at=1.0)]
    assert [known.intern(spec) for spec in different] == different


def test_no_more_are_looked_out_for_than_there_is_room_for() -> None:
    known = SpecPool()
    first = known.intern(Spec(label="first"))
    for number in range(specs.MAX_SPECS):
        assert known.intern(Spec(label=str(number))) == Spec(label=str(number))
    assert known.intern(Spec(label="first")) is not first
    assert known.intern(Spec()) is DEFAULT_SPEC
