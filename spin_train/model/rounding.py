"""How far apart rounding alone may put two log-probs of one response by one model.

Rounding of a token's log-prob is of either sign and hardly depends on that of the token before. So
over a response it adds up like a random walk, with the square root of its tokens. Another model is
off by as much at every token, and two ways to compute are by a little. Seen in bfloat16 between
batches of other shapes, on 135 million parameters in 30 layers: 0.07 nats per square root of a
token, root mean square, and at most 0.2; and 0.003 nats per token, always of one sign.
"""

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Rounding"]

_ENOUGH = 8  # responses whose mean says more than the worst of them
_SHARE = 0.4  # of what is allowed for one, root mean square over so many


@dataclass(frozen=True)
class Rounding:
    """What is allowed between two log-probs of a response of n tokens: c + r sqrt(n) + d n nats."""

    constant: float
    """c, nats."""
    per_root: float
    """r, nats; in bfloat16 seven times what was seen, root mean square."""
    drift: float
    """d, nats per token."""

    def allowed(self, tokens: int) -> float:
        """Nats for a response of so many tokens."""
        return self.constant + self.per_root * math.sqrt(tokens) + self.drift * tokens

    def explains(self, differences: Tensor, tokens: Tensor) -> bool:
        """Say whether all differences, in nats, may be rounding: each, and all of them together.

        Both tensors have one entry per response. A difference that is NaN is not rounding.
        """
        allowed = self.constant + self.per_root * tokens.sqrt() + self.drift * tokens
        shares = differences.double().abs() / allowed
        if not bool((shares <= 1).all()):
            return False
        together = shares.square().mean().sqrt()
        return shares.numel() < _ENOUGH or bool(together <= _SHARE)

    def __str__(self) -> str:
        """Write it as messages do."""
        of_tokens = f"{self.per_root:g} sqrt(n) + {self.drift:g} n"
        return f"{self.constant:g} + {of_tokens} nats for n tokens"
