"""Where a run rests if its opponent samples at another temperature than 1."""

from spin_train.config.schema import Config

__all__ = ["resting_note"]


def resting_note(config: Config) -> str | None:
    """Say where a run comes to rest, and how fast; None where it samples from its opponent."""
    generation = config.generation
    if generation.temperature == 1 or generation.engine == "given":
        return None
    from spin_theory.games.temperature import tempered_sentence  # torch is slow to import

    without_sft = all(config.at("sft_weight", k) == 0 for k in range(config.iterations))
    return tempered_sentence(
        generation.temperature,
        betas=[config.at("beta", k) for k in range(config.iterations)],
        loss_type=config.loss_type,
        plain=config.algorithm == "spin" and without_sft,
        mixed=config.mixing > 0,
    )
