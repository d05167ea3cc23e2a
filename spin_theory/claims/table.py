"""All claims by name."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from spin_theory.claims.classes import check_log_linear_necessity, check_quantised_necessity
from spin_theory.claims.distance import check_degeneracy, check_distance_bounds
from spin_theory.claims.evidence import Evidence
from spin_theory.claims.existence import check_update_normaliser
from spin_theory.claims.first_step import check_first_step_is_sft
from spin_theory.claims.games import (
    check_averaged_play,
    check_geometric_mixture,
    check_iterates,
    check_mixing,
)
from spin_theory.claims.instances import Draw
from spin_theory.claims.iteration import (
    check_likelihood_rises,
    check_opponent_update,
    check_start_value,
)
from spin_theory.claims.objective import (
    check_convexity,
    check_hinge_duality,
    check_optimal_value,
    check_unbounded,
)
from spin_theory.claims.resting_point import check_fixed_point_is_sft
from spin_theory.claims.theorem_5_2 import Theorem52Evidence, check_theorem_5_2
from spin_theory.claims.theorem_5_4 import Theorem54Evidence, check_theorem_5_4
from spin_theory.claims.tspin import check_tspin_gradient, check_tspin_opponent
from spin_theory.claims.tspin_game import check_tspin_fixed_point, check_tspin_update
from spin_theory.claims.witnesses import check_witness_interval
from spin_theory.losses import PENALTIES
from spin_theory.minima.closed_forms import Update
from spin_theory.minima.log_linear import LogLinearClass
from spin_theory.minima.problems import InnerProblem

__all__ = ["Check", "all_claims"]

LEAST_LINEAR_BETA = 0.3  # below, a game near the data soon is near no more

Check = Callable[[Draw, Update], Evidence | Theorem52Evidence | Theorem54Evidence]
"""One claim on one instance, given what is claimed to be SPIN's minimiser."""


@cache
def all_claims() -> dict[str, Check]:
    """List the claims that `spin-theory verify` checks.

    Returns
    -------
    dict of str to Check
        From the claim's name to its check on one instance.

    Examples
    --------
    >>> claims = all_claims()
    >>> claims["SPIN (4.4) opponent's update"](random_instance(0), None).holds
    True
    """
    return _of_theorems() | _of_one_iteration() | _of_the_objective() | _of_games() | _of_tspin()


def _of_theorems() -> dict[str, Check]:
    def sufficiency(loss_type: str) -> Check:
        return lambda draw, _: check_theorem_5_2(
            draw.data, draw.data, loss_type=loss_type, betas=(draw.instance.beta,)
        )

    def necessity(loss_type: str) -> Check:
        return lambda draw, _: check_theorem_5_2(draw.data, draw.opponent, loss_type=loss_type)

    def interval(loss_type: str) -> Check:
        return lambda draw, _: check_witness_interval(
            draw.small_data, draw.small_start, loss_type=loss_type
        )

    def closed_form(loss_type: str) -> Check:
        return lambda draw, update: check_theorem_5_4(
            draw.data, draw.opponent, beta=draw.instance.beta, loss_type=loss_type, update=update
        )

    return (
        {f"5.2 sufficiency, {loss_type}": sufficiency(loss_type) for loss_type in PENALTIES}
        | {f"5.2 necessity, {loss_type}": necessity(loss_type) for loss_type in PENALTIES}
        | {f"5.2 witness interval, {loss_type}": interval(loss_type) for loss_type in PENALTIES}
        | {
            "5.2 log-linear class": lambda draw, _: check_log_linear_necessity(
                LogLinearClass(draw.features), *draw.parameters
            ),
            "5.2 quantised class": lambda draw, _: check_quantised_necessity(
                LogLinearClass(draw.features[..., :1]), spacing=1.0, reach=1
            ),
            "5.4 closed form, logistic": closed_form("logistic"),
            "closed form, exponential": closed_form("exponential"),
        }
    )


def _of_one_iteration() -> dict[str, Check]:
    def first_step(loss_type: str) -> Check:
        return lambda draw, _: check_first_step_is_sft(
            _network(draw),
            draw.parameters.flatten(),
            draw.small_data,
            beta=draw.instance.beta,
            loss_type=loss_type,
        )

    return {
        "SPIN (4.4) opponent's update": lambda draw, _: check_opponent_update(
            draw.opponent, draw.other.log_probs, draw.data, beta=draw.instance.beta
        ),
        "start value l(0)": lambda draw, _: check_start_value(
            draw.data, draw.opponent, beta=draw.instance.beta, history_weight=0.1
        ),
        "likelihood rises, beta >= 1": lambda draw, _: check_likelihood_rises(
            draw.data, draw.opponent, beta=max(1.0, draw.instance.beta)
        ),
        "normaliser is a Renyi divergence": lambda draw, _: check_update_normaliser(
            draw.data, draw.opponent, beta=draw.instance.beta
        ),
    } | {f"first step is SFT, {loss_type}": first_step(loss_type) for loss_type in PENALTIES}


