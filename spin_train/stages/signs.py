"""Signs that an iteration goes wrong, each as one line: what, why, and what to change."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from spin_train.data.records import Record, Response
from spin_train.system.files import read_lines

__all__ = ["early_accuracy", "separability", "warning_signs"]

SEPARABLE = 0.9
"""Area under the curve from which on trivial features alone tell generated from real."""
EARLY_STEPS, EARLY_ACCURACY = 20, 0.99
"""A training accuracy that is reached so early leaves the loss little to teach."""
ERRORS = 2
"""Standard errors beyond which a difference is taken for one."""
_MOST_ROWS = 2000  # that the features are fitted on
_FEWEST_ROWS = 10  # on either side
_RIDGE = 1e-2  # on the squared weights of standardised features, per row


def warning_signs(
    summary: Mapping[str, Any],
    *,
    separable: float | None = None,
    early: tuple[int, float] | None = None,
    unbalanced: bool = False,
) -> list[str]:
    """Say in one line each what goes wrong in an iteration.

    `summary` is what `summarise` gives; `separable` is what `separability` found, `early` what
    `early_accuracy` did, and `unbalanced` says that nothing balances the model's experts.
    """
    signs = []
    ratio, error = _mean(summary, "real_log_ratio")
    if ratio < -ERRORS * error:
        signs.append(
            f"human responses lost {-ratio:.2g} nats of log-prob against the opponent: the policy "
            "wins by making its own samples less likely still. Set sft_weight, raise beta, lower "
            "learning_rate, or stop before this iteration"
        )
    rise, error = _mean(summary, "loss_above_opponent")
    if rise > ERRORS * error:
        signs.append(
            f"the held-out loss is {rise:.2g} above the opponent's own: what was learnt holds for "
            "the training pairs only. Take fewer epochs, a lower learning_rate, or more rows"
        )
    if separable is not None and separable >= SEPARABLE:
        cut = 1 - summary.get("generated_stopped", 1.0)
        remedy = (
            f"{cut:.0%} of the samples are cut: raise generation.max_new_tokens"
            if cut > 0.5
            else "compare them (spin-train samples), and train SFT until samples end and vary as "
            "human responses do"
        )
        signs.append(
            "length, end and repeated tokens alone tell samples from human responses (held-out "
            f"AUC {separable:.2f}): the policy can win without learning what they say; {remedy}"
        )
    if early is not None:
        signs.append(
            f"{early[1]:.1%} of the training pairs were distinguished by step {early[0]}: the loss "
            "has little left to teach. Lower learning_rate, raise beta, or take fewer epochs"
        )
    if unbalanced:
        signs.append(
            "the model is a mixture of experts, and no auxiliary loss keeps them busy (its own "
            "coefficient is 0, or it has none): experts may fall idle. Set training.router_loss "
            "where the model has one, or keep learning_rate low and iterations few"
        )
    return signs


def _mean(summary: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Read a mean and its standard error; nan where either is missing, and nan exceeds nothing."""
    mean, error = (summary.get(f"{name}{part}") for part in ("", "_standard_error"))
    return math.nan if mean is None else mean, math.nan if error is None else error


def early_accuracy(metrics: Path) -> tuple[int, float] | None:
    """Find the first logged step, up to `EARLY_STEPS`, that distinguishes nearly all pairs."""
    if not metrics.is_file():
        return None
    for numbers in read_lines(metrics):
        accuracy = numbers.get("rewards/accuracy")
        if numbers["step"] > EARLY_STEPS or accuracy is None:
            return None
        if accuracy >= EARLY_ACCURACY:
            return int(numbers["step"]), float(accuracy)
    return None


def separability(train: Sequence[Record], held_out: Sequence[Record]) -> float | None:
    """Area under the curve on held-out rows of a logistic fit that sees trivial features only.

    The features are length, end and repetition; the fit is on training rows. None where rows are
    too few to say.
    """
    step = max(1, len(train) // _MOST_ROWS)
    sides = [_features(rows) for rows in (train[::step], held_out)]
    if any(len(part) < _FEWEST_ROWS for side in sides for part in side):
        return None
    real, generated = sides[0]
    table = np.concatenate([real, generated])
    mean, spread = table.mean(axis=0), table.std(axis=0)
    spread[spread == 0] = 1.0
    real, generated, real_held_out, generated_held_out = (
        (part - mean) / spread for side in sides for part in side
    )
    weights = _fit(real, generated)
    return _area(real_held_out @ weights, generated_held_out @ weights)


def _features(rows: Iterable[Record]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features of real and of generated responses, (N, 4) each."""
    found: dict[str, list[list[float]]] = {"real": [], "generated": []}
    for row in rows:
        for response in row.responses:
            if response.role in found:
                found[response.role].append(_features_of(response))
    real, generated = (np.array(part).reshape(-1, 4) for part in found.values())
    return real, generated


def _features_of(response: Response) -> list[float]:
    ids = np.array(response.ids)
    _, counts = np.unique(ids, return_counts=True)
    repeats = (ids[1:] == ids[:-1]).mean() if len(ids) > 1 else 0.0
    ended = response.finish_reason == "stop"
    return [math.log(len(ids)), float(ended), counts.max() / len(ids), float(repeats)]


def _fit(real: NDArray[np.float64], generated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (4,) of the logistic regression that tells the rows of two tables apart."""
    signed = np.concatenate([real, -generated])  # an intercept would change no order

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signed @ weights
        value = np.logaddexp(0, -margins).mean() + _RIDGE * weights @ weights
        gradient = -(signed.T @ expit(-margins)) / len(signed) + 2 * _RIDGE * weights
        return float(value), gradient

    found = minimize(loss, np.zeros(signed.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x)


def _area(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    """Probability that a value of the first is larger than one of the second; half for ties."""
    order = np.sort(below)
    less = np.searchsorted(order, above, side="left")
    no_more = np.searchsorted(order, above, side="right")
    return float((less + no_more).mean() / (2 * len(below)))
