"""Equal specs are one object: jobs may be millions, and nearly all are asked for in a few ways."""

from collections.abc import Mapping
from hashlib import blake2b

import msgspec
from msgspec.structs import replace

from taskqd.model.job import Job
from taskqd.model.spec import DEFAULT_SPEC, Spec

MOST = 1000
"""So many different specs are looked out for; when there are more, others take their place."""

_ENCODE = msgspec.json.Encoder().encode
_DIGEST_BYTES = 32
_FIXED = ("env", "env_base64", "secrets", "after", "after_any", "after_fail")
"""What SET never changes, and may be long."""


class SpecPool:
    """The specs of late, by their text, or by the digest of a long one."""

    def __init__(self) -> None:
        self._known = {_name(DEFAULT_SPEC): DEFAULT_SPEC}
        self._last = DEFAULT_SPEC

    def shared(self, spec: Spec) -> Spec:
        """Return the spec, or one of late that is equal to it."""
        if spec is self._last or spec is DEFAULT_SPEC:
            return spec
        if len(self._known) >= MOST:
            self._known = {_name(DEFAULT_SPEC): DEFAULT_SPEC}
        self._last = self._known.setdefault(_name(spec), spec)
        return self._last


def _name(spec: Spec) -> bytes:
    text = _ENCODE(spec)
    return text if len(text) <= _DIGEST_BYTES else blake2b(text, digest_size=_DIGEST_BYTES).digest()


def with_known_ids(spec: Spec, jobs: Mapping[int, Job]) -> Spec:
    """Return a spec whose dependencies are the very numbers that ``jobs`` have: one object per job."""
    if not (spec.after or spec.after_any or spec.after_fail):
        return spec
    after, after_any, after_fail = (
        tuple(jobs[one].id if one in jobs else one for one in ids)
        for ids in (spec.after, spec.after_any, spec.after_fail)
    )
    return replace(spec, after=after, after_any=after_any, after_fail=after_fail)


def with_parts_of(before: Spec, spec: Spec) -> Spec:
    """Return a changed spec that shares with the one ``before`` what is equal in both and may be long."""
    same = {
        name: part
        for name in _FIXED
        if (part := getattr(before, name)) is not (new := getattr(spec, name)) and part == new
    }
    return replace(spec, **same) if same else spec
