"""Equal specs are one object: jobs may be millions, and nearly all are asked for in a few ways."""

import msgspec

from taskqd.job import PLAIN, Spec

MOST = 1000
"""So many different specs are looked out for; when there are more, others take their place."""

_ENCODE = msgspec.json.Encoder().encode


class Specs:
    """The specs of late, by their text."""

    def __init__(self) -> None:
        self._known = {_ENCODE(PLAIN): PLAIN}
        self._last = PLAIN

    def shared(self, spec: Spec) -> Spec:
        """Return the spec, or one of late that is equal to it."""
        if spec is self._last or spec is PLAIN:
            return spec
        if len(self._known) >= MOST:
            self._known = {_ENCODE(PLAIN): PLAIN}
        self._last = self._known.setdefault(_ENCODE(spec), spec)
        return self._last
