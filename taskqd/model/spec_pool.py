"""Shares equal specs: there may be millions of jobs, and nearly all have one of a few specs."""

from collections.abc import Mapping
from hashlib import blake2b

import msgspec
from msgspec.structs import replace

from taskqd.model.job import Job
from taskqd.model.spec import DEFAULT_SPEC, Spec

MAX_SPECS = 1000
"""Specs that a pool remembers; when there are more, it starts again with none."""

_ENCODE = msgspec.json.Encoder().encode
_DIGEST_BYTES = 32
_FIXED = (
    *("script_line", "env", "env_base64", "secrets", "environment"),
    *("after", "after_any", "after_fail", "named"),
    *("stdout", "stderr"),
)
"""Fields that SET seldom changes and that may be large."""


class SpecPool:
    """Recent specs, by their JSON, or by its digest if that is shorter."""

    def __init__(self) -> None:
        self._known = {_key(DEFAULT_SPEC): DEFAULT_SPEC}
        self._last = DEFAULT_SPEC

    def intern(self, spec: Spec) -> Spec:
        """Return an equal spec that was interned before, else the spec itself."""
        if spec is self._last or spec is DEFAULT_SPEC:
            return spec
        if len(self._known) >= MAX_SPECS:
            self._known = {_key(DEFAULT_SPEC): DEFAULT_SPEC}
        self._last = self._known.setdefault(_key(spec), spec)
        return self._last


def _key(spec: Spec) -> bytes:
    text = _ENCODE(spec)
    return text if len(text) <= _DIGEST_BYTES else blake2b(text, digest_size=_DIGEST_BYTES).digest()


def with_known_ids(spec: Spec, jobs: Mapping[int, Job]) -> Spec:
    """Return the spec with the int objects of ``jobs`` as ids of its dependencies, to save memory."""
    if not spec.has_dependencies:
        return spec
    after, after_any, after_fail = (
        tuple(jobs[one].id if one in jobs else one for one in ids)
        for ids in (spec.after, spec.after_any, spec.after_fail)
    )
    return replace(spec, after=after, after_any=after_any, after_fail=after_fail)


def with_parts_of(before: Spec, spec: Spec) -> Spec:
    """Return a changed spec that shares large equal fields with the spec ``before`` it."""
    same = {
        name: part
        for name in _FIXED
        if (part := getattr(before, name)) is not (new := getattr(spec, name)) and part == new
    }
    return replace(spec, **same) if same else spec
