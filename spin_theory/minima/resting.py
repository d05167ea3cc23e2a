"""Where SPIN and SFT rest within a class of policies, and the beta from which on SPIN stays."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from spin_theory.losses.penalties import penalty_named
from spin_theory.minima.newton import require_newton
from spin_theory.minima.policy_classes import PolicyClass
from spin_theory.minima.within import Vector, as_vector, trust_newton
from spin_theory.policies import TabularPolicy, require_same_shape

__all__ = ["RestingPoint", "resting_point", "sft_minimum"]

_FLAT = 1e-10
"""Directions whose curvature is below this, relative to the largest, change no policy."""


def sft_minimum(family: PolicyClass, data: TabularPolicy) -> Tensor:
    r"""Find SFT's solution: the policy of a class with the least KL(p_data || p).

    Parameters
    ----------
    family : LogLinearClass or TokenTree
        The class; SFT's loss is convex in both.
    data : TabularPolicy, shape (X, Y)
        p_data; it need not be in the class.

    Returns
    -------
    Tensor, shape (D,)
        Its parameters, float64.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> from spin_theory.minima.token_trees import TokenTree
    >>> tree = TokenTree.sharing(["aa", "ab", "ba", "bb"], last=0)
    >>> data = TabularPolicy.from_probs([[0.5, 0.2, 0.2, 0.1]])
    >>> found = tree.policy(sft_minimum(tree, data))
    >>> tree.next_probs(found)[0, 0].item()  # `a` is 7 of 10 tokens
    0.7
    """
    origin = np.zeros(family.features.shape[-1])
    require_same_shape(data=data, family=family.policy(torch.from_numpy(origin)))
    prompts = len(data.probs)

    def value(at: Vector) -> float:
        table = family.log_probs(torch.from_numpy(at))
        return -float((data.probs * table).sum() / prompts)

    def gradient(at: Vector) -> Vector:
        steps = family.jacobian(torch.from_numpy(at))
        return -as_vector(torch.einsum("xy,xyd->d", data.probs, steps) / prompts)

    def hessian(at: Vector) -> Vector:
        return -as_vector(family.curvature(torch.from_numpy(at), data.probs) / prompts)

    return torch.from_numpy(trust_newton(value, gradient, hessian, origin))


@dataclass(frozen=True)
class RestingPoint:
    """Where SPIN and SFT rest in a class, from :func:`resting_point`.

    Attributes
    ----------
    parameters : Tensor, shape (D,)
        SFT's solution.
    policy : TabularPolicy, shape (X, Y)
        Its policy.
    least_beta : float
        Below this beta it is no minimum of the iteration in which it is the opponent, but a
        saddle: SPIN leaves it. No unit; 0 if it is a minimum at any beta.
    stable_beta : float
        Above this beta exact play from nearby returns to it, and below it does not; no unit. If
        p_data is in the class it is the table's: 1/2 for logistic, 1/4 for exponential.
    """

    parameters: Tensor
    policy: TabularPolicy
    least_beta: float
    stable_beta: float


def resting_point(
    family: PolicyClass, data: TabularPolicy, *, loss_type: str = "logistic"
) -> RestingPoint:
    r"""Find SFT's solution, and the beta from which on SPIN stays there and returns to it.

    Parameters
    ----------
    family : LogLinearClass or TokenTree
        The class.
    data : TabularPolicy, shape (X, Y)
        p_data. If it is in the class, any beta will do.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    RestingPoint
        The solution, and the two limits of beta.

    Raises
    ------
    ValueError
        If shapes differ or the penalty is not smooth.

    Notes
    -----
    Derived. With SFT's solution as the opponent, the gradient of (4.7) is 0 and the Hessian is
    :math:`\beta^2 \ell''(0) A + \beta |\ell'(0)| B`. A is the covariance of the difference of the
    log-probs' gradients in a pair, which has no negative eigenvalue. B is the sum over prefixes of
    :math:`p_{data} - p_\theta`, times the covariance of the features there. In a log-linear class
    the empty prefix is the only one, so B is 0. Near it an exact iteration multiplies the distance
    by 1 less :math:`\beta |\ell'(0)|` times the inverse of that Hessian times SFT's. No limit is
    above :math:`|\ell'(0)| / \ell''(0)`, 2 for logistic and 1 for exponential, since A + B is not
    below 0.

    Examples
    --------
    >>> from spin_theory.minima.token_trees import TokenTree
    >>> tree = TokenTree.sharing(["aaa", "aab", "aba", "abb", "baa", "bab", "bba", "bbb"], last=1)
    >>> data = TabularPolicy.random(1, 8, seed=6, smallest=0.01)
    >>> found = resting_point(tree, data)
    >>> round(found.least_beta, 2), round(found.stable_beta, 2)
    (0.48, 0.86)
    """
    require_newton(loss_type)
    parameters = sft_minimum(family, data)
    policy, steps = family.policy(parameters), family.jacobian(parameters)
    both = data.probs + policy.probs  # under the policy the gradients have mean 0
    curvature = as_vector(torch.einsum("xy,xyd,xye->de", both, steps, steps))
    turned = as_vector(family.curvature(parameters, data.probs - policy.probs))  # -B
    sft = -as_vector(family.curvature(parameters, data.probs))
    log_slope, log_curvature = penalty_named(loss_type).log_derivatives(torch.zeros(1).double())
    sizes, directions = np.linalg.eigh(curvature)
    moving = directions[:, sizes > _FLAT * sizes.max()]  # the others change no policy
    factor = float((log_slope - log_curvature).exp())
    least, stable = (
        factor * float(eigh(*(moving.T @ each @ moving for each in pair), eigvals_only=True)[-1])
        for pair in ((turned, curvature), (turned + sft / 2, curvature))
    )
    return RestingPoint(parameters, policy, max(0.0, least), stable)
