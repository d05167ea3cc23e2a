"""The bridge: networks that the real trainer has trained, held against the exact theory.

Each finding is a number that theory predicts, the number that was measured, and how far apart they
may be. The tables of networks are exact, so nothing is estimated but where pairs are sampled.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spin_theory.games.samples import predicted_tv
from spin_theory.policies import TabularPolicy
from spin_train.driver.watching import Watcher
from spin_train.lab.findings import Curve, End, Finding
from spin_train.lab.games import iterations, with_history
from spin_train.lab.laboratory import SOLVED, Laboratory, open_laboratory
from spin_train.lab.network import (
    at_the_data,
    at_the_learnt,
    few_steps,
    first_step,
    later_gradients,
)
from spin_train.lab.pairs import sampled_pairs
from spin_train.lab.problems import TOLERANCE, Problem, distance, problems
from spin_train.run.run import Run
from spin_train.system.files import read_lines, write_json

__all__ = ["Bridge", "build_bridge", "judge", "slope_of"]

SLOPE = 0.1
"""How far the log-log slope may be from -1/2. One draw of 4 prompts has a TV that spreads by about
a tenth, which moves a slope over three decades by 0.03."""
SIZES = (300, 3_000, 30_000, 300_000)
MORE_SIZES = (300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)


@dataclass(frozen=True)
class Bridge:
    """All that was found."""

    ends: tuple[End, ...]
    findings: tuple[Finding, ...]
    curves: tuple[Curve, ...]

    @property
    def holds(self) -> bool:
        """Whether everything is as predicted."""
        return all(end.holds for end in self.ends) and all(row.holds for row in self.findings)

    def write(self, path: Path) -> None:
        """Save the numbers as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Bridge":
        """Read what `write` saved."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            tuple(End(**row) for row in content["ends"]),
            tuple(Finding(**row) for row in content["findings"]),
            tuple(Curve(**row) for row in content["curves"]),
        )


def build_bridge(out: Path, *, everything: bool = False, watch: Watcher | None = None) -> Bridge:
    """Train, measure and compare; what is in the folder already is not trained again.

    `everything` adds whole games, more sizes of samples and more steps to the core rows.
    """
    lab = open_laboratory(out, watch=watch)
    ends, curves = [], []
    for problem in problems(**SOLVED):
        end, curve = solved(lab, problem)
        ends.append(end)
        curves.append(curve)
    sampled, points = samples(lab, MORE_SIZES if everything else SIZES)
    learnt = lab.player(out / "SPIN-beta_1" / "iter0" / "policy")
    findings = [sampled, at_the_data(lab), at_the_learnt(lab, learnt), *first_step(lab)]
    inexact, modes = few_steps(lab, everything=everything)
    findings += inexact
    curves += [*points, *modes]
    if everything:
        more, cosines = later_gradients(lab)
        findings += [*more, *iterations(lab), *with_history(lab)]
        curves.append(cosines)
    bridge = Bridge(tuple(ends), tuple(findings), tuple(curves))
    bridge.write(out / "bridge.json")
    return bridge


def solved(lab: Laboratory, problem: Problem) -> tuple[End, Curve]:
    """Train one inner problem to its end on all pairs, and hold it against its closed form."""
    run, learnt = lab.train(problem.name, problem, lab.base)
    end = judge(problem, learnt.policy, lab.base.policy, lab.data.policy)
    outside = float(learnt.table.outside.max())
    bound = problem.bound(lab.base.policy, lab.data.policy)
    steps, losses = logged(run)
    curve = Curve(problem.name, "gap", steps, [loss - bound for loss in losses])
    return End(**{**vars(end), "steps": steps[-1], "outside": outside}), curve


def judge(
    problem: Problem, found: TabularPolicy, opponent: TabularPolicy, data: TabularPolicy
) -> End:
    """Compare a table with the closed form of a problem, and with wrong ones.

    It holds if the table is within `TOLERANCE` of the right one, and further than that from every
    wrong one: a bridge that takes any policy would prove nothing.
    """
    tv = distance(found, problem.solution(opponent, data))
    wrong = {
        name: distance(found, form(opponent, data)) for name, form in problem.wrong_forms().items()
    }
    nearest = min(wrong, key=wrong.__getitem__)
    bound = problem.bound(opponent, data)
    return End(
        problem=problem.name,
        tv=tv,
        gap=float(problem.objective(found, opponent, data)) - bound,
        bound=bound,
        nearest=nearest,
        nearest_tv=wrong[nearest],
        holds=tv <= TOLERANCE < wrong[nearest],
    )


def logged(run: Run) -> tuple[list[int], list[float]]:
    """Read steps and losses of a run's training, from its metrics."""
    lines = read_lines(run.directory.iteration(0) / "metrics.jsonl")
    rows = [row for row in lines if "loss" in row]
    return [row["step"] for row in rows], [row["loss"] for row in rows]


def samples(lab: Laboratory, sizes: Sequence[int]) -> tuple[Finding, list[Curve]]:
    """Train on n sampled pairs per prompt: the distance from the closed form falls as n^-1/2."""
    problem = Problem("SPIN, beta 1", training=SOLVED)
    opponent, data = lab.base.policy, lab.data.policy
    target = problem.solution(opponent, data)
    found, predicted = [], []
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        weights = sampled_pairs(data, opponent, pairs=size, generator=generator)
        _, learnt = lab.train(f"{size} sampled pairs", problem, lab.base, weights=weights)
        found.append(_mean_tv(learnt.policy, target))
        by_prompt = [
            float(predicted_tv(*_of_prompt(x, opponent, data), beta=problem.beta))
            for x in range(lab.space.prompts)
        ]
        predicted.append(sum(by_prompt) / len(by_prompt) / math.sqrt(size))
    slope = slope_of(sizes, found)
    finding = Finding(
        claim=f"slope of TV against {sizes[0]} to {sizes[-1]} sampled pairs per prompt",
        predicted=-0.5,
        measured=slope,
        tolerance=SLOPE,
        wrong="one over n",
        wrong_apart=abs(slope + 1),
    )
    return finding, [
        Curve("trained on sampled pairs", "samples", list(sizes), found),
        Curve("delta method", "samples", list(sizes), predicted),
    ]


def slope_of(sizes: Sequence[int], distances: Sequence[float]) -> float:
    """Slope of the least-squares line in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(distances), 1)[0])


def _mean_tv(one: TabularPolicy, other: TabularPolicy) -> float:
    return float((one.probs - other.probs).abs().sum(-1).mean()) / 2


def _of_prompt(x: int, *tables: TabularPolicy) -> list[TabularPolicy]:
    return [TabularPolicy(table.log_probs[x : x + 1]) for table in tables]
