import msgspec
from msgspec.structs import replace

from taskqd.model import spec_pool as specs
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec
from taskqd.model.spec_pool import SpecPool


def test_intern_returns_one_object_for_equal_specs() -> None:
    known = SpecPool()
    first = known.intern(Spec(label="x", env={"A": "1"}))
    assert known.intern(Spec(label="y")) == Spec(label="y")
    assert known.intern(Spec(label="x", env={"A": "1"})) is first
    assert known.intern(first) is first


def test_intern_returns_default_spec_for_a_spec_without_options() -> None:
    known = SpecPool()
    assert known.intern(DEFAULT_SPEC) is DEFAULT_SPEC
    assert known.intern(Spec()) is DEFAULT_SPEC
    assert known.intern(Spec(queue="default", env={})) is DEFAULT_SPEC


def test_intern_keeps_different_specs_apart() -> None:
    known = SpecPool()
    different = [Spec(retries=1), Spec(priority=1), Spec(array=Array(1, 2)), Spec(after=(1,)), Spec(at=1.0)]
    assert [known.intern(spec) for spec in different] == different


def test_changed_spec_shares_the_large_fields_that_stay() -> None:
    before = Spec(script=9, script_line="make -j4", env={"A": "1"}, after=(7, 8))
    read_again = msgspec.json.decode(msgspec.json.encode(replace(before, priority=1)), type=Spec)
    changed = specs.with_parts_of(before, read_again)
    assert changed == read_again
    assert changed.script_line is before.script_line
    assert changed.env is before.env
    assert changed.after is before.after


def test_pool_forgets_its_specs_beyond_the_maximum() -> None:
    known = SpecPool()
    first = known.intern(Spec(label="first"))
    for number in range(specs.MAX_SPECS):
        assert known.intern(Spec(label=str(number))) == Spec(label=str(number))
    assert known.intern(Spec(label="first")) is not first
    assert known.intern(Spec()) is DEFAULT_SPEC
