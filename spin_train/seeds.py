"""Seeds: each depends on what it is for, and on nothing else."""

import hashlib

__all__ = ["sample_seed", "seed_of"]


def seed_of(*parts: object) -> int:
    """Seed that depends on every part and nothing else.

    Parameters
    ----------
    *parts : object
        Such as the run's seed, a purpose, an iteration, a shard.

    Returns
    -------
    int
        From 0 to 2**63 - 1.

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
    """Seed of one response: no rank, shard or restart enters it.

    Parameters
    ----------
    seed : int
        The run's.
    iteration : int
        Whose opponent plays.
    prompt_id : int
        Of the record.
    number : int
        Which of the prompt's samples, from 0.

    Returns
    -------
    int
        From 0 to 2**63 - 1.
    """
    return seed_of(seed, "generate", iteration, prompt_id, number)
