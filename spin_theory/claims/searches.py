"""What the searches return besides a policy: certificates, gradients and gaps."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.claims.instances import Draw
from spin_theory.divergences import tv
from spin_theory.minima.certificates import certify
from spin_theory.minima.minimise import minimise, minimise_problem, minimiser, stationary
from spin_theory.minima.newton import newton
from spin_theory.minima.policy_classes import LogLinearClass
from spin_theory.minima.problems import InnerProblem
from spin_theory.minima.within import as_vector, minimise_within, trust_newton
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import REPEATED, ROUNDING, STATIONARY

__all__ = [
    "CLAIMS",
    "check_certificate",
    "check_minimum",
    "check_restricted_minimum",
]

Numbers = NDArray[np.float64]


def check_certificate(
    data: TabularPolicy,
    opponent: TabularPolicy,
    scores: Tensor,
    *,
    loss_type: str = "logistic",
    tolerance: float = REPEATED,
) -> Evidence:
    r"""Check what a certificate says of scores that are not the minimiser.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    scores : Tensor, shape (X, Y)
        Any scores, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-11
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual, relative to the objective: how far bound plus gap are from the objective that is
        summed over all pairs; how far the bound is above the least value, which is taken at the
        closed form; and the distance of the two there, where the bound is tight. `gap` is the gap
        of the scores.

    Raises
    ------
    ValueError
        If nothing is written out for the penalty.

    Notes
    -----
    Weak and strong duality: a bound is below every value, and at the minimiser equals it.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_certificate(data, opponent, torch.zeros(1, 5, dtype=torch.float64)).holds
    True
    """
    formula = written_out(_PENALTIES, loss_type)[0]
    log_weights = data.log_probs[:, :, None] + opponent.log_probs[:, None, :]

    def objective(at: Tensor) -> Numbers:
        margins = (at[:, :, None] - at[:, None, :]).numpy()
        values: Numbers = (np.exp(log_weights.numpy()) * formula(margins)).sum(axis=(-2, -1))
        return values

    value, proof = objective(scores), certify(log_weights, scores, loss_type=loss_type)
    exponent = 1.0 if loss_type == "logistic" else 0.5
    best = exponent * (data.log_probs - opponent.log_probs)
    least, tight = objective(best), certify(log_weights, best, loss_type=loss_type)
    errors = [
        np.abs(proof.lower_bound.numpy() + proof.gap.numpy() - value) / value,
        (proof.lower_bound.numpy() - least) / least,
        np.abs(tight.lower_bound.numpy() - least) / least,
        np.abs(tight.gap.numpy()) / least,
    ]
    residual = largest_error(float(error.max()) for error in errors)
    return Evidence(residual, tolerance, {"gap": float(proof.gap.mean())})


def check_minimum(problem: InnerProblem, *, tolerance: float = STATIONARY) -> Evidence:
    r"""Check that a minimum is one, and every number that comes with it.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's, a variant's or T-SPIN's inner problem, of a penalty that Newton's method suits.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the norm of the gradient in the policy's logits, summed over all pairs, relative
        to its terms; the same of what Newton's method says of its gradient; the error of the
        objective, of its gap to the bound and of the gradient's norm; and the distance of the
        policies that the functions of the search return.

    Raises
    ------
    ValueError
        If nothing is written out for the penalty.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=0.4)
    >>> check_minimum(problem).holds
    True
    """
    formula, slope = written_out(_PENALTIES, problem.loss_type)
    weights = problem.log_pair_weights().exp().numpy()

    def pulls(scores: Numbers) -> tuple[Numbers, Numbers]:  # gradient in the scores, and its size
        terms = weights * slope(scores[:, :, None] - scores[:, None, :])
        terms = terms * (1 - np.eye(terms.shape[-1]))
        return terms.sum(axis=-1) - terms.sum(axis=-2), np.abs(terms).sum(axis=(-2, -1))

    if problem.reference is problem.sampler and problem.history_weight == 0:  # SPIN's own
        found = minimise(
            problem.sampler, problem.data, beta=problem.beta, loss_type=problem.loss_type
        )
    else:
        found = minimise_problem(problem)
    scores = problem.scores(found.policy).numpy()
    gradient, size = pulls(scores)
    scale = float(size.max())
    margins = scores[:, :, None] - scores[:, None, :]
    value = float((weights * formula(margins)).sum(axis=(-2, -1)).mean())
    norm = problem.beta * float(np.sqrt((gradient**2).sum())) / len(scores)
    errors = [
        float(np.abs(gradient).max()) / scale,
        abs(found.objective - value) / value,
        abs(found.gap - (found.objective - found.lower_bound)) / value,
        found.gap / value,
        abs(found.gradient_norm - norm) / (problem.beta * scale),
    ]
    whole = newton(problem.log_pair_weights(), loss_type=problem.loss_type)
    near = stationary(problem, start=whole.scores)
    for stop, factor in ((near, problem.beta), (whole, 1.0)):
        gradient, size = pulls(stop.scores.numpy())
        apart = np.abs(stop.gradient.numpy() - factor * gradient).max()
        errors += [float(apart) / (factor * float(size.max())), float(stop.scores.mean().abs())]
        errors.append(float(tv(problem.policy(stop.scores), found.policy).max()))
    steps = found.steps == whole.steps and near.steps <= 2  # it starts where it ends
    alone = newton(whole.scores.new_zeros(1, 1, 1), loss_type=problem.loss_type)  # nothing to do
    steps = steps and alone.steps == 0 and whole.require_solved() is whole
    errors.append(0.0 if steps else np.inf)
    if problem.history_weight > 0:
        errors.append(float(tv(minimiser(problem), found.policy).max()))
    return Evidence(largest_error(errors), tolerance, {"objective": found.objective})


def check_restricted_minimum(
    family: LogLinearClass,
    start: Tensor,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check a minimum within a log-linear class, and the solver that found it.

    Parameters
    ----------
    family : LogLinearClass
        The class.
    start : Tensor, shape (D,)
        The opponent's parameters.
    data : TabularPolicy, shape (X, Y)
        p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the gradient in the parameters, summed over all pairs, relative to its terms;
        the error of the objective and of the norm that comes with it; and how far the solver is
        from the minimum of a quadratic form.

    Raises
    ------
    ValueError
        If shapes differ or nothing is written out for the penalty.

    Examples
    --------
    >>> family = LogLinearClass(torch.eye(4, dtype=torch.float64)[None, :, :2])
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    >>> check_restricted_minimum(family, torch.zeros(2).double(), data, beta=1.0).holds
    True
    """
    formula, slope = written_out(_PENALTIES, loss_type)
    found = minimise_within(
        family, start, data, beta=beta, loss_type=loss_type, sft_weight=sft_weight
    )
    features = family.features.numpy()
    scores = beta * np.einsum("xyd,d->xy", features, (found.parameters - start).numpy())
    margins = scores[:, :, None] - scores[:, None, :]
    weights = data.probs.numpy()[:, :, None] * family.policy(start).probs.numpy()[:, None, :]
    value = float((weights * formula(margins)).sum(axis=(-2, -1)).mean())
    pulls = beta * weights * slope(margins)
    steps = features[:, :, None, :] - features[:, None, :, :]  # (X, Y, Y, D)
    terms = pulls[..., None] * steps
    again, real = family.policy(found.parameters), data.probs.numpy()
    value += sft_weight * float((real * -again.log_probs.numpy()).sum(axis=-1).mean())
    pulled = sft_weight * (again.probs.numpy() - real)[..., None] * features  # (X, Y, D)
    gradient = (terms.sum(axis=(1, 2)) + pulled.sum(axis=1)).mean(axis=0)
    sizes = np.abs(terms).sum(axis=(1, 2)) + np.abs(pulled).sum(axis=1)
    size = float(sizes.mean(axis=0).max()) + np.finfo(float).tiny
    norm = float(np.sqrt((gradient**2).sum()))
    errors = [
        norm / size,
        abs(found.objective - value) / value,
        abs(found.gradient_norm - norm) / size,
        float(tv(found.policy, again).max()),
    ]
    moments = np.einsum("xyd,xye->de", features, features) + np.eye(features.shape[-1])
    target = features.sum(axis=(0, 1))
    solved = trust_newton(
        lambda x: float(x @ moments @ x) / 2 - float(target @ x),
        lambda x: moments @ x - target,
        lambda x: moments,
        np.zeros_like(target),
    )
    errors.append(float(np.abs(moments @ solved - target).max() / np.abs(moments).max()))
    tensor = torch.from_numpy(target)
    errors.append(float(np.abs(as_vector(tensor) - target).max()))
    return Evidence(largest_error(errors), tolerance, {"objective": found.objective})


