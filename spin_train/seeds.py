"""Seeds: each depends on what it is for, and on nothing else."""

import hashlib

__all__ = ["sample_seed", "seed_of"]


def seed_of(*parts: object) -> int:
    """Seed from 0 to 2**63 - 1 that depends on every part, such as the run's seed and a purpose.

    >>> seed_of(42, "generate", 0) == seed_of(42, "generate", 0)
    True
    >>> seed_of(42, "generate", 0) == seed_of(42, "generate", 1)
    False
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sample_seed(seed: int, iteration: int, prompt_id: int, number: int) -> int:
    """Seed of one sample of a prompt; no rank, shard or restart enters it."""
    return seed_of(seed, "generate", iteration, prompt_id, number)
