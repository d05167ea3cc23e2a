"""Command line: `spin-theory verify`, `spin-theory play` and `spin-theory phase`."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from spin_theory.claims.rows import as_markdown, as_text, statement_rows, statements, verdict_rows
from spin_theory.claims.table import CLAIMS
from spin_theory.claims.verification import verify
from spin_theory.flags import BAD_FLAGS, build_parser
from spin_theory.games import opponents
from spin_theory.games.iterates import cycle_length
from spin_theory.games.phase import PhaseDiagram, phase_diagram
from spin_theory.games.play import Game, play
from spin_theory.games.rates import effective_beta, multiplier
from spin_theory.games.solvers import OPTIMISERS, GradientSteps, Solver
from spin_theory.losses import PENALTIES
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimiser
from spin_theory.plots import draw_game, draw_phase, require_plot
from spin_theory.policies import TabularPolicy

FAILED, BROKEN_PIPE = 1, 141
LARGEST_TABLE = 10**8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 if a claim fails, 2 if the flags are wrong."""
    commands = {"verify": _verify, "play": _play, "phase": _phase}
    options = build_parser(commands).parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # while a closed pipe can still be caught
    except BrokenPipeError:  # as `| head` leaves it; the interpreter's own flush must not fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ValueError, OSError) as error:
        print(f"spin-theory {options.command}: {error}", file=sys.stderr)
        return BAD_FLAGS
    return code


def _verify(options: argparse.Namespace) -> int:
    if options.list:
        _list_claims(options)
        return 0
    jobs = min(options.jobs, options.instances)
    with _progress("instances") as track:
        seeds = track(range(options.seed, options.seed + options.instances))
        verdicts = verify(seeds=seeds, jobs=jobs)
    if options.json:
        found = [asdict(verdict) | {"holds": verdict.holds} for verdict in verdicts]
        print(json.dumps(found, indent=2))
    else:
        layout = as_markdown if options.markdown else as_text
        print(layout(verdict_rows(verdicts)))
    return 0 if all(verdict.holds for verdict in verdicts) else FAILED


def _list_claims(options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps([claim.facts for claim in CLAIMS], indent=2))
    else:
        print(as_markdown(statement_rows(CLAIMS)) if options.markdown else statements(CLAIMS))


