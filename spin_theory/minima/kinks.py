"""Searches for penalties with kinks, which Newton's method cannot minimise."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from spin_theory.losses import Penalty
from spin_theory.minima.hinge import (
    chain_potentials,
    hinge_bound,
    hinge_minimum,
    hinge_programme,
)
from spin_theory.policies import TabularPolicy

__all__ = ["KinkSearch", "search_for"]


@dataclass(frozen=True)
class KinkSearch:
    """How a penalty with kinks is minimised, as Newton's method cannot do it.

    Attributes
    ----------
    chain : callable
        From p_data and the sampler to least values (X,) and scores (X, Y), without history.
    bound : callable
        From the same to proven bounds (X,).
    programme : callable
        From any log-weights (X, Y, Y) to scores (X, Y) and flows (X, Y, Y) for :func:`certify`.
    """

    chain: Callable[[TabularPolicy, TabularPolicy], tuple[Tensor, Tensor]]
    bound: Callable[[TabularPolicy, TabularPolicy], Tensor]
    programme: Callable[[Tensor], tuple[Tensor, Tensor]]


def _chain_bound(data: TabularPolicy, opponent: TabularPolicy) -> Tensor:
    return hinge_bound(data, opponent, chain_potentials(data, opponent))


_SEARCHES = {"hinge": KinkSearch(hinge_minimum, _chain_bound, hinge_programme)}
"""By penalty."""


def search_for(penalty: Penalty) -> KinkSearch:
    """Find how a penalty with kinks is minimised.

    Parameters
    ----------
    penalty : Penalty
        With kinks.

    Returns
    -------
    KinkSearch
        Its search.

    Raises
    ------
    ValueError
        If there is none.
    """
    if penalty.name not in _SEARCHES:
        raise ValueError(f"loss_type {penalty.name} has kinks, and there is no search for it")
    return _SEARCHES[penalty.name]
