"""Tabulate: the exact table of a causal language model over an enumerated response space.

The responses to a prompt are a tree of tokens, and each node of the tree goes through the model
once: level by level, with the keys and values of its parent::

    prompt -- a -- <eos>          the responses a, ab, b: three calls of the model,
           |    `- b -- <eos>     with the prompt, with (a, b), and with (ab)
           `- b -- <eos>

Sums are float64, and so is the softmax, whatever the model computes in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spin_theory.policies import TabularPolicy
from spin_train.stages.parity import PARITY_TOLERANCE

__all__ = ["PolicyTable", "tabulate"]

_ROWS = 1024  # that go through the model at once, about


@dataclass(frozen=True)
class PolicyTable:
    """What a model says of every response of an enumerated space."""

    log_probs: tuple[Tensor, ...]
    """Log-probs of the responses to each prompt, (Y,) each, in nats, float64: of the whole model,
    so that their probabilities sum to less than one."""
    exits: tuple[Tensor, ...]
    """Log-probs of the exits for each prompt, in nats, float64. An exit is a node of the tree,
    reached and then left: the next token is none of those that hang from it. Every text is either a
    response or goes through one exit, so with the responses they sum to one. Nodes that all tokens
    hang from have no exit."""

    @property
    def outside(self) -> Tensor:
        """Probability of all other responses, (X,)."""
        return torch.stack([row.exp().sum() for row in self.exits])

    @property
    def outcomes(self) -> TabularPolicy:
        """Table (X, Y + E) of the model's probabilities of all responses, then of all exits.

        Nothing is left out, so the mean of their scores is zero, as it is over all texts: what
        comes after an exit has a mean score of zero itself. ValueError as for `policy`.
        """
        rows = [torch.cat(pair) for pair in zip(self.log_probs, self.exits, strict=True)]
        return TabularPolicy(torch.stack(rows))

    @property
    def policy(self) -> TabularPolicy:
        """Table (X, Y) of the model's probabilities, given that the response is of the space.

        ValueError if the prompts have different numbers of responses.
        """
        return TabularPolicy.from_logits(torch.stack(self.log_probs))


def tabulate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[Sequence[int]]],
    *,
    rows: int = _ROWS,
) -> PolicyTable:
    """Log-probs of every response to every prompt, differentiable in the model's parameters.

    Parameters
    ----------
    model : callable
        Causal language model of transformers, in evaluation mode.
    prompts : sequence of sequence of int, length X
        Token ids of the prompts, at least one each.
    responses : sequence of sequence of sequence of int, length X
        The responses to each prompt, as token ids with their end of text. None is the beginning of
        another, so that their probabilities add up.
    rows : int, default 1024
        Nodes of the trees that go through the model at once, about. It changes memory alone.

    Returns
    -------
    PolicyTable
        Log-probs, and the probability outside of the space.

    Raises
    ------
    ValueError
        If a prompt has no token or no response, a response is the beginning of another, or the
        model has no cache of keys and values or computes something else with it.

    Notes
    -----
    A model may compute with its cache what it does not compute without. So one response of those
    that are longest is also scored by a plain forward pass, and the two have to agree.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts, but responses to {len(responses)}")
    device = next(model.parameters()).device
    trees = [_Tree.of(number, answers) for number, answers in enumerate(responses)]
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for group in _groups(prompts, trees, rows):
        ids = torch.tensor([list(prompts[number]) for number in group], device=device)
        walked = _walk(model, ids, [trees[number] for number in group])
        found |= dict(zip(group, walked, strict=True))
    rows_and_exits = [found[number] for number in range(len(prompts))]
    table = PolicyTable(*map(tuple, zip(*rows_and_exits, strict=True)))
    _compare_with_plain_pass(model, prompts, responses, table)
    return table


@dataclass
class _Tree:
    """The responses to one prompt by levels: level d holds their beginnings of d + 1 tokens.

    Nodes of a level are (place of the parent among the inner nodes of the level above, token).
    """

    nodes: list[list[tuple[int, int]]] = field(default_factory=list)
    inner: list[list[int]] = field(default_factory=list)
    """Nodes of each level that others hang from: those that go through the model."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """Level of each response's last token, and its node there."""

    @property
    def widest(self) -> int:
        """Most nodes of a level that go through the model."""
        return max(1, *map(len, self.inner))

    @classmethod
    def of(cls, number: int, responses: Sequence[Sequence[int]]) -> "_Tree":
        """Build the tree of the responses to the prompt of this number."""
        if not responses or not all(responses):
            raise ValueError(f"prompt {number}: no response, or one without a token")
        tree = cls()
        places: dict[tuple[int, ...], int] = {
            (): 0
        }  # of the beginnings of the level above, among its inner nodes
        ends: dict[tuple[int, ...], tuple[int, int]] = {}
        wanted = [tuple(response) for response in responses]
        for level in range(max(map(len, wanted))):
            begun = dict.fromkeys(ids[: level + 1] for ids in wanted if len(ids) > level)
            continued = {ids[: level + 1] for ids in wanted if len(ids) > level + 1}
            ended = {ids for ids in wanted if len(ids) == level + 1}
            if ended & continued or sum(len(ids) == level + 1 for ids in wanted) > len(ended):
                raise ValueError(
                    f"prompt {number}: a response comes twice, or is the beginning of another, so "
                    "that probabilities do not add up; end each with the end-of-text token"
                )
            tree.nodes.append([(places[ids[:-1]], ids[-1]) for ids in begun])
            tree.inner.append([place for place, ids in enumerate(begun) if ids in continued])
            ends |= {ids: (level, place) for place, ids in enumerate(begun) if ids in ended}
            places = {ids: place for place, ids in enumerate(i for i in begun if i in continued)}
        tree.ends = [ends[ids] for ids in wanted]
        return tree


