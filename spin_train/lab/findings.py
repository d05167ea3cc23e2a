"""What the bridge finds: where a training ended, a number against its prediction, a curve."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Curve", "End", "Finding"]


@dataclass(frozen=True)
class End:
    """Where a training ended, and where theory says that it ends."""

    problem: str
    tv: float
    """Total variation from the closed form, of the prompt where it is largest."""
    gap: float
    """Objective minus its lower bound, nats: how far it is from the least value, at most."""
    bound: float
    """Certified lower bound on the objective, nats."""
    nearest: str
    """The wrong closed form that is nearest."""
    nearest_tv: float
    """Its distance."""
    holds: bool
    """Whether the right form is within the tolerance, and no wrong one is."""
    steps: int = 0
    """Steps of the optimiser."""
    outside: float = 0.0
    """Probability outside of the space, of the prompt where it is largest."""


@dataclass(frozen=True)
class Finding:
    """A number that theory predicts, and what was measured."""

    claim: str
    predicted: float
    measured: float
    tolerance: float
    """How far apart they may be."""
    wrong: str = ""
    """What a reader might take for right, and the row has to reject; empty if nothing is given."""
    wrong_apart: float | None = None
    """How far prediction and measurement are apart with that."""

    @property
    def holds(self) -> bool:
        """Whether they are as near as they have to be, and further apart with what is wrong.

        nan is not near.
        """
        near = abs(self.measured - self.predicted) <= self.tolerance
        return near and (self.wrong_apart is None or self.wrong_apart > self.tolerance)


@dataclass(frozen=True)
class Curve:
    """Numbers to draw."""

    name: str
    panel: str
    """`gap`, `samples`, `modes` or `cosine`."""
    x: Sequence[float]
    y: Sequence[float]