@contextmanager
def _progress(description: str) -> Iterator[Callable[[Any], Any]]:
    """Show a progress bar on the terminal while iterating, if rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield list
        return
    console = Console(stderr=True)
    if not console.is_terminal:  # there rich leaves an empty line
        yield list
        return
    with Progress(console=console, transient=True) as progress:
        yield partial(progress.track, description=description)


def _rule(options: argparse.Namespace) -> opponents.OpponentRule:
    if options.algorithm == "tspin":
        if options.opponent != "last":
            raise ValueError("--algorithm tspin needs --opponent last")
        return opponents.without_reference
    rules: dict[str, opponents.OpponentRule] = {
        "last": opponents.last_iterate,
        "mixed": partial(opponents.mixed_samples, earlier=options.earlier),
        "geometric": partial(opponents.geometric_mixture, base_weight=options.base_weight),
        "average": opponents.average_of_iterates,
    }
    return rules[options.opponent]


def _require_table(prompts: int, responses: int) -> None:
    if prompts * responses > LARGEST_TABLE:
        raise ValueError(
            f"tables must have at most {LARGEST_TABLE} cells, got {prompts} x {responses}: "
            "lower --responses"
        )


def _require_closed_form(options: argparse.Namespace, remedy: str) -> None:
    """Refuse what `exact` refuses, but name the flags of the command line."""
    penalty = PENALTIES[options.loss_type]
    if penalty.bounded_below and penalty.exponent is None:
        raise ValueError(f"--loss-type {penalty.name} has no closed form; {remedy}")
    if options.history_weight > 0:
        raise ValueError(f"--history-weight > 0 has no closed form; {remedy}")


def _play(options: argparse.Namespace) -> int:
    if options.plot is not None:
        require_plot(options.plot)
    _require_table(options.prompts, options.responses)
    start, data = (
        TabularPolicy.random(
            options.prompts, options.responses, seed=seed, smallest=options.smallest
        )
        for seed in (options.seed, options.seed + 1)
    )
    solver: Solver
    if options.solver in OPTIMISERS:
        solver = GradientSteps(
            options.inner_steps, options.learning_rate, options.solver, options.pairs
        )
    elif options.pairs is not None:
        raise ValueError(f"--pairs needs --solver {' or '.join(OPTIMISERS)}")
    elif options.solver == "exact":
        _require_closed_form(options, "use --solver minimiser")
        solver = exact
    else:
        solver = minimiser
    game = play(
        start,
        data,
        beta=options.beta[0] if len(options.beta) == 1 else options.beta,
        iterations=options.iterations,
        loss_type=options.loss_type,
        solver=solver,
        opponent=_rule(options),
        history_weight=options.history_weight,
        seed=options.seed,
    )
    rows = _game_rows(game, options)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print(_game_table(rows))
        print(_how_it_ends(game, options))
    if options.plot is not None:
        draw_game(game).savefig(options.plot)
    return 0


def _game_rows(game: Game, options: argparse.Namespace) -> list[dict[str, float | None]]:
    """One row per iterate, with its distances and its effective beta."""
    has_multiplier = PENALTIES[options.loss_type].exponent is not None
    rows: list[dict[str, float | None]] = []
    for iteration, policy in enumerate(game.policies):
        row: dict[str, float | None] = {
            "iteration": iteration,
            "beta": game.betas[iteration - 1] if iteration else None,
            "effective_beta": None,
            "kl": float(game.kl[iteration]),
            "tv": float(game.tv[iteration]),
        }
        if iteration and has_multiplier and options.algorithm == "spin":
            before = game.policies[iteration - 1]
            found = effective_beta(before, policy, game.data, loss_type=options.loss_type)
            mean = float(found.mean())
            row["effective_beta"] = mean if math.isfinite(mean) else None
        rows.append(row)
    return rows


def _game_table(rows: Sequence[dict[str, float | None]]) -> str:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = [("iteration", "beta", "effective beta", "KL(data || policy)", "TV")]
    lines += [
        (
            cell(row["iteration"], "d"),
            cell(row["beta"], ".4g"),
            cell(row["effective_beta"], ".4g"),
            cell(row["kl"], ".6g"),
            cell(row["tv"], ".3e"),
        )
        for row in rows
    ]
    return as_text(lines)


def _how_it_ends(game: Game, options: argparse.Namespace) -> str:
    """Describe in one line the multiplier that theory predicts and the cycle the game ended in."""
    period = cycle_length(game.policies)
    cycle = {None: "no cycle yet", 1: "a fixed point"}.get(period, f"a cycle of {period}")
    exactly = (
        options.opponent == "last" and options.algorithm == "spin" and len(set(game.betas)) == 1
    )
    if not exactly or PENALTIES[options.loss_type].exponent is None:
        return f"ends in: {cycle}"
    factor = multiplier(beta=game.betas[0], loss_type=options.loss_type)
    return f"ends in: {cycle}; exact multiplier of the log-ratio: {factor:.4g}"


def _phase(options: argparse.Namespace) -> int:
    if options.plot is not None:
        require_plot(options.plot)
    _require_table(options.games, options.responses)
    if "exact" in options.inner_steps:
        _require_closed_form(options, "give --inner-steps without exact")
    with _progress("beta") as track:
        diagram = phase_diagram(
            betas=options.betas,
            inner_steps=[None if steps == "exact" else steps for steps in options.inner_steps],
            learning_rate=options.learning_rate,
            optimiser=options.optimiser,
            iterations=options.iterations,
            games=options.games,
            responses=options.responses,
            smallest=options.smallest,
            loss_type=options.loss_type,
            opponent=_rule(options),
            history_weight=options.history_weight,
            seed=options.seed,
            track=track,
        )
    if options.json:
        print(json.dumps(_phase_cells(diagram), indent=2))
    else:
        print("log10 of the last over the first TV from the data, mean over games")
        print(_phase_table(diagram))
    if options.plot is not None:
        draw_phase(diagram).savefig(options.plot)
    return 0


def _phase_cells(diagram: PhaseDiagram) -> list[dict[str, float | None]]:
    return [
        {
            "beta": beta,
            "inner_steps": steps,
            "change": float(diagram.change[row, column]),
            "diverged": float(diagram.diverged[row, column]),
        }
        for row, beta in enumerate(diagram.betas)
        for column, steps in enumerate(diagram.inner_steps)
    ]


def _phase_table(diagram: PhaseDiagram) -> str:
    names = ["exact" if steps is None else str(steps) for steps in diagram.inner_steps]
    rows = [("beta \\ inner steps", *names)]
    rows += [
        (f"{beta:.4g}", *(f"{value:+.2f}" for value in diagram.change[row].tolist()))
        for row, beta in enumerate(diagram.betas)
    ]
    return as_text(rows)


if __name__ == "__main__":
    sys.exit(main())