def _groups(
    prompts: Sequence[Sequence[int]], trees: Sequence[_Tree], rows: int
) -> Iterator[list[int]]:
    """Numbers of prompts that are equally long and together widen to about so many rows."""
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {number} has no token")
        by_length.setdefault(len(prompt), []).append(number)
    for numbers in by_length.values():
        group: list[int] = []
        for number in numbers:
            if group and sum(trees[n].widest for n in (*group, number)) > rows:
                yield group
                group = []
            group.append(number)
        yield group


def _walk(model: Any, ids: Tensor, trees: Sequence[_Tree]) -> list[tuple[Tensor, Tensor]]:
    """Log-probs (Y,) of the responses to each of some prompts, and (E,) of the exits.

    The prompts, (B, L), are equally long.
    """
    device = ids.device
    out = model(input_ids=ids, use_cache=True)
    cache = getattr(out, "past_key_values", None)
    if cache is None:
        raise ValueError(f"{type(model).__name__} keeps no keys and values: it has no table here")
    token_logps = out.logits[:, -1].double().log_softmax(-1)  # (nodes above, V)
    sums = token_logps.new_zeros(len(trees))  # of the nodes above
    counts = [1] * len(trees)  # nodes above, by prompt
    levels: list[list[Tensor]] = []  # by level and prompt
    exits: list[list[Tensor]] = [[] for _ in trees]  # by prompt and level
    for level in range(max(len(tree.nodes) for tree in trees)):
        parents: list[int] = []
        tokens: list[int] = []
        inner: list[int] = []
        sizes: list[int] = []
        first = 0
        for tree, count in zip(trees, counts, strict=True):
            nodes = tree.nodes[level] if level < len(tree.nodes) else []
            inner += [len(parents) + place for place in (tree.inner[level] if nodes else [])]
            parents += [first + parent for parent, _ in nodes]
            tokens += [token for _, token in nodes]
            sizes.append(len(nodes))
            first += count
        above = torch.tensor(parents, device=device)
        chosen = torch.tensor(tokens, device=device)
        left = _exits(token_logps, sums, above, chosen, counts)
        for so_far, more in zip(exits, left, strict=True):
            so_far.append(more)
        here = sums[above] + token_logps[above, chosen]  # (nodes,)
        levels.append(list(here.split(sizes)))
        if not inner:
            break
        further = torch.tensor(inner, device=device)
        counts = [len(tree.inner[level]) if level < len(tree.inner) else 0 for tree in trees]
        cache.batch_select_indices(above[further])
        out = model(input_ids=chosen[further, None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        token_logps, sums = out.logits[:, -1].double().log_softmax(-1), here[further]
    return [
        (
            torch.stack([levels[level][number][place] for level, place in tree.ends]),
            torch.cat(exits[number]),
        )
        for number, tree in enumerate(trees)
    ]


def _exits(
    token_logps: Tensor, sums: Tensor, above: Tensor, chosen: Tensor, counts: Sequence[int]
) -> list[Tensor]:
    """Log-probs of leaving the tree at the nodes above, by prompt; `counts` nodes are of each."""
    leaving = torch.ones_like(token_logps, dtype=torch.bool)  # (nodes above, V)
    leaving[above, chosen] = False
    has_exit = leaving.any(-1)  # without one there is no sum to take
    rest = token_logps[has_exit].masked_fill(~leaving[has_exit], -torch.inf).logsumexp(-1)
    numbers = torch.repeat_interleave(torch.tensor(counts, device=above.device))
    of_prompt = numbers[has_exit].bincount(minlength=len(counts)).tolist()
    return list(torch.split(sums[has_exit] + rest, of_prompt))


@torch.no_grad()
def _compare_with_plain_pass(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[Sequence[int]]],
    table: PolicyTable,
) -> None:
    """Refuse a model whose cache changes what it says, by one of the longest responses."""
    lengths = {
        (number, place): len(ids)
        for number, answers in enumerate(responses)
        for place, ids in enumerate(answers)
    }
    number, place = max(lengths, key=lengths.__getitem__)
    prompt, response = list(prompts[number]), list(responses[number][place])
    ids = torch.tensor([prompt + response[:-1]], device=next(model.parameters()).device)
    logps = model(input_ids=ids).logits[0, len(prompt) - 1 :].double().log_softmax(-1)
    plain = logps.gather(1, ids.new_tensor(response)[:, None]).sum()
    tolerance = PARITY_TOLERANCE["bfloat16" if _is_half(model) else "float32"]
    apart = float((plain - table.log_probs[number][place]).abs())
    if not apart <= tolerance.allowed(len(response)):  # nan too
        raise ValueError(
            f"{type(model).__name__} computes other log-probs with its cache than without, "
            f"{apart:.3g} nats for a response of {len(response)} tokens: it has no table here"
        )


def _is_half(model: Any) -> bool:
    return next(model.parameters()).dtype in (torch.bfloat16, torch.float16)
