"""The sources of chance of the engine, which tests replace."""

import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import NamedTuple


class Randomness(NamedTuple):
    """``fraction()`` returns a number from 0 to 1, ``word()`` 16 hex digits that no other call returns."""

    fraction: Callable[[], float] = random.SystemRandom().random
    word: Callable[[], str] = partial(secrets.token_hex, 8)
