"""Score: the log-probs of all responses under the opponent, and whether engines agree."""

from collections.abc import Sequence

from spin_train.config.schema import Config
from spin_train.data.records import Record

__all__ = ["PARITY_TOLERANCE", "parity_problem"]


# Nats between an engine's log-prob of its own sample and the trainer's: a constant, and a part per
# token. Seen with the hf engine, at most, on models of 5 and 12 layers: float32 5e-5 for 56 tokens
# and 2e-4 for 200; bfloat16 1.0 for 55 and 2.7 for 200, as rounding of either sign adds up. Samples
# of other weights, another template or a cut-off vocabulary are 0.05 to 8 off a token.
PARITY_TOLERANCE = {"float32": (1e-3, 2e-5), "bfloat16": (1.5, 0.02)}


def parity_problem(records: Sequence[Record], config: Config, iteration: int) -> str:
    """Compare the engine's log-probs of its samples with the trainer's.

    Parameters
    ----------
    records : sequence of Record
        Scored.
    config : Config
        The run's.
    iteration : int
        Whose samples are compared: those whose opponent both numbers belong to.

    Returns
    -------
    str
        One line on what is wrong and what to do; empty where both agree.

    Notes
    -----
    Both numbers are taken at temperature 1 whatever the samples were drawn at, so they are
    comparable at any temperature.
    """
    constant, per_token = PARITY_TOLERANCE[config.training.dtype]
    worst, beyond, compared = 0.0, 0, 0
    for record in records:
        for sample in record.of_role("generated"):
            if sample.iteration != iteration or sample.sampling_logps is None:
                continue
            assert sample.opponent_logps is not None
            difference = abs(sample.sampling_logps - sample.opponent_logps)
            compared += 1
            if not difference <= constant + per_token * len(sample.ids):  # nan is beyond as well
                beyond += 1
                worst = max(worst, difference / len(sample.ids))
    if not beyond:
        return ""
    return (
        f"generation parity: engine {config.generation.engine} and the training forward pass "
        f"differ on the log-prob of {beyond} of {compared} samples by up to {worst:.3g} nats a "
        f"token (tolerance {constant:g} nats + {per_token:g} a token): samples and scores do not "
        "belong to one distribution; use generation.engine=hf in a new output_dir, or go on with "
        "generation.parity=warn"
    )
