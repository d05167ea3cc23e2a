"""What tests of sampling share: prompts, settings, ways, and models whose draws are known."""

import functools

import torch

from spin_train.sampling import transformers_engine
from spin_train.sampling.engine import SamplingSettings
from tests.train.models import (
    constant_model,
    tiny_model,
)

STOP = 2
# Longer than the windows of the sliding models, shorter than the context of 64.
PROMPTS = [[3, 4, 5, 6, 7, 8, 9] * 4, [10], [11, STOP, 12], [13, 14], [15] * 9, [16, 17, 18]]
WAYS = [*transformers_engine._WAYS.values(), *transformers_engine._ON_GPU.values()]


class Always(dict):
    """The ways of a model for which one was chosen, however long its rows are."""

    def __init__(self, way):
        self.way = way

    def __contains__(self, length):
        return True

    def __getitem__(self, length):
        return self.way


def settings(**changes):
    given = {"stop_ids": (STOP,), "max_new_tokens": 6, "temperature": 1.0, "batch_size": 8}
    return SamplingSettings(**(given | changes))


@functools.cache
def model_of(architecture):
    """A model that no test changes, so that its way of sampling is tried out once."""
    return tiny_model(architecture, torch.float32)


def ids_of(samples):
    return [sampled.ids for sampled in samples]


def stopping(probability):
    """Ends after any token with this probability; else says token 4."""
    probs = [0.0] * 8
    probs[STOP], probs[4] = probability, 1 - probability
    return constant_model(probs)
