"""What changes where policies write token by token, and where prefixes share parameters."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import kl, tv
from spin_theory.losses import penalty_slope
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.minima.minimise import minimise
from spin_theory.minima.resting import resting_point
from spin_theory.minima.token_trees import TokenTree
from spin_theory.minima.within import minimise_within
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import REPEATED, ROUNDING, STATIONARY, SUMS

__all__ = ["CLAIMS", "check_free_tree", "check_tree_necessity", "check_tree_resting_point"]


def check_free_tree(
    tree: TokenTree,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check that with a parameter for each branch the minimum is that of the table.

    Parameters
    ----------
    tree : TokenTree
        From :meth:`TokenTree.free`.
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
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
        Residual: how far the opponent is from the product of its next-token probabilities, and
        the minimum in the tree from the table's, closed form or search, in total variation; and
        the error of the objective there.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0, or the penalty is not smooth.

    Notes
    -----
    Derived. The objective is not convex in the logits of the tree. But where its gradient is 0 in
    them it is 0 in the table's too, as a small change of any table can be written in the tree.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 3, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> check_free_tree(TokenTree.free(["aa", "ab", "b"]), opponent, data, beta=0.5).holds
    True
    """
    start = tree.next_probs(opponent).log().flatten()
    found = minimise_within(
        tree, start, data, beta=beta, loss_type=loss_type, sft_weight=sft_weight
    )
    if sft_weight > 0:
        least = minimise(opponent, data, beta=beta, loss_type=loss_type, sft_weight=sft_weight)
        expected, value = least.policy, least.objective
    else:
        expected = closed_form_update(opponent, data, beta=beta, loss_type=loss_type)
        value = float(spin_objective(expected, opponent, data, beta=beta, loss_type=loss_type))
    errors = [
        float(tv(tree.policy(start), opponent).max()),
        float(tv(found.policy, expected).max()),
        abs(found.objective - value) / value,
    ]
    return Evidence(largest_error(errors), tolerance, {"objective": found.objective})


