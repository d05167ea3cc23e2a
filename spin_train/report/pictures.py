"""Which figures a report shows: first by iteration, on held-out prompts, then while training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin_train.report.estimates import Estimate, nll, nll_difference, right_answers
from spin_train.report.figures import Drawing, Line, draw
from spin_train.run.policies import Policy
from spin_train.run.run import Run
from spin_train.system.files import read_json
from spin_train.system.ownership import is_demo

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "by_iteration",
    "change_of_nll",
    "demo_measurements",
    "line_of",
    "right_in_per_cent",
    "while_training",
]

_TWO = 1.96  # standard errors on either side, 95 %


def by_iteration(run: Run) -> list[Drawing]:
    """Draw the held-out numbers of every policy."""
    drawings = [
        _change_of_nll(run),
        _exact(run),
        _exact_match(run),
        _log_ratios(run),
        _meter(run),
    ]
    return [drawing for drawing in drawings if drawing is not None]


def _lines(run: Run, value: Callable[[Policy], Estimate | None]) -> list[Line]:
    """One line for self-play and one for the control, each from p_0 on, of what is known."""
    play = line_of(run, value, name="self-play", colour="play")
    control = line_of(
        run, value, name="control (more SFT)", colour="control", control=True, dashed=True
    )
    return [*([play] if play.x else []), *([control] if len(control.x) > 1 else [])]


def line_of(
    run: Run,
    value: Callable[[Policy], Estimate | None],
    *,
    name: str,
    colour: str,
    control: bool = False,
    dashed: bool = False,
) -> Line:
    """Make a line of a number of every policy from p_0 on, of self-play or of the control."""
    policies = [run.policy(0), *(p for p in run.listed if p.control == control and p.iteration)]
    known = [(p.iteration, found) for p in policies if (found := value(p)) is not None]
    return Line(
        name,
        colour,
        [iteration for iteration, _ in known],
        [found.value for _, found in known],
        [found.value if found.low is None else found.low for _, found in known],
        [found.value if found.high is None else found.high for _, found in known],
        dashed=dashed,
    )


def change_of_nll(run: Run) -> Callable[[Policy], Estimate | None]:
    """Give the function that says how far a policy of the run is from its p_0, nats per token."""
    first = run.policy(0)

    def change(policy: Policy) -> Estimate | None:
        if policy.iteration == 0:
            return None if nll(policy) is None else Estimate(0.0)
        return nll_difference(policy, first)

    return change


def _change_of_nll(run: Run) -> Drawing | None:
    lines = _lines(run, change_of_nll(run))
    if not any(len(line.x) > 1 for line in lines):
        return None
    return draw(
        1,
        "Held-out NLL, change since p_0",
        "Lower is better. Bars are 95 % intervals of the difference on the same responses.",
        lines,
        y="nats per token",
        level=0.0,
        whole=True,
    )


def demo_measurements(run: Run) -> list[dict[str, Any]]:
    """Read the exact measurements of a demo, which knows its language; empty for other runs."""
    path: Path = run.root.parent / "demo.json"
    if not (is_demo(run.root.parent) and path.is_file()):
        return []
    found: list[dict[str, Any]] = read_json(path)
    return found


def _exact(run: Run) -> Drawing | None:
    measured = {row["policy"]: row["kl"] for row in demo_measurements(run)}
    lines = _lines(run, lambda p: Estimate(measured[p.name]) if p.name in measured else None)
    if not lines:
        return None
    return draw(
        2,
        "KL(p_data || p), exact",
        "The demo's language is known, so this is the distance itself. Lower is better.",
        lines,
        y="nats",
        whole=True,
    )


def right_in_per_cent(policy: Policy) -> Estimate | None:
    """Share of right answers by greedy decoding, per cent."""
    found = right_answers(policy)
    if found is None or found.low is None or found.high is None:
        return found and Estimate(100 * found.value)
    return Estimate(100 * found.value, 100 * found.low, 100 * found.high)


def _exact_match(run: Run) -> Drawing | None:
    lines = _lines(run, right_in_per_cent)
    if not lines:
        return None
    return draw(
        3,
        "Right answers by greedy decoding",
        "Higher is better. Bars are Wilson's 95 % intervals over prompts.",
        lines,
        y="per cent",
        whole=True,
    )


def _log_ratios(run: Run) -> Drawing | None:
    policies = [p for p in run.listed if not p.control and "real_log_ratio" in (p.numbers or {})]
    lines = []
    for name, colour, key in (
        ("human", "third", "real_log_ratio"),
        ("opponent's", "play", "generated_log_ratio"),
    ):
        known = [(p.iteration, _with_error(p.numbers or {}, key)) for p in policies]
        lines.append(
            Line(
                name,
                colour,
                [iteration for iteration, _ in known],
                [found.value for _, found in known],
                [found.value if found.low is None else found.low for _, found in known],
                [found.value if found.high is None else found.high for _, found in known],
                dashed=key != "real_log_ratio",
            )
        )
    if not policies:
        return None
    return draw(
        4,
        "Change of log p per iteration",
        "Healthy: human up, the opponent's down. If both fall, the margin grows at the cost of the "
        "human responses. Bars: 95 %.",
        lines,
        y="nats per response",
        level=0.0,
        whole=True,
    )


def _with_error(numbers: dict[str, Any], key: str) -> Estimate:
    value, error = numbers[key], numbers.get(f"{key}_standard_error")
    if error is None:
        return Estimate(value)
    return Estimate(value, value - _TWO * error, value + _TWO * error)


def _meter(run: Run) -> Drawing | None:
    policies = [p for p in run.listed if not p.control and "meter" in (p.numbers or {})]
    if not policies:
        return None
    numbers = [p.numbers or {} for p in policies]
    opponents = [p.iteration - 1 for p in policies]
    return draw(
        5,
        "Distance of p_K from the data",
        "Jensen-Shannon distance of p_K from the human responses: estimate, and what is proved "
        "with 95 % confidence. A bound of 0 proves nothing.",
        [
            Line("estimate", "play", opponents, [n["meter"] for n in numbers]),
            Line(
                "at least",
                "third",
                opponents,
                [n["meter_lower_bound"] for n in numbers],
                dashed=True,
            ),
        ],
        x="opponent p_K",
        y="nats",
        level=0.0,
        whole=True,
    )


def while_training(run: Run) -> list[Drawing]:
    """Draw what was logged at each step, one iteration after the other."""
    frame = run.metrics()
    if frame.empty:
        return []
    played = frame[(frame["iteration"] >= 0) & ~frame["control"].astype(bool)]
    control = frame[frame["control"].astype(bool)]
    starts = _starts(played)
    drawings = []

    def curves(
        number: int, title: str, caption: str, series: Sequence[tuple[Any, ...]], unit: str
    ) -> None:
        lines = [
            Line(name, colour, *_series(rows, column, starts, sign), dashed=dashed, points=False)
            for name, colour, rows, column, sign, dashed in series
            if column in rows and rows[column].notna().any()
        ]
        if lines:
            names = {f"iteration {k}": start for k, start in starts.items()}
            drawings.append(draw(number, title, caption, lines, x="step", y=unit, starts=names))

    curves(
        11,
        "Loss of self-play",
        "It starts at the loss of a policy that equals its opponent, in every iteration.",
        [("self-play", "play", played, "loss", 1, False)],
        "loss",
    )
    curves(
        12,
        "Rewards",
        "beta times the log-ratio to the opponent. The gap between the lines is the margin.",
        [
            ("human", "third", played, "rewards/real", 1, False),
            ("opponent's", "play", played, "rewards/generated", 1, True),
        ],
        "beta · nats",
    )
    curves(
        13,
        "Pairs distinguished",
        "Share of training pairs with a margin above 0. At 1 within a few steps something trivial "
        "gives the samples away.",
        [("self-play", "play", played, "rewards/accuracy", 1, False)],
        "accuracy",
    )
    curves(
        14,
        "NLL of the human responses in training",
        "The control lowers it by definition. Self-play does so near its opponent.",
        [
            ("self-play", "play", played, "logps/real", -1, False),
            ("control (more SFT)", "control", control, "logps/real", -1, True),
        ],
        "nats per response",
    )
    curves(
        15,
        "Norm of the gradient",
        "Before clipping.",
        [("self-play", "play", played, "grad_norm", 1, False)],
        "norm",
    )
    return drawings + _of_sft(frame)


def _of_sft(frame: "DataFrame") -> list[Drawing]:
    rows = frame[(frame["iteration"] < 0) & frame["loss"].notna()]
    if rows.empty:
        return []
    line = Line("SFT", "control", rows["step"].tolist(), rows["loss"].tolist(), points=False)
    caption = "The supervised stage before self-play; its result is p_0."
    return [draw(16, "Loss of SFT", caption, [line], x="step", y="nats per response")]


def _starts(played: "DataFrame") -> dict[int, float]:
    """Count the steps that were taken before each iteration."""
    starts, before = {}, 0.0
    for k, rows in played.groupby("iteration"):
        starts[int(k)] = before
        before += float(rows["step"].max())
    return starts


def _series(
    rows: "DataFrame", column: str, starts: dict[int, float], sign: int
) -> tuple[list[float], list[float]]:
    """Give steps and values of a column, with a gap between iterations."""
    x: list[float] = []
    y: list[float] = []
    for k, of_iteration in rows.groupby("iteration"):
        known = of_iteration[of_iteration[column].notna()]
        x += [*(known["step"] + starts.get(int(k), 0.0)).tolist(), float("nan")]
        y += [*(sign * known[column]).tolist(), float("nan")]
    return x, y
