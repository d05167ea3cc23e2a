"""Finite data: an infimum that no policy reaches, and one step of the game on rows written out."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.games.finite import FiniteGame, Track, play_rows
from spin_theory.minima.infimum import Infimum, infimum
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING, SUMS

__all__ = ["CLAIMS", "check_finite_game", "check_infimum"]

FAR = 1e4
"""Along a direction of escape, no unit: pairs of margins that grow are then worth nothing."""


def check_infimum(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    rows: int,
    seed: int,
    claimed: Callable[[Tensor], Infimum] = infimum,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the infimum for frequencies of rows, many of which may be zero.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (1, Y)
        p_data, from which the rows are drawn, and p_t.
    rows : int
        How many, at least 1.
    seed : int
        Of the draw.
    claimed : callable, default infimum
        From weights (Y, Y) to the claimed infimum.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the value and its lower bound against :math:`\log 2 - JS(P, Q)` with
        :math:`0 \log 0 = 0`, the objective far along the direction against the value, and 1 if
        the claim that finite scores reach it is wrong. `unseen` is how many responses no row has.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 6, seed=seed) for seed in (0, 1))
    >>> check_infimum(data, opponent, rows=20, seed=0).holds
    True
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(data.probs[0], rows, replacement=True, generator=generator).tolist()
    responses = data.log_probs.shape[1]
    shares = [drawn.count(y) / rows for y in range(responses)]
    others = opponent.probs[0].tolist()
    least = math.fsum(
        shares[i] * others[j] * math.log1p(shares[j] * others[i] / (shares[i] * others[j]))
        for i in range(responses)
        for j in range(responses)
        if shares[i] * others[j] > 0
    )
    found = claimed(torch.tensor(shares, dtype=torch.float64)[:, None] * opponent.probs[0])
    far = (found.scores + FAR * found.direction).tolist()
    value = math.fsum(
        shares[i] * others[j] * (math.log1p(math.exp(-abs(gap))) + max(0.0, -gap))
        for i in range(responses)
        for j in range(responses)
        for gap in [far[i] - far[j]]
    )
    unseen = shares.count(0.0)
    errors = [abs(number - least) for number in (found.value, found.lower_bound, value)]
    errors.append(float(found.attained != (unseen == 0)))
    return Evidence(largest_error(errors), tolerance, {"unseen": unseen})


def check_finite_game(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    seed: int,
    sft_weight: float = 0.0,
    game: Callable[..., FiniteGame] = play_rows,
    tolerance: float = ROUNDING,
) -> Evidence:
    """Check one step of the game on rows, and of its control, against sums over the rows.

    Parameters
    ----------
    start, data : TabularPolicy, shape (1, Y)
        p_0 and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit.
    seed : int
        Of the rows.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    game : callable, default play_rows
        What plays it.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest difference of rows, frequencies, log-probs and divergences,
        relative to 1 plus their size.

    Notes
    -----
    Rows and samples are drawn once more by inversion. A step of gradient descent at the opponent
    adds `beta / (2 N)` to the logit of each row's real response and takes it from that of its
    generated one; SFT's takes the policy's probabilities instead, and an SFT term of weight w adds
    w times SFT's.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> check_finite_game(start, data, beta=0.5, seed=3).holds
    True
    """
    rows = 40
    played = game(
        start,
        data,
        rows=rows,
        beta=beta,
        iterations=1,
        epochs=1,
        batch_size=rows,
        seed=seed,
        sft_weight=sft_weight,
    )
    real, generated = (
        _drawn(policy, rows, (4 * seed + kind) % 2**63) for policy, kind in ((data, 0), (start, 2))
    )
    first, truth = (policy.probs[0].tolist() for policy in (start, data))
    shares, samples = (
        [drawn.count(y) / rows for y in range(len(truth))] for drawn in (real, generated)
    )
    pushes = {"spin": samples, "control": first}
    errors = [float(played.rows[0].tolist() != real)]
    for name, track in (("spin", played.spin), ("control", played.control)):
        logits = [
            math.log(p) + beta / 2 * (up - down) + sft_weight * (up - p)
            for p, up, down in zip(first, shares, pushes[name], strict=True)
        ]
        total = math.fsum(math.exp(logit) for logit in logits)
        stepped = [math.exp(logit) / total for logit in logits]
        errors += _errors(track, (first, stepped), truth, shares)
    return Evidence(largest_error(errors), tolerance)


def _drawn(policy: TabularPolicy, rows: int, seed: int) -> list[int]:
    """Responses of one prompt, by inversion of its distribution."""
    uniform = torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    steps = policy.probs[0].cumsum(0)[:-1].tolist()
    return [sum(height >= step for step in steps) for height in uniform.tolist()]


def _errors(
    track: Track, expected: tuple[list[float], list[float]], truth: list[float], shares: list[float]
) -> list[float]:
    """Differences of a track's numbers from those expected, relative to 1 plus their size."""
    pairs = list(zip(track.frequencies[0].tolist(), shares, strict=True))
    pairs += list(zip(track.data.probs[0].tolist(), truth, strict=True))
    for step, probs in enumerate(expected):
        pairs += list(zip(track.policies[step].probs[0].tolist(), probs, strict=True))
        to_data = math.fsum(q * math.log(q / p) for q, p in zip(truth, probs, strict=True))
        to_rows = math.fsum(
            share * math.log(share / p) for share, p in zip(shares, probs, strict=True) if share > 0
        )
        distance = math.fsum(abs(q - p) for q, p in zip(truth, probs, strict=True)) / 2
        pairs += [
            (float(track.kl[step]), to_data),
            (float(track.train_kl[step]), to_rows),
            (float(track.tv[step]), distance),
        ]
    return [abs(found - right) / (1 + abs(right)) for found, right in pairs]


CLAIMS = (
    Claim(
        name="infimum on finite data",
        statement="Where some response is in no row, SPIN's logistic objective has no minimum in a "
        "table. Its infimum is `log 2 - JS(P, Q)` with `0 log 0 = 0`, approached by pushing the "
        "scores of those responses down without end.",
        source="derived",
        function=check_infimum,
        tolerance=ROUNDING,
        check=lambda draw, *_: check_infimum(
            draw.small_data, draw.small_start, rows=20, seed=draw.instance.seed
        ),
    ),
    Claim(
        name="game on rows",
        statement="A step on rows that were drawn once moves each real response up and each "
        "generated one down by `beta / (2 N)`; its control moves the policy's own probabilities "
        "down instead, and so does an SFT term.",
        source="derived",
        function=check_finite_game,
        tolerance=SUMS,
        check=lambda draw, *_: check_finite_game(
            draw.small_start,
            draw.small_data,
            beta=draw.beta,
            seed=draw.instance.seed,
            sft_weight=draw.instance.seed % 3 / 4,
        ),
    ),
)
