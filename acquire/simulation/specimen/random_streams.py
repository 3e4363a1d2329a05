"""Random streams that depend on what they are for, never on when they are asked for."""

import numpy as np

__all__ = ["Purpose", "stream"]

_MASK = 0xFFFFFFFFFFFFFFFF


class Purpose:
    """First key of a stream: keeps the draws of unrelated things independent."""

    LANDSCAPE = 1
    FREQUENCIES = 2
    WHITE_CELLS = 3
    PARTICLES = 4
    RED_CELLS = 5
    SHAPE = 6
    APPEARANCE = 7
    NOISE = 8
    JITTER = 9
    SENSOR = 10
    TEXTURE = 11
    SLIDE_PLACEMENT = 12
    FLICKER = 13
    LABEL = 14


def stream(*keys: int) -> np.random.Generator:
    """Return the generator that belongs to these keys: the same keys give the same numbers in any
    order of calls.
    """
    return np.random.Generator(
        np.random.SFC64(np.random.SeedSequence([key & _MASK for key in keys]))
    )
