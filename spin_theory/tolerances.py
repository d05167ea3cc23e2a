"""What rounding may make of a number: one table, with the reason for each entry.

All numbers are float64, whose unit in the last place is 2.2e-16 of a number's size. A vector unit
sums in another order, so results differ by a few such units between processors: nothing may be
decided on less than what stands here.
"""

__all__ = ["EQUAL_TV", "ROUNDING"]

ROUNDING = 1e-12
"""Of two ways to one number, relative to their terms, or in total variation. Seen: below 1e-14
for a single iteration, 1.3e-13 after 400 iterations at beta = 1/2, which add their errors up."""

EQUAL_TV = 1e-13
"""Two policies closer than this, in total variation, are the same table but for rounding."""