_PENALTIES: dict[str, tuple[Callable[[Numbers], Numbers], Callable[[Numbers], Numbers]]] = {
    "logistic": (lambda t: np.logaddexp(0, -t), lambda t: -np.exp(-np.logaddexp(0, t))),
    "exponential": (lambda t: np.exp(-t), lambda t: -np.exp(-t)),
}
"""l and l' of a margin."""


def _problem(draw: Draw, loss_type: str, *, tspin: bool) -> InnerProblem:
    return InnerProblem(
        data=draw.small_data,
        sampler=draw.small_start,
        reference=None if tspin else draw.small_start,
        beta=draw.beta,
        loss_type=loss_type,
        initial=draw.small_other,
        history_weight=0.1 if tspin else 0.0,
    )


CLAIMS = (
    Claim(
        name="certificate, {loss_type}",
        statement="Lower bound plus gap are the objective, at any scores. The bound is below the "
        "least value, and equal to it at the minimiser.",
        source="derived",
        function=check_certificate,
        tolerance=REPEATED,
        check=lambda draw, _, loss_type: check_certificate(
            draw.small_data,
            draw.small_start,
            0.1 * draw.small_other.log_probs,
            loss_type=loss_type,
        ),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="minimum, SPIN {loss_type}",
        statement="What the search returns is stationary, and its objective, bound, gap and "
        "gradient are those of the sum over all pairs.",
        source="derived",
        function=check_minimum,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_minimum(_problem(draw, loss_type, tspin=False)),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="minimum, T-SPIN {loss_type}",
        statement="The same holds for T-SPIN's objective with its history term.",
        source="derived",
        function=check_minimum,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_minimum(_problem(draw, loss_type, tspin=True)),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="minimum in a log-linear class",
        statement="In a log-linear class the search ends where the gradient in the parameters is "
        "zero. In every other instance the objective has an SFT term, which pulls the means of the "
        "features towards those of the data.",
        source="derived",
        function=check_restricted_minimum,
        tolerance=STATIONARY,
        check=lambda draw, *_: check_restricted_minimum(
            LogLinearClass(draw.features),
            draw.parameters[0],
            draw.small_data,
            beta=draw.beta,
            sft_weight=draw.sft_weight if draw.instance.seed % 2 else 0.0,
        ),
    ),
)
