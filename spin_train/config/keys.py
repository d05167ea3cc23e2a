"""When a configuration key is first read: what decides until when it may change.

Each key of the schema is annotated with one of these, such as ``beta: Loss[Schedule]``.
"""

from enum import Enum
from typing import Annotated, TypeVar

__all__ = ["FirstRead", "Free", "Loss", "OfControl", "Play", "Start", "Training"]

T = TypeVar("T")


class FirstRead(Enum):
    """The first stage whose result depends on a key."""

    START = "data, SFT or p_0"
    """It may change only until the first stage is complete."""
    TRAINING = "training"
    """It may change until something is trained, SFT included."""
    PLAY = "self-play"
    """As START when resuming; a branch at iteration 0 may change it."""
    LOSS = "the loss of self-play"
    """As TRAINING when resuming; a branch at iteration 0 may change it."""
    CONTROL = "the control"
    """As START when resuming; a branch may change it."""
    NOTHING = "nothing that is kept"
    """It may change at any time: results do not depend on it."""


Start = Annotated[T, FirstRead.START]
Training = Annotated[T, FirstRead.TRAINING]
Play = Annotated[T, FirstRead.PLAY]
Loss = Annotated[T, FirstRead.LOSS]
OfControl = Annotated[T, FirstRead.CONTROL]
Free = Annotated[T, FirstRead.NOTHING]
