"""How much each of several opinions counts, learned from how likely each held what came."""

from __future__ import annotations

from collections.abc import Sequence

#: How much one observation changes the weights.
RATE = 1 / 16
#: No weight falls below this, so that what is wrong for long can be right again.
FLOOR = 0.02


class Mixture:
    """A weighted mean of probability distributions.

    Weights follow the likelihood of the mixture by online expectation-maximisation (Cappé & Moulines, JRSS B 2009):
    each moves towards the share that its opinion has in what came. The mean of distributions is a distribution, and
    weights that make the observed likely make it a calibrated one.
    """

    def __init__(self, opinions: int) -> None:
        self.weights = [1.0 / opinions] * opinions

    def mean(self, opinions: Sequence[float]) -> float:
        """Return the probability that opinions come to together."""
        return sum(weight * one for weight, one in zip(self.weights, opinions, strict=True))

    def learn(self, opinions: Sequence[float]) -> None:
        """Hear how likely each opinion held what came."""
        whole = self.mean(opinions)
        if whole <= 0.0:
            return
        pairs = zip(self.weights, opinions, strict=True)
        moved = [max(FLOOR, weight + RATE * (weight * one / whole - weight)) for weight, one in pairs]
        self.weights = [weight / sum(moved) for weight in moved]
