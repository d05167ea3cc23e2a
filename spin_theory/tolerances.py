"""Tolerances for rounding errors in one table, with the reason for each entry.

All numbers are float64, whose unit in the last place is 2.2e-16 of a number's size. A vector unit
sums in another order, so results differ by a few such units between processors: nothing may be
decided on less than what stands here. "Seen" is the largest error met when an entry was chosen.
"""

__all__ = [
    "CYCLE_TV",
    "EPSILON",
    "EQUAL_TV",
    "EXACT",
    "FEW_TERMS",
    "FIXED_POINT",
    "FIXED_POINT_STEP",
    "GRADIENTS",
    "LIMIT",
    "LINEAR_GAME",
    "LINEAR_RATE",
    "NEARLY_LINEAR",
    "NEWTON_STALL",
    "NEWTON_STEP",
    "NORMALISED",
    "PROGRAMME",
    "REPEATED",
    "ROUNDING",
    "STATIONARY",
    "SUMS",
    "TRUST_GRADIENT",
    "Tolerance",
]


class Tolerance(float):
    """A tolerance of claims with a reason, which `spin-theory verify --list` prints."""

    reason: str

    def __new__(cls, value: float, reason: str = "") -> "Tolerance":
        """Create the tolerance; `reason` is one line."""
        made = super().__new__(cls, value)
        made.reason = reason
        return made


ROUNDING = Tolerance(1e-12, "rounding, relative to the terms compared; seen: below 2e-13")
"""Of two ways to one number, relative to their terms, or in total variation. Seen: below 1e-14 in
most checks, 3e-15 in the sums of an objective at 256 responses, 2e-14 in an exact update at
beta = 0.1, which multiplies a log-ratio of 27 nats by 10, and 1.3e-13 after 400 iterations at
beta = 1/2, whose errors add up. It grows like 1/beta below 0.1."""

FEW_TERMS = Tolerance(1e-14, "rounding of some terms, relative; of 10,000 instances: below 1e-15")
"""What `ROUNDING` is in `spin-theory verify` where ten times the worst of 10,000 instances is below
it. No claim has less: another processor's sums differ by a few units in the last place."""

SUMS = Tolerance(1e-13, "rounding of sums, relative; the worst of 10,000 instances: below 1e-14")
"""The same for sums over pairs of up to 256 responses, and what comes of a few of them."""

GRADIENTS = Tolerance(
    1e-11, "rounding of gradients, relative to their terms; of 10,000 instances: 1e-13"
)
"""The same for gradients over 256 responses by automatic differentiation."""

REPEATED = Tolerance(
    1e-11, "rounding that some steps add up, relative to their terms; of 10,000 instances: 3e-13"
)
"""The same where each of some steps, or terms of a bound, adds the rounding of the one before."""

EPSILON = 2.0**-52
"""Unit in the last place of a float64 of size 1."""

EQUAL_TV = 1e-13
"""Two policies closer than this, in total variation, are the same table up to rounding."""

NORMALISED = 1e-10
"""How far the logarithm of a row's sum may be from 0: rounding passes, a float32 table not."""

NEWTON_STEP = 1e-10
"""Of a margin, in nats: Newton's method stops here, as it converges quadratically and the next
step is rounding."""

NEWTON_STALL = 1e-3
"""Of a margin, in nats: a step below it that does not halve the last one is rounding alone."""

TRUST_GRADIENT = 1e-13
"""Norm of the gradient at which scipy's trust-exact may stop; Newton steps follow it."""

EXACT = Tolerance(0.0, "the residual counts failures; none is allowed")
"""Of a count."""

STATIONARY = Tolerance(
    1e-10, "relative: Newton's method brings the gradient only near zero; seen: 5e-15"
)
"""Of a gradient that Newton's method brought to zero, relative to its terms; seen: 1e-15."""

FIXED_POINT_STEP = 1e-14
"""Total variation that an iteration still moves where the search for a fixed point stops."""

FIXED_POINT = Tolerance(
    1e-10, "total variation: the search stops when a step is below 1e-14, and steps add up"
)
"""Of a fixed point in total variation: its search stops at `FIXED_POINT_STEP`, and steps add up."""

CYCLE_TV = 1e-9
"""Two iterates whose log-ratios are below this, in nats, are the same state of a cycle."""

LINEAR_RATE = Tolerance(
    1e-6, "relative: near the data the map is linear only up to the deviation; seen: 3e-9"
)
"""Of observed against predicted rates of one iteration from 1e-6 nats away."""

NEARLY_LINEAR = Tolerance(
    1e-7, "relative: near the data the map is linear only up to the deviation; of 10,000: 4e-9"
)
"""The same in `spin-theory verify`, where the deviation is that of its instances."""

LINEAR_GAME = Tolerance(
    1e-5, "relative: near the data the game is linear only up to the deviation; seen: 2e-7"
)
"""The same of some iterations, in which a deviation grows before it shrinks."""

LIMIT = Tolerance(
    1e-7, "relative: near the end the two objectives differ by rounding alone; seen: 2e-9"
)
"""Relative, of an end found by bracketing: near it the drop vanishes within rounding."""

PROGRAMME = Tolerance(1e-9, "HiGHS's own, on tables of moderate probabilities; seen: 1e-15")
"""Of HiGHS on tables of moderate probabilities; seen: 1e-15."""
