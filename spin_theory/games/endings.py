"""How a game ends, in words: what theory proves of it, or only what its iterates show."""

from dataclasses import dataclass
from itertools import pairwise

from spin_theory.divergences import tv
from spin_theory.games.iterates import cycle_length
from spin_theory.games.play import Game
from spin_theory.losses import require_weight
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import EQUAL_TV

__all__ = ["ExactLaw", "describe_end", "rest_with_history"]


@dataclass(frozen=True)
class ExactLaw:
    """What an exactly solved game does to its deviations, iteration by iteration.

    Attributes
    ----------
    multiplier : float
        Factor on the log-ratio of the policy to `limit` in each iteration, no unit.
    limit : str
        The policy that the game leaves unchanged, for the sentence.
    shortfall : float or None, default None
        1 minus the multiplier, where the multiplier rounds to 1.
    """

    multiplier: float
    limit: str = "the data"
    shortfall: float | None = None

    def __str__(self) -> str:
        """Return what happens in each iteration, and where that leads."""
        m = self.multiplier
        if m == 0:
            return f"reaches {self.limit} in one iteration (multiplier 0)"
        near = self.shortfall is not None and m > 0.999
        factor = f"1 - {self.shortfall:.4g}" if near else f"{m:.4g}"
        law = f"each iteration multiplies the log-ratio to {self.limit} by {factor}"
        if m == -1:
            return f"is a cycle of 2: {law}"
        if abs(m) > 1:
            return (
                f"diverges from the first iteration on: {law}, so that the policy comes to "
                "alternate between two point masses"
            )
        return f"approaches {self.limit}: {law}"


def describe_end(game: Game, law: ExactLaw | None = None) -> str:
    """Say how a game ends: the law that is proved for it, or what the iterates show.

    Parameters
    ----------
    game : Game
        What was played.
    law : ExactLaw, optional
        What is proved, if every iteration was solved exactly and the game has such a law.

    Returns
    -------
    str
        A sentence or two, without a full stop.

    Examples
    --------
    >>> from spin_theory import TabularPolicy, play
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> game = play(start, data, beta=0.5, iterations=2)
    >>> print(describe_end(game, ExactLaw(-1.0)))
    the game is a cycle of 2: each iteration multiplies the log-ratio to the data by -1
    """
    if game.data.log_probs.shape[-1] == 1:
        return "the only response has probability 1: nothing can move"
    if _moved(game) <= EQUAL_TV and float(game.tv[0]) <= EQUAL_TV:
        return "the game starts at the data, and no iterate moved but for rounding"
    parts = [f"the game {law}" if law is not None else _what_it_shows(game)]
    if game.stopped is not None:
        parts.append(f"it stopped: {game.stopped}")
    return "; ".join(parts)


def rest_with_history(
    start: TabularPolicy, data: TabularPolicy, *, history_weight: float
) -> TabularPolicy | None:
    r"""Where SPIN rests if it is given T-SPIN's history term: not at the data.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    history_weight : float
        Weight w of the history term, >= 0, no unit.

    Returns
    -------
    TabularPolicy or None
        :math:`(p_{data} - w p_0) / (1 - w)`; None where that is no distribution for some prompt.
        Then nothing is at rest, and the game moves away from p_0 for ever.

    Raises
    ------
    ValueError
        If shapes differ or `history_weight` is not finite and >= 0.

    Notes
    -----
    Derived. The term favours responses of p_t over those of p_0, with log-ratios to p_t. Where
    p_t is at rest all log-ratios are 0, so that every penalty has the same slope, and
    :math:`(p_{data} - p_t) + w (p_t - p_0) = 0`. In T-SPIN itself, which has no reference, the
    log-probs are not 0 there.

    Examples
    --------
    >>> start, data = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.5, 0.7))
    >>> rest_with_history(start, data, history_weight=0.2).probs  # (0.7 - 0.1) / 0.8
    tensor([[0.7500, 0.2500]], dtype=torch.float64)
    >>> rest_with_history(start, data, history_weight=1.0) is None
    True
    """
    require_same_shape(start=start, data=data)
    weight = require_weight("history_weight", history_weight)
    if weight >= 1:
        return data if bool((tv(start, data) <= EQUAL_TV).all()) else None
    rest = (data.probs - weight * start.probs) / (1 - weight)
    return TabularPolicy.from_logits(rest.log()) if bool((rest > 0).all()) else None


def _what_it_shows(game: Game) -> str:
    """Facts about the iterates of a game whose end is not known in closed form."""
    if _moved(game) <= EQUAL_TV:
        return "no iterate moved but for rounding"
    distance = game.tv.tolist()
    period = cycle_length(game.policies)
    if period is not None:
        agree = "agree" if period == 1 else f"repeat every {period}"
        return f"the last iterates {agree}, at TV {distance[-1]:.3g} from the data"
    last = len(distance) - 1
    since = _grows_since(game.kl.tolist())
    if last - since >= 2:
        return f"KL from the data has grown since iteration {since}, and no end is in sight"
    since = _grows_since([-value for value in distance])
    if last - since >= 2:
        return f"TV from the data has fallen since iteration {since}; no end is in sight"
    return f"no end is in sight; the last TV from the data is {distance[-1]:.3g}"


def _moved(game: Game) -> float:
    """Furthest that an iterate is from the next one, in total variation."""
    return max((float(tv(*pair).max()) for pair in pairwise(game.policies)), default=0.0)


def _grows_since(values: list[float]) -> int:
    """First of the places from which each value is larger than the one before."""
    since = len(values) - 1
    while since > 0 and values[since] > values[since - 1]:
        since -= 1
    return since
