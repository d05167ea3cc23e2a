"""Whole games of networks: SPIN's multiplier, T-SPIN's, and where T-SPIN rests."""

from typing import Any

from spin_theory.games.fixed_points import fixed_point as exact_fixed_point
from spin_theory.games.iterates import observed_multipliers
from spin_theory.games.opponents import without_reference
from spin_theory.games.play import play
from spin_theory.games.rates import multiplier
from spin_theory.minima.minimise import minimiser
from spin_theory.policies import TabularPolicy
from spin_train.lab.findings import Finding
from spin_train.lab.laboratory import SOLVED, Laboratory, Player
from spin_train.lab.problems import Problem, distance

__all__ = ["fixed_point", "iterations", "with_history"]

MULTIPLIER = 0.01
"""Of a log-ratio by one iteration: each network is within `TOLERANCE` of its minimum."""
GAME = 3e-3
"""Total variation after some iterations, each within `TOLERANCE` of its minimum."""
TRIPLET_TOKENS = 2**10
"""Of a micro-batch of triplets: attention takes the square of its tokens."""
TRIPLET_STEPS = 200
"""Of an iteration with history, which starts nearer to its end than the others."""


def iterations(lab: Laboratory) -> list[Finding]:
    """Play whole games: multipliers of SPIN and of T-SPIN, and T-SPIN's fixed point."""
    data = lab.data.policy
    findings = []
    for beta in (0.7, 2.0):
        policies = [player.policy for player in _game(lab, Problem("", beta=beta), 3)]
        measured = observed_multipliers(policies, data)[0].real
        findings.append(
            Finding(
                claim=f"multiplier of the log-ratio over three solved iterations, beta {beta:g}",
                predicted=multiplier(beta=beta),
                measured=measured,
                tolerance=MULTIPLIER,
                wrong="the exponential penalty's",
                wrong_apart=abs(measured - multiplier(beta=beta, loss_type="exponential")),
            )
        )
    beta = 5.0  # the distance is divided by 5 in each iteration
    players = _game(lab, Problem("", algorithm="tspin", beta=beta), 4)
    rest = fixed_point(data, beta=beta)
    left = (players[0].policy.log_probs - rest.log_probs) / beta**4  # (-1 / beta)^4 of it
    exact = TabularPolicy.from_logits(rest.log_probs + left)
    measured = observed_multipliers([player.policy for player in players[:-1]], rest)[0].real
    return [
        *findings,
        Finding(
            claim=f"multiplier of T-SPIN's log-ratio over three solved iterations, beta {beta:g}",
            predicted=-1 / beta,
            measured=measured,
            tolerance=MULTIPLIER,
            wrong="SPIN's",
            wrong_apart=abs(measured - multiplier(beta=beta)),
        ),
        Finding(
            claim=f"TV of T-SPIN from p_data^(1/{1 + beta:g}) after four iterations, beta {beta:g}",
            predicted=distance(exact, rest),
            measured=distance(players[-1].policy, rest),
            tolerance=GAME,
            wrong="p_data",
            wrong_apart=distance(players[-1].policy, data),
        ),
    ]


def with_history(lab: Laboratory) -> list[Finding]:
    """Play T-SPIN with history after its first iteration, towards a fixed point of its own."""
    data, base = lab.data.policy, lab.base.policy
    beta, weights = 1.0, (0.0, 1.0, 1.0)
    small = {**SOLVED["training"], "micro_batch_tokens": TRIPLET_TOKENS}
    shorter = {**SOLVED, "training": small, "epochs": TRIPLET_STEPS}
    player = lab.base
    for number, weight in enumerate(weights):
        name = "T-SPIN, beta 1" if number == 0 else f"T-SPIN with history, iteration {number}"
        training = SOLVED if weight == 0 else shorter
        problem = Problem(name, "tspin", beta, history_weight=weight, training=training)
        _, player = lab.train(name, problem, player, initial=lab.base)
    rules: dict[str, Any] = {"opponent": without_reference, "solver": minimiser}
    rules |= {"beta": beta, "iterations": len(weights)}
    *_, exact = play(base, data, history_weight=weights, **rules).policies
    *_, without = play(base, data, **rules).policies
    rest = exact_fixed_point(
        base, data, beta=beta, history_weight=weights[-1], opponent=without_reference
    )
    claim = f"TV of T-SPIN with history from {{}} after three iterations, beta {beta:g}, weight 1"
    return [
        Finding(
            claim=claim.format("the exact game"),
            predicted=0.0,
            measured=distance(player.policy, exact),
            tolerance=GAME,
            wrong="the exact game without history",
            wrong_apart=distance(player.policy, without),
        ),
        Finding(
            claim=claim.format("its fixed point"),
            predicted=distance(exact, rest),
            measured=distance(player.policy, rest),
            tolerance=GAME,
            wrong="the fixed point without history",
            wrong_apart=abs(
                distance(player.policy, fixed_point(data, beta=beta)) - distance(exact, rest)
            ),
        ),
    ]


def fixed_point(data: TabularPolicy, *, beta: float) -> TabularPolicy:
    """Where T-SPIN without history rests: p_data^(1/(1 + beta)), normalised."""
    return TabularPolicy.from_logits(data.log_probs / (1 + beta))


def _game(lab: Laboratory, problem: Problem, count: int) -> list[Player]:
    """Play iterations, each a run that starts from the last one's policy."""
    players = [lab.base]
    for number in range(count):
        name = f"{problem.algorithm} game of beta {problem.beta:g}, iteration {number}"
        one = Problem(**{**vars(problem), "name": name, "training": SOLVED})
        players.append(lab.train(name, one, players[-1])[1])
    return players
