"""One self-contained page about several runs."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spin_train.config.yaml12 import yaml_text
from spin_train.errors import UserError
from spin_train.report.comparison import Comparison, Side
from spin_train.report.comparison_tables import (
    differing_table,
    run_table,
    wide_numbers,
)
from spin_train.report.estimates import nll
from spin_train.report.figures import Drawing, Line, draw, require_matplotlib
from spin_train.report.pictures import change_of_nll, line_of, right_in_per_cent
from spin_train.report.templates import fill
from spin_train.system.files import write_atomically

__all__ = ["render_comparison", "write_comparison"]

_COLOURS = ("play", "control", "third", "fourth")


def write_comparison(found: Comparison, path: Path) -> Path:
    """Write the page; returns where it lies."""
    require_matplotlib()
    if path.is_dir():
        raise UserError(f"--html {path} is a directory; name a file")
    text = render_comparison(found)
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def render_comparison(found: Comparison) -> str:
    """Make the page as HTML."""
    return fill(
        "compare.html.jinja",
        found=found,
        runs=run_table(found),
        differing=differing_table(found),
        pictures=_pictures(found),
        numbers=wide_numbers(found),
        configs={s.letter: yaml_text(s.run.config.model_dump()) for s in found.sides},
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _pictures(found: Comparison) -> list[Drawing]:
    sides = found.sides
    drawings = [
        _drawing(
            1,
            "Self-play: held-out NLL, change since p_0",
            "Each run against its own p_0, on its own held-out rows. Lower is better. Bars are "
            "95 % intervals.",
            [_line(side, n, "change") for n, side in enumerate(sides)],
            y="nats per token",
            level=0.0,
        )
    ]
    if found.same_rows:
        drawings.append(
            _drawing(
                2,
                "Self-play: held-out NLL",
                "The same held-out rows in all runs. Lower is better. The bars are of each number "
                "alone, and wider than those of a difference.",
                [_line(side, n, "nll") for n, side in enumerate(sides)],
                y="nats per token",
            )
        )
    drawings += [
        _drawing(
            3,
            "Controls: held-out NLL, change since p_0",
            "Continued SFT on the same rows, for as many steps. Lower is better.",
            [_line(side, n, "change", control=True) for n, side in enumerate(sides)],
            y="nats per token",
            level=0.0,
        ),
        _drawing(
            4,
            "Self-play: right answers by greedy decoding",
            "Higher is better. Bars are Wilson's 95 % intervals over prompts.",
            [_line(side, n, "right") for n, side in enumerate(sides)],
            y="per cent",
        ),
    ]
    return [drawing for drawing in drawings if drawing is not None]


def _line(side: Side, number: int, what: str, *, control: bool = False) -> Line:
    value = {"change": change_of_nll(side.run), "nll": nll, "right": right_in_per_cent}[what]
    return line_of(
        side.run,
        value,
        name=side.letter,
        colour=_COLOURS[number % len(_COLOURS)],
        control=control,
        dashed=number >= len(_COLOURS),
    )


def _drawing(
    number: int,
    title: str,
    caption: str,
    lines: Sequence[Line],
    *,
    y: str,
    level: float | None = None,
) -> Drawing | None:
    """Draw what is known; None where no run has more than its p_0."""
    shown = [line for line in _aside(lines) if len(line.x) > 1]
    if not shown:
        return None
    return draw(number, title, caption, shown, y=y, level=level, whole=True)


def _aside(lines: Sequence[Line]) -> list[Line]:
    """Move the lines apart by a little, so that no bar hides another."""
    middle = (len(lines) - 1) / 2
    return [
        replace(line, x=[x + 0.04 * (n - middle) for x in line.x]) for n, line in enumerate(lines)
    ]
