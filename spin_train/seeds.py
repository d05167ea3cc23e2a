"""Seeds, which depend only on their purpose."""

import hashlib

__all__ = ["sample_seed", "seed_of"]


def seed_of(*parts: object) -> int:
    """Derive a seed, from 0 to 2**63 - 1, from every part given and nothing else.

    Examples
    --------
    >>> seed_of(42, "generate", 0) == seed_of(42, "generate", 0)
    True
    >>> seed_of(42, "generate", 0) == seed_of(42, "generate", 1)
    False
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sample_seed(seed: int, iteration: int, prompt_id: int, number: int) -> int:
    """Derive the seed of one response; it does not depend on ranks, shards or restarts."""
    return seed_of(seed, "generate", iteration, prompt_id, number)
