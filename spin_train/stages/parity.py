"""How far two log-probs of one response by one policy may be apart, and a note that is compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spin_train.config.schema import Config
from spin_train.errors import UserError
from spin_train.model.logps import Group, response_logps
from spin_train.model.rounding import Rounding
from spin_train.system.files import read_json, write_json

__all__ = ["PARITY_TOLERANCE", "compare_with_note", "note_path", "noted_logps", "write_note"]

# Between an engine's log-prob of its own sample and the trainer's. Seen with the hf engine, models
# of 5, 12 and 30 layers, at most: float32 5e-5 nats for 56 tokens and 5e-3 for 200, where softmax
# drops the rarest of 49,152 words; bfloat16 1.0 for 55 and 2.7 for 200. Samples of other weights,
# another template or a cut-off vocabulary are 0.05 to 8 nats off a token.
PARITY_TOLERANCE = {
    "float32": Rounding(1e-3, 3e-4, drift=1e-4),
    "bfloat16": Rounding(0.5, 0.5, drift=5e-3),
}
_MOST_TOKENS = 64  # of the response that is noted


def note_path(policy: Path) -> Path:
    """File next to a policy directory with one log-prob, noted when its training ended."""
    return policy.with_name("policy_logps.json")


@torch.no_grad()
def noted_logps(model: Any, group: Group) -> dict[str, Any]:
    """Log-prob of the first tokens of a group's first response, to be computed on all ranks."""
    response = group.responses[0][:_MOST_TOKENS]
    model.eval()
    (logps,) = response_logps(model, [Group(group.prompt_ids, [response])]).tolist()
    return {"prompt_ids": group.prompt_ids, "response_ids": response, "logps": logps}


def write_note(policy: Path, note: dict[str, Any]) -> Path:
    """Write down what `noted_logps` gave; returns the file."""
    write_json(note_path(policy), note)
    return note_path(policy)


@torch.no_grad()
def compare_with_note(model: Any, policy: Path, config: Config) -> None:
    """Raise UserError if a loaded policy does not give the log-prob that it had in training.

    A policy without a note, such as that of an older run, passes.
    """
    try:
        note = read_json(note_path(policy))
    except FileNotFoundError:
        return
    ids: Sequence[int] = note["response_ids"]
    (logps,) = response_logps(model, [Group(note["prompt_ids"], [list(ids)])]).tolist()
    allowed = PARITY_TOLERANCE[config.training.dtype].allowed(len(ids))
    if not abs(logps - note["logps"]) <= allowed:  # nan is beyond as well
        raise UserError(
            f"{policy} is not the policy that was trained: a response that had a log-prob of "
            f"{note['logps']:.6g} nats when its training ended has {logps:.6g} now; restore the "
            "directory, or delete it to train again. If that does not help, the installed "
            "transformers does not load what it saves"
        )
