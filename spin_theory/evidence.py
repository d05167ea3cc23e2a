"""What a check returns: whether the claim held, by how much, and the numbers it rests on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Evidence"]


@dataclass(frozen=True)
class Evidence:
    """Outcome of one check of one claim.

    Attributes
    ----------
    residual : float
        How far the claim is from holding exactly, in the unit that the check names; at least 0.
    tolerance : float
        What rounding may make of it.
    numbers : mapping of str to float
        What else was computed on the way, by name.

    Examples
    --------
    >>> Evidence(residual=1e-16, tolerance=1e-12).holds
    True
    >>> Evidence(residual=float("nan"), tolerance=1e-12).holds
    False
    """

    residual: float
    tolerance: float
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the residual is within its tolerance; nan is not."""
        return self.residual <= self.tolerance
