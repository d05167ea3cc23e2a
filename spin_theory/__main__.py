"""Command line: `spin-theory verify`, `spin-theory play` and `spin-theory phase`."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from spin_theory.claims.rows import as_markdown, as_text, statement_rows, statements, verdict_rows
from spin_theory.claims.table import CASES, CLAIMS, named
from spin_theory.claims.verification import verify
from spin_theory.divergences import tv
from spin_theory.flags import BAD_FLAGS, build_parser
from spin_theory.games import opponents
from spin_theory.games.endings import ExactLaw, describe_end, rest_with_history
from spin_theory.games.phase import phase_diagram
from spin_theory.games.play import Game, play
from spin_theory.games.sft import sft_sentence
from spin_theory.games.solvers import OPTIMISERS, GradientSteps, Solver
from spin_theory.losses import PENALTIES
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimiser
from spin_theory.plots import draw_game, draw_phase, require_plot
from spin_theory.policies import TabularPolicy
from spin_theory.printed import game_rows, game_table, phase_cells, phase_table, stalled

FAILED, OUR_FAULT, INTERRUPTED, BROKEN_PIPE = 1, 70, 130, 141
LARGEST_TABLE = 10**8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0, 1 if a claim fails, 2 if the flags are wrong, 70 if we are.
    """
    commands = {"verify": _verify, "play": _play, "phase": _phase}
    options = build_parser(commands).parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # while a closed pipe can still be caught
    except BrokenPipeError:  # as `| head` leaves it; the interpreter's own flush must not fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        return _says(options, BAD_FLAGS, str(error))
    except MemoryError:
        return _says(options, BAD_FLAGS, _TOO_LARGE)
    except Exception as error:  # a claim that fails has exit code 1, and a crash is none
        if "allocate memory" in str(error):  # torch's out of memory is a RuntimeError
            return _says(options, BAD_FLAGS, _TOO_LARGE)
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, line {where.lineno}"
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
        return _says(options, OUR_FAULT, f"this is our fault, please report it: {fault} ({place})")
    return code


_TOO_LARGE = "there is not enough memory: lower --responses, --prompts, --games or --pairs"


def _says(options: argparse.Namespace, code: int, message: str) -> int:
    print(f"spin-theory {options.command}: {message}", file=sys.stderr)
    return code


def _verify(options: argparse.Namespace) -> int:
    if options.list:
        _list_claims(options)
        return 0
    names = None if options.claims is None else named(options.claims)
    jobs = min(options.jobs, options.instances)
    with _progress("instances") as track:
        seeds = track(range(options.seed, options.seed + options.instances))
        verdicts = verify(seeds=seeds, jobs=jobs, names=names)
    if options.json:
        found = [asdict(verdict) | {"holds": verdict.holds} for verdict in verdicts]
        print(json.dumps(found, indent=2))
    else:
        layout = as_markdown if options.markdown else as_text
        print(layout(verdict_rows(verdicts)))
    return 0 if all(verdict.holds for verdict in verdicts) else FAILED


def _list_claims(options: argparse.Namespace) -> None:
    names = set(CASES) if options.claims is None else set(named(options.claims))
    listed = [claim for claim in CLAIMS if names & set(claim.cases)]
    if options.json:
        print(json.dumps([claim.facts for claim in listed], indent=2))
    else:
        print(as_markdown(statement_rows(listed)) if options.markdown else statements(listed))


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
        "moving": partial(opponents.moving_average, decay=options.decay),
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
    if options.sft_weight > 0 and penalty.bounded_below:
        raise ValueError(f"--sft-weight > 0 has no closed form; {remedy}")


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
            options.inner_steps,
            options.learning_rate,
            options.solver,
            options.pairs,
            options.momentum,
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
        sft_weight=options.sft_weight,
        seed=options.seed,
    )
    rows = game_rows(game, options.loss_type, options.algorithm)
    if options.json:
        print(json.dumps(rows, indent=2))
        if game.stopped is not None:
            print(f"spin-theory play: {game.stopped}", file=sys.stderr)
    else:
        print(game_table(rows))
        print(describe_end(game, _law(game, options)))
        if options.algorithm == "spin" and options.history_weight > 0:
            print(_with_history(game, options))
        elif (told := _with_sft(game, options)) is not None:
            print(told)
    if options.plot is not None:
        draw_game(game).savefig(options.plot)
    return 0