def _of_the_objective() -> dict[str, Check]:
    def convex(loss_type: str, *, tspin: bool) -> Check:
        return lambda draw, _: check_convexity(
            InnerProblem(
                data=draw.small_data,
                sampler=draw.small_start,
                reference=None if tspin else draw.small_start,
                beta=draw.instance.beta,
                loss_type=loss_type,
                initial=draw.small_other,
                history_weight=0.1 if tspin else 0.0,
            ),
            draw.small_start,
            draw.small_other,
        )

    def optimal(loss_type: str) -> Check:
        return lambda draw, _: check_optimal_value(
            draw.small_data,
            draw.small_start,
            draw.small_other,
            beta=draw.instance.beta,
            loss_type=loss_type,
        )

    def degenerate(loss_type: str) -> Check:
        return lambda draw, _: check_degeneracy(
            draw.small_data, draw.small_other, beta=draw.instance.beta, loss_type=loss_type
        )

    return (
        {f"convexity, SPIN {loss_type}": convex(loss_type, tspin=False) for loss_type in PENALTIES}
        | {
            f"convexity, T-SPIN {loss_type}": convex(loss_type, tspin=True)
            for loss_type in PENALTIES
        }
        | {
            f"least value, {loss_type}": optimal(loss_type)
            for loss_type in PENALTIES
            if loss_type != "correlation"
        }
        | {
            "least value, hinge by HiGHS": lambda draw, _: check_hinge_duality(
                draw.small_data, draw.small_start
            ),
            "unbounded, correlation": lambda draw, _: check_unbounded(
                draw.small_data, draw.small_start, beta=draw.instance.beta
            ),
            "convergence meter": lambda draw, _: check_distance_bounds(
                draw.small_data, draw.small_start, _margins(draw.small_other.log_probs)
            ),
            "convergence meter, tight": lambda draw, _: check_distance_bounds(
                draw.small_data,
                draw.small_start,
                _margins(draw.small_data.log_probs - draw.small_start.log_probs),
            ),
        }
        | {f"at p_t = p_data, {loss_type}": degenerate(loss_type) for loss_type in PENALTIES}
    )


def _of_games() -> dict[str, Check]:
    def iterates(loss_type: str) -> Check:
        return lambda draw, _: check_iterates(
            draw.opponent,
            draw.data,
            betas=[draw.instance.beta, 2 * draw.instance.beta, 5.0],
            loss_type=loss_type,
        )

    return {
        "iterates, logistic": iterates("logistic"),
        "iterates, exponential": iterates("exponential"),
        "mixed samples near the data": lambda draw, _: check_mixing(
            draw.small_data, beta=max(LEAST_LINEAR_BETA, draw.instance.beta)
        ),
        "geometric mixture": lambda draw, _: check_geometric_mixture(
            draw.opponent, draw.data, beta=draw.instance.beta, base_weight=0.3
        ),
        "fictitious play near the data": lambda draw, _: check_averaged_play(
            draw.small_data, beta=max(LEAST_LINEAR_BETA, draw.instance.beta)
        ),
        "SPIN rests where SFT does": lambda draw, _: check_fixed_point_is_sft(
            LogLinearClass(draw.features), draw.small_data, beta=draw.instance.beta
        ),
    }


def _of_tspin() -> dict[str, Check]:
    def gradient(loss_type: str) -> Check:
        return lambda draw, _: check_tspin_gradient(
            _network(draw),
            draw.parameters.flatten(),
            draw.small_start,
            draw.small_other,
            draw.small_data,
            beta=draw.instance.beta,
            history_weight=0.1,
            loss_type=loss_type,
        )

    def update(loss_type: str) -> Check:
        return lambda draw, _: check_tspin_update(
            draw.small_start, draw.small_data, beta=draw.instance.beta, loss_type=loss_type
        )

    def fixed(history_weight: float) -> Check:
        return lambda draw, _: check_tspin_fixed_point(
            draw.small_start,
            draw.small_data,
            beta=draw.instance.beta,
            history_weight=history_weight,
        )

    return (
        {
            "T-SPIN Proposition 1": lambda draw, _: check_tspin_opponent(
                draw.data.log_probs, draw.other, beta=draw.instance.beta
            ),
        }
        | {f"T-SPIN Theorem 1, {loss_type}": gradient(loss_type) for loss_type in PENALTIES}
        | {
            "T-SPIN update, logistic": update("logistic"),
            "T-SPIN update, exponential": update("exponential"),
            "T-SPIN fixed point, no history": fixed(0.0),
            "T-SPIN fixed point, history 0.1": fixed(0.1),
        }
    )


def _margins(scores: Tensor) -> Tensor:
    return scores[:, :, None] - scores[:, None, :]


def _network(draw: Draw) -> Callable[[Tensor], Tensor]:
    """Make a policy class that is not convex: a small network of four parameters."""

    def log_probs(parameters: Tensor) -> Tensor:
        hidden = torch.tanh(draw.features @ parameters[:2])
        return torch.log_softmax(parameters[2] * hidden + parameters[3] * hidden.square(), dim=-1)

    return log_probs
