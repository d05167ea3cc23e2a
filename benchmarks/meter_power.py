"""How often the convergence meter proves a difference, and what that depends on.

``python -m benchmarks.meter_power --write`` draws samples at three distances and puts the shares
into docs/theory.md. It takes two minutes on one core.
"""

import argparse
import math

import torch
from torch import Tensor

from benchmarks.pages import DOCS, write_between
from spin_theory import TabularPolicy, power, tv
from spin_theory.claims.rows import as_markdown
from spin_theory.meter import convergence_meter

DISTANCES = (0.27, 0.15, 0.09)
TABLES, SAMPLES = 25, 16  # per cell
NORMAL = 1.6449  # of a bound that holds 95 % of the time, if the mean were normally distributed


def hardest(_: int, distance: float) -> tuple[TabularPolicy, TabularPolicy]:
    """Make data and opponent of two responses that the meter sees least of."""
    half = distance / 2
    data, opponent = (TabularPolicy.from_probs([[0.5 + h, 0.5 - h]]) for h in (half, -half))
    return data, opponent


def typical(seed: int, distance: float) -> tuple[TabularPolicy, TabularPolicy]:
    """Draw random data of 8 responses, and an opponent on the way to them from a random start."""
    while True:
        start, data = (TabularPolicy.random(1, 8, seed=seed + k, smallest=1e-3) for k in (0, 1))
        if float(tv(start, data)) > distance:
            break
        seed += 1000
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        mixed = data.log_probs + share * (start.log_probs - data.log_probs)
        opponent = TabularPolicy.from_logits(mixed)
        low, high = (share, high) if float(tv(opponent, data)) < distance else (low, share)
    return data, opponent


def meter_proves(margins: Tensor) -> bool:
    """Whether the meter's bound is above 0; half of the pairs tune it."""
    return convergence_meter(margins, prompts=torch.arange(len(margins))).lower_bound > 0


def normal_bound_proves(margins: Tensor) -> bool:
    """Whether the mean is 1.64 standard errors above 0, with the best margins known."""
    values = math.log(2) + torch.nn.functional.logsigmoid(margins)
    return bool(values.mean() > NORMAL * values.std() / math.sqrt(len(values)))


ROWS = (
    ("hardest", hardest, 500, "meter, 250 pairs tune", meter_proves),
    ("hardest", hardest, 1000, "meter, 500 pairs tune", meter_proves),
    ("hardest", hardest, 500, "normal bound, nothing tunes", normal_bound_proves),
    ("8 random responses", typical, 500, "meter, 250 pairs tune", meter_proves),
    ("8 random responses", typical, 1000, "meter, 500 pairs tune", meter_proves),
    ("8 random responses", typical, 500, "normal bound, nothing tunes", normal_bound_proves),
)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/theory.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [("tables", "pairs", "bound", *(f"TV {distance}" for distance in DISTANCES))]
    for name, tables, pairs, bound, proves in ROWS:
        shares = []
        for distance in DISTANCES:
            if tables is hardest and proves is meter_proves:  # known without drawing
                shares.append(power(tv=distance, samples=pairs))
                continue
            torch.manual_seed(0)
            found = []
            for seed in range(TABLES):
                data, opponent = tables(2 * seed, distance)
                margins = (data.log_probs - opponent.log_probs)[0]
                for _ in range(SAMPLES):
                    real, generated = (
                        torch.multinomial(table.probs[0], pairs, replacement=True)
                        for table in (data, opponent)
                    )
                    found.append(proves(margins[real] - margins[generated]))
            shares.append(sum(found) / len(found))
        rows.append((name, str(pairs), bound, *(f"{share:.2f}" for share in shares)))
    text = as_markdown(rows)
    print(text)
    if options.write:
        write_between(DOCS / "theory.md", "meter-power", text)


if __name__ == "__main__":
    main()