def check_tree_necessity(
    tree: TokenTree,
    real: Tensor,
    start: Tensor,
    *,
    beta: float,
    loss_type: str = "logistic",
    last: int | None = None,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check Theorem 5.2 in a tree that contains p_data, whatever its prefixes share.

    Parameters
    ----------
    tree : TokenTree
        The class.
    real, start : Tensor, shape (D,)
        Parameters of p_data and of p_t.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    last : int, optional
        Of a tree from :meth:`TokenTree.sharing`: how many tokens it sees.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: relative error of the objective's derivative at theta_t towards p_data against
        :math:`\beta \ell'(0) [KL(p_{data} \| p_t) + \sum_n p_{data}(n) KL(p_t(.|n) \|
        p_{data}(.|n))]`, n being the prefixes. `slope` is that derivative over beta: below 0,
        unless the two policies are the same. With `last`, infinite if branches share a parameter
        of 1 otherwise than as their last tokens say.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0 or `loss_type` is unknown.

    Notes
    -----
    Derived. In a log-linear class it is the same with the empty prefix alone.

    Examples
    --------
    >>> tree = TokenTree.sharing(["aa", "ab", "ba", "bb"], last=1)
    >>> zero, one = torch.zeros(6, dtype=torch.float64), torch.arange(6, dtype=torch.float64)
    >>> check_tree_necessity(tree, one, zero, beta=0.1).holds
    True
    """
    data, opponent = tree.policy(real), tree.policy(start)
    theta = start.detach().clone().requires_grad_()
    value = spin_objective(tree.policy(theta), opponent, data, beta=beta, loss_type=loss_type)
    (gradient,) = torch.autograd.grad(value, theta)
    passing = data.probs @ tree.paths  # of each branch, (X, B)
    ours, theirs = (tree.next_probs(policy) for policy in (data, opponent))
    backwards = (passing / ours * theirs * (theirs / ours).log()).sum(dim=-1)
    slope = penalty_slope(loss_type) * float((kl(data, opponent) + backwards).mean())
    size = beta * (abs(slope) + float((tree.features @ (real - start)).abs().max()))
    size += torch.finfo(torch.float64).tiny
    residual = abs(float(gradient @ (real - start)) - beta * slope) / size
    right = slope <= 0 and (last is None or _shares(tree, last))
    return Evidence(residual if right else math.inf, tolerance, {"slope": slope})


def _shares(tree: TokenTree, last: int) -> bool:
    """Whether branches have one parameter where their last tokens are the same, and only there."""
    seen = [(prefix[::-1][:last], token) for prefix, token in tree.branches]
    rows = tree.features[0]
    same = torch.tensor([[one == other for other in seen] for one in seen]).double()
    return torch.equal(rows @ rows.T, same)


def check_tree_resting_point(
    tree: TokenTree,
    data: TabularPolicy,
    *,
    loss_type: str = "logistic",
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check that SPIN is stationary where SFT is, but leaves that point at small beta.

    Parameters
    ----------
    tree : TokenTree
        The class.
    data : TabularPolicy, shape (X, Y)
        p_data, in the class or not.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual, with gradients and Hessians by automatic differentiation at SFT's solution as
        the opponent and relative to the Hessian's terms: SPIN's gradient; its least curvature,
        which is 0 at `least_beta` and not below 0 at `stable_beta`; and how far the largest step
        of an exact iteration is from twice the distance there. Infinite if at half of `least_beta`
        the search stays, or a limit is above :math:`|\ell'(0)| / \ell''(0)`: 2 for logistic, 1
        for exponential. `least_beta` and `stable_beta` are the two limits, `misfit` is
        KL(p_data || SFT's solution) in nats, and `moved` how far the search goes from there at half
        of `least_beta`, in total variation.

    Raises
    ------
    ValueError
        If shapes differ or the penalty is not smooth.

    Examples
    --------
    >>> tree = TokenTree.sharing(["aaa", "aab", "aba", "abb", "baa", "bab", "bba", "bbb"], last=1)
    >>> data = TabularPolicy.random(1, 8, seed=6, smallest=0.01)
    >>> found = check_tree_resting_point(tree, data)
    >>> found.holds, {name: round(number, 2) for name, number in found.numbers.items()}
    (True, {'least_beta': 0.48, 'stable_beta': 0.86, 'misfit': 0.61, 'moved': 0.63})
    """
    rest = resting_point(tree, data, loss_type=loss_type)
    numbers = {
        "least_beta": rest.least_beta,
        "stable_beta": rest.stable_beta,
        "misfit": float(kl(data, rest.policy).mean()),
        "moved": 0.0,
    }

    def objective(beta: float) -> Callable[[Tensor], Tensor]:
        return lambda theta: spin_objective(
            tree.policy(theta), rest.policy, data, beta=beta, loss_type=loss_type
        )

    def sft(theta: Tensor) -> Tensor:
        return -(data.probs * tree.log_probs(theta)).sum(dim=-1).mean()

    whole = _hessian(sft, rest.parameters)
    moving = _directions(whole)
    scale = moving.T @ whole @ moving
    errors = []
    for beta in (rest.least_beta, rest.stable_beta):
        if beta == 0:  # a minimum at any beta
            continue
        curved = moving.T @ _hessian(objective(beta), rest.parameters) @ moving
        size = float(beta * scale.norm())
        least = float(torch.linalg.eigvalsh(curved)[0])
        errors.append((abs(least) if beta == rest.least_beta else max(0.0, -least)) / size)
        gradient: Tensor = jacobian(objective(beta), rest.parameters)  # type: ignore[no-untyped-call]
        errors.append(float(gradient.norm()) / size)
        if beta == rest.stable_beta:
            pull = -beta * penalty_slope(loss_type)
            steps = torch.linalg.eigvals(torch.linalg.solve(curved, pull * scale)).real
            errors.append(abs(float(steps.max()) - 2))
    largest = {"logistic": 2.0, "exponential": 1.0}[loss_type]
    if not rest.least_beta < rest.stable_beta <= largest * (1 + tolerance):
        errors.append(math.inf)
    if rest.least_beta > 1e-3:
        half = rest.least_beta / 2
        found = minimise_within(tree, rest.parameters, data, beta=half, loss_type=loss_type)
        numbers["moved"] = float(tv(found.policy, rest.policy).max())
        if not found.objective < float(objective(half)(rest.parameters)):
            errors.append(math.inf)
    return Evidence(largest_error(errors), tolerance, numbers)


def _hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    found: Tensor = hessian(function, at)  # type: ignore[no-untyped-call]
    return found


def _directions(curvature: Tensor) -> Tensor:
    """Directions that change the policy, (D, d)."""
    sizes, directions = torch.linalg.eigh(curvature)
    moving: Tensor = directions[:, sizes > 1e-10 * sizes.max()]
    return moving


CLAIMS = (
    Claim(
        name="free token tree",
        statement="With a parameter for each branch of a token tree the minimum is the table's, "
        "though the objective is not convex in them. In every other instance it has an SFT term.",
        source="derived",
        function=check_free_tree,
        tolerance=REPEATED,
        check=lambda draw, *_: check_free_tree(
            TokenTree.free(draw.words),
            draw.small_start,
            draw.small_data,
            beta=draw.beta,
            sft_weight=draw.sft_weight if draw.instance.seed % 2 else 0.0,
        ),
    ),
    Claim(
        name="5.2 token tree",
        statement="In a token tree that contains `p_data` the opponent is not stationary, at any "
        "beta, unless it is the data, whatever its prefixes share.",
        source="derived",
        function=check_tree_necessity,
        tolerance=SUMS,
        check=lambda draw, *_: check_tree_necessity(
            tree := TokenTree.sharing(draw.words, last=1),
            *draw.normal(2, tree.features.shape[-1]),
            beta=draw.beta,
            last=1,
        ),
    ),
    Claim(
        name="resting point in a token tree",
        statement="Where prefixes share parameters and the class does not contain `p_data`, SPIN "
        "is stationary at SFT's solution, but below a known beta that is a saddle.",
        source="derived",
        function=check_tree_resting_point,
        tolerance=STATIONARY,
        check=lambda draw, *_: check_tree_resting_point(
            TokenTree.sharing(draw.words, last=1), draw.small_data
        ),
    ),
)
