"""The sentences of a report: which policy is best, against which control, by how much."""

from dataclasses import dataclass

from spin_train.report.estimates import Estimate, nll, nll_difference, right_answers
from spin_train.run.policies import Policy
from spin_train.run.run import Run

__all__ = ["MINUS", "Summary", "signed", "summarise_run", "with_interval"]

MINUS = "\N{MINUS SIGN}"  # as wide as a plus


@dataclass(frozen=True)
class Summary:
    """What a reader should know who reads nothing else."""

    headline: str
    sentences: list[str]


def with_interval(found: Estimate | None, *, digits: int = 4, scale: float = 1.0) -> str:
    """Write a number, with its interval in brackets where it has one; empty where there is none.

    Examples
    --------
    >>> with_interval(Estimate(0.5, 0.25, 0.75), digits=2)
    '0.50 (0.25 to 0.75)'
    """
    if found is None:
        return ""
    text = _number(scale * found.value, digits)
    if found.low is None or found.high is None:
        return text
    return f"{text} ({_number(scale * found.low, digits)} to {_number(scale * found.high, digits)})"


def signed(found: Estimate | None, *, digits: int = 4) -> str:
    r"""Write a difference with its sign, and its interval in brackets where it has one.

    Examples
    --------
    >>> print(ascii(signed(Estimate(-0.0031, -0.0042, 0.002))))
    '\u22120.0031 (\u22120.0042 to +0.0020)'
    """
    if found is None:
        return ""
    text = _number(found.value, digits, sign="+")
    if found.low is None or found.high is None:
        return text
    low, high = (_number(end, digits, sign="+") for end in (found.low, found.high))
    return f"{text} ({low} to {high})"


def _number(value: float, digits: int, *, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}".replace("-", MINUS)


def summarise_run(run: Run) -> Summary:
    """Say what a run shows, by the held-out NLL per token: lower is better, for every policy."""
    judged = [p for p in run.listed if not p.control and nll(p) is not None]
    if not judged:
        return Summary("Nothing is evaluated yet.", [])
    first = judged[0]
    if len(judged) < 2:
        return Summary(
            f"Only {first.name} is evaluated so far.",
            [f"Its held-out NLL per token is {with_interval(nll(first))} nats."],
        )
    best = min(judged[1:], key=_value)
    headline, sentences = _against_first(best, first, len(judged) - 1)
    sentences += _against_control(run, best)
    sentences += _answers(run, best)
    done, wanted = judged[-1].iteration, run.iterations_wanted
    if done < wanted:
        sentences.append(f"The run is not finished: {done} of {wanted} iterations are evaluated.")
    return Summary(headline, sentences)


def _value(policy: Policy) -> float:
    found = nll(policy)
    return float("inf") if found is None or found.value != found.value else found.value


def _against_first(best: Policy, first: Policy, iterations: int) -> tuple[str, list[str]]:
    change = nll_difference(best, first)
    assert change is not None
    start, end = f"{_value(first):.4f}", f"{_value(best):.4f}"
    of = f", the best of {iterations} iterations," if iterations > 1 else ""
    numbers = f"{first.name} has a held-out NLL of {start} nats per token and {best.name}{of} {end}"
    numbers += f": a difference of {signed(change)}."
    if change.low is None:
        verdict = "lowered" if change.value < 0 else "did not lower"
        return (
            f"Self-play {verdict} the held-out NLL, by an amount without an interval.",
            [numbers],
        )
    if change.sign == 0:
        return (
            "Self-play changed the held-out NLL by less than these prompts can show.",
            [f"{numbers} The interval contains 0."],
        )
    if change.sign > 0:
        return "Self-play raised the held-out NLL: every policy is worse than p_0.", [numbers]
    return f"Self-play lowered the held-out NLL: {best.name} is better than p_0.", [numbers]


def _against_control(run: Run, best: Policy) -> list[str]:
    if not run.config.control:
        return [
            "There is no control, so this run cannot say whether more SFT would have done the "
            "same: control=true trains one next to every iteration."
        ]
    control = run.control(best.iteration)
    change = nll_difference(control, best)
    if change is None:
        return [f"Its control is not evaluated yet ({control.name})."]
    what = "continued SFT on the same rows in the same order, for as many steps"
    which = f"Its control ({control.name}: {what})"
    if change.low is None:
        side = "lower" if change.value < 0 else "higher"
        return [f"{which} has an NLL that is {side}: {signed(change)} nats per token."]
    if change.sign == 0:
        return [f"{which} cannot be told from it: {signed(change)} nats per token."]
    side = "better" if change.sign < 0 else "worse"
    return [f"{which} is {side}: {signed(change)} nats per token."]


def _answers(run: Run, best: Policy) -> list[str]:
    shown = [run.policy(0), best]
    if run.config.control:
        shown.append(run.control(best.iteration))
    parts = []
    for policy in shown:
        if (found := right_answers(policy)) is not None:
            parts.append(f"{policy.name} {with_interval(found, digits=1, scale=100)} %")
    return [f"Right answers by greedy decoding: {', '.join(parts)}."] if parts else []
