"""Draw the figures of the paper: `python -m paper_figures [--out DIR] [NAME ...]`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from paper_figures import (
    bridge,
    finite_play,
    inexact_law,
    kl_by_iteration,
    landscape_5_2,
    loss_floor,
    meter_coverage,
    multipliers,
    orbits,
    published_averages,
    residuals_5_4,
    resting_points,
    token_trees,
    where_spin_pays,
)
from paper_figures.style import save_figure, save_image
from spin_train.errors import UserError

FIGURES: dict[str, Callable[[Sequence[Path]], Figure]] = {
    "kl_by_iteration": lambda _: kl_by_iteration.draw(kl_by_iteration.compute()),
    "landscape_5_2": lambda _: landscape_5_2.draw(landscape_5_2.compute()),
    "residuals_5_4": lambda _: residuals_5_4.draw(residuals_5_4.compute()),
    "multipliers": lambda _: multipliers.draw(multipliers.compute()),
    "loss_floor": lambda _: loss_floor.draw(loss_floor.compute()),
    "inexact_law": lambda _: inexact_law.draw(inexact_law.compute()),
    "orbits": lambda _: orbits.draw(orbits.compute()),
    "finite_play": lambda _: finite_play.draw(finite_play.compute()),
    "resting_points": lambda _: resting_points.draw(resting_points.compute()),
    "token_trees": lambda _: token_trees.draw(token_trees.compute()),
    "where_spin_pays": lambda _: where_spin_pays.draw(where_spin_pays.compute()),
    "bridge": lambda _: bridge.draw(bridge.compute()),
    "meter_coverage": lambda _: meter_coverage.draw(meter_coverage.compute()),
    "published_averages": lambda runs: published_averages.draw(
        published_averages.compute(runs=runs)
    ),
}
"""Each figure, named as its module: computed and drawn, next to the runs that are given."""


def main() -> None:
    """Compute, draw and save the figures that are asked for, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures", description="Draw figures as PDF and PNG."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="default: figures/")
    parser.add_argument("--image", type=Path, help="write this PNG alone, in a web page's size")
    parser.add_argument(
        "--run",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a run to draw in published_averages; may be given several times",
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {unknown[0]}: choose from {', '.join(FIGURES)}")
    if options.image is not None and len(options.names) != 1:
        parser.error("--image writes one figure: give one NAME")
    torch.set_num_threads(1)  # sums in one order, so the same bytes
    for name in options.names or FIGURES:
        try:
            figure = FIGURES[name](options.run)
        except UserError as error:  # no run at DIR
            parser.error(str(error))
        if options.image is None:
            paths = save_figure(figure, name, options.out)
        else:
            save_image(figure, options.image)
            paths = [options.image]
        for path in paths:
            print(path, flush=True)


if __name__ == "__main__":
    main()
