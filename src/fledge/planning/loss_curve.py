"""What loss to expect of a model of so many parameters after so much text: a power law, and how it is fitted.

    loss = floor + size / parameters^0.216 + text / bytes^0.178        nats for each byte of text

`ROUGH` is drawn through two points: nanoGPT's CPU example as we measure it (0.8M parameters, 1.5 MB of Shakespeare,
1.90 nats a byte), and 125M parameters after 20 tokens each (0.75, by the fit of Hoffmann et al., 2022, whose floor it
has). There size and text matter so that 20 tokens for a parameter use time best. GPT-2's 0.65 lies within 0.02
of it. Texts differ by far more than that: it is rough, and finished runs on the same text bend it.

Parameters are those of the blocks. No torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIZE_POWER, TEXT_POWER = 0.216, 0.178
PRIOR_WEIGHT = 0.5  # how far each constant may be off, as a share of itself, before anything is measured
NOISE = 0.02  # the same for a measured loss: another seed, another rate
WORTH_REPEATING = 15  # passes after which a text says little new: Muennighoff et al., 2023


@dataclass(frozen=True)
class LossPoint:
    """What a finished run came to, by the byte."""

    parameters: int
    bytes: float
    loss: float


@dataclass(frozen=True)
class LossCurve:
    floor: float
    size: float
    text: float

    def loss(self, parameters: int, bytes: float) -> float:
        return float(np.dot(_features(parameters, bytes), (self.floor, self.size, self.text)))


ROUGH = LossCurve(floor=0.376, size=9.41, text=12.7)


def fit(points: Sequence[LossPoint], before: LossCurve = ROUGH) -> LossCurve:
    """The curve nearest to `before` and to all points, each weighed by how far it can be trusted.

    Least squares of three numbers: what is believed of each is one equation, each point is one more.
    """
    believed = np.array([before.floor, before.size, before.text])
    rows = [np.eye(3) / (PRIOR_WEIGHT * believed)]
    values = [np.full(3, 1 / PRIOR_WEIGHT)]
    for point in points:
        weight = 1 / (NOISE * point.loss)
        rows.append(np.array([_features(point.parameters, point.bytes)]) * weight)
        values.append(np.array([point.loss * weight]))
    found = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    return LossCurve(*(float(value) for value in np.maximum(found, 0.0)))


def new_points(seen: float, there: float) -> float:
    """`seen` bytes of a text of `there`: what is read again is worth less each time, and in the end nothing."""
    if seen <= there:
        return seen
    again = seen / there - 1
    return there * (1 + WORTH_REPEATING * (1 - math.exp(-again / WORTH_REPEATING)))


def _features(parameters: int, bytes: float) -> tuple[float, float, float]:
    return 1.0, parameters**-SIZE_POWER, bytes**-TEXT_POWER
