"""What a claim is: its statement, its source, and the check of it on random tables."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from spin_theory.claims.evidence import Finding
from spin_theory.claims.instances import Draw
from spin_theory.minima.closed_forms import Update
from spin_theory.tolerances import Tolerance

__all__ = ["Check", "Claim", "Judged"]

Check = Callable[[Draw, Update, str], Finding]
"""Maps an instance, the claimed minimiser of SPIN and a penalty to the evidence."""


@dataclass(frozen=True)
class Judged:
    """What a check found, judged by the tolerance of the claim.

    Attributes
    ----------
    evidence : Finding
        What the check returned.
    tolerance : float
        How large the residual may be.
    """

    evidence: Finding
    tolerance: float

    @property
    def residual(self) -> float:
        """How far the claim is from holding exactly.

        Returns
        -------
        float
            At least 0, or nan.
        """
        return self.evidence.residual

    @property
    def holds(self) -> bool:
        """Whether the check holds, and the residual is within the claim's tolerance."""
        return self.evidence.holds and self.residual <= self.tolerance


@dataclass(frozen=True)
class Claim:
    """One claim, as the table at the end of each file of this folder lists it.

    Attributes
    ----------
    name : str
        What `spin-theory verify` prints, with `{loss_type}` in place of the penalty.
    statement : str
        What is claimed, in one or two sentences, formulas in backquotes.
    source : str
        Where it comes from: a theorem or equation of a paper, or 'derived' if the papers do
        not say it.
    function : callable
        The public function that checks it.
    tolerance : Tolerance
        How large the residual may be on the instances of `spin-theory verify`, and why: ten times
        the worst of 10,000, rounded up to a power of ten. What `function` tolerates is for any
        tables.
    check : Check
        Calls `function` on an instance.
    loss_types : tuple of str, default ('logistic',)
        The penalties it is claimed for, one row of `spin-theory verify` each.
    """

    name: str
    statement: str
    source: str
    function: Callable[..., Finding]
    tolerance: Tolerance
    check: Check
    loss_types: tuple[str, ...] = ("logistic",)

    @property
    def cases(self) -> dict[str, Callable[[Draw, Update], "Judged"]]:
        """Its checks by the names that `spin-theory verify` prints, one per penalty."""
        return {
            self.name.format(loss_type=loss_type): partial(self._check_with, loss_type)
            for loss_type in self.loss_types
        }

    @property
    def facts(self) -> dict[str, object]:
        """What `spin-theory verify --list --json` prints about it."""
        return {
            "name": self.name,
            "loss_types": self.loss_types,
            "statement": self.statement,
            "source": self.source,
            "check": self.function.__name__,
            "tolerance": float(self.tolerance),
            "reason": self.tolerance.reason,
        }

    def _check_with(self, loss_type: str, draw: Draw, update: Update) -> Judged:
        return Judged(self.check(draw, update, loss_type), self.tolerance)
