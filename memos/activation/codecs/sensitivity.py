"""How coarse each layer may be: the product of measured sensitivity and of nothing that the decoder must know."""

from __future__ import annotations

import numpy as np


def step_profile(index, layers):
    return np.array(PROFILE[index])


PROFILE = None