def _law(game: Game, options: argparse.Namespace) -> ExactLaw | None:
    """Say what is proved about the game that was played; None where nothing is."""
    exponent = PENALTIES[options.loss_type].exponent
    solved = options.solver in ("exact", "minimiser") and options.history_weight == 0
    if options.sft_weight > 0:  # not linear in the log-ratio
        return None
    if not solved or exponent is None or len(set(game.betas)) != 1:
        return None
    share = exponent / game.betas[0]  # 1 - m
    if options.algorithm == "tspin":
        power = f"1/{1 + 1 / share:.4g}"
        return ExactLaw(-share, f"p_data^({power}), normalised")
    if options.opponent == "last":
        return ExactLaw(1 - share, shortfall=share)
    if options.opponent == "geometric":
        weight = options.base_weight
        factor = (1 - share) * (1 - weight)
        if factor != 1:
            power = (1 - share) * weight / (1 - factor)
            return ExactLaw(factor, f"p_data (p_0/p_data)^{power:.4g}" if power else "the data")
    return None


def _with_history(game: Game, options: argparse.Namespace) -> str:
    """Say what SPIN with T-SPIN's history term is."""
    what = "--history-weight without --algorithm tspin is SPIN pushed away from p_0"
    if options.opponent != "last":
        return f"{what}: the data are no fixed point of it"
    rest = rest_with_history(game.policies[0], game.data, history_weight=options.history_weight)
    if rest is None:
        return f"{what}: it rests nowhere, as (p_data - w p_0) / (1 - w) is no distribution"
    distance = float(tv(rest, game.data).mean())
    return f"{what}: it rests at (p_data - w p_0) / (1 - w), TV {distance:.3g} from the data"


def _with_sft(game: Game, options: argparse.Namespace) -> str | None:
    """Say what an SFT term does to small deviations from the data, where that is known."""
    solved = options.solver in ("exact", "minimiser") and options.opponent == "last"
    if options.sft_weight == 0 or options.algorithm != "spin" or not solved:
        return None
    return sft_sentence(game.betas, sft_weight=options.sft_weight, loss_type=options.loss_type)


def _phase(options: argparse.Namespace) -> int:
    if options.plot is not None:
        require_plot(options.plot)
    _require_table(options.games, options.responses)
    searched = options.sft_weight > 0 and PENALTIES[options.loss_type].suits_newton
    if "exact" in options.inner_steps and not searched:
        _require_closed_form(options, "give --inner-steps without exact")
    with _progress("beta") as track:
        diagram = phase_diagram(
            betas=options.betas,
            inner_steps=[None if steps == "exact" else steps for steps in options.inner_steps],
            learning_rate=options.learning_rate,
            optimiser=options.optimiser,
            momentum=options.momentum,
            iterations=options.iterations,
            games=options.games,
            responses=options.responses,
            smallest=options.smallest,
            loss_type=options.loss_type,
            opponent=_rule(options),
            history_weight=options.history_weight,
            sft_weight=options.sft_weight,
            seed=options.seed,
            track=track,
        )
    if options.json:
        print(json.dumps(phase_cells(diagram), indent=2))
    else:
        print("log10 of the last over the first TV from the data, mean over games")
        print(phase_table(diagram))
        if bool(stalled(diagram).any()):
            print("* a quarter of the games or more had been as near or nearer before")
    if options.plot is not None:
        draw_phase(diagram).savefig(options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
