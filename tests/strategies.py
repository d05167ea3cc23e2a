"""Domains of the property tests, named after the mathematical objects they draw."""

import math

import torch
from hypothesis import settings
from hypothesis import strategies as st

from spin_theory import TabularPolicy

LOSS_TYPES = ["logistic", "hinge", "exponential", "correlation"]

BETAS = st.floats(math.log(0.1), math.log(10.0)).map(math.exp)
"""Scales on log-prob differences, log-uniformly over the range that the papers span."""

MARGINS = st.one_of(st.floats(-50.0, 50.0), st.floats(-1e4, 1e4))
"""Margins in nats: where penalties bend, and where they only must not overflow."""

QUICK = settings.default.max_examples < 20
"""Whether the profile is that of `make check`: few examples, short simulations."""


def at_most(examples):
    """Settings of a test with costly examples; the quick profile takes a part of them."""
    usual = settings.default.max_examples
    return settings(max_examples=max(1, examples * usual // 50) if QUICK else examples)


SMALLEST_LOG_PROB = math.log(1e-12)


@st.composite
def log_probs(draw, *, prompts, responses, smallest=SMALLEST_LOG_PROB):
    """A table (X, Y) of log-probs, drawn log-uniformly down to about `smallest`."""
    cells = st.floats(smallest, 0.0)
    row = st.lists(cells, min_size=responses, max_size=responses)
    rows = draw(st.lists(row, min_size=prompts, max_size=prompts))
    return torch.log_softmax(torch.tensor(rows, dtype=torch.float64), dim=-1)


@st.composite
def log_policies(draw, *, count, max_prompts=3, max_responses=6, min_responses=1):
    """`count` tabular policies of one shape (X, Y)."""
    prompts = draw(st.integers(1, max_prompts))
    responses = draw(st.integers(min_responses, max_responses))
    tables = [draw(log_probs(prompts=prompts, responses=responses)) for _ in range(count)]
    return tuple(TabularPolicy(table) for table in tables)


def draw_table(*, prompts, responses, reach, smallest, shape, seed):
    """Scores over `reach` nats and two policies of log-probs down to `smallest`: (X, Y) each."""
    generator = torch.Generator().manual_seed(seed)
    scores, real, generated = (
        torch.rand(prompts, responses, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    scores, real, generated = scores * reach, real * smallest, generated * smallest
    if shape == "ties":
        scores = scores.round()
    elif shape == "one response has the mass":
        real[:, 0], generated[:, -1] = -smallest, -smallest
    elif shape == "both have it on the same response":
        real[:, 0], generated[:, 0] = -smallest, -smallest
    elif shape == "islands":  # clusters far apart, of scores with more digits than the distance
        islands = torch.randint(-2, 3, scores.shape, generator=generator)
        scores = islands.double() * reach + scores * (20.0 / max(1.0, reach))
    elif shape == "ladder":  # real and generated at opposite ends, each step far from the next
        steps = torch.linspace(0, 1, responses, dtype=torch.float64)
        scores, real, generated = (steps.expand(prompts, -1) * s for s in (reach, -smallest, 0.0))
        generated = -real
    return scores, real.log_softmax(dim=-1), generated.log_softmax(dim=-1)
