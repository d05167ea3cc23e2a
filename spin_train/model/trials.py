"""Ways to compute log-probs, tried on random groups as long as the rows to come."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from spin_train.errors import StoppedError, UserError, one_line, out_of_memory
from spin_train.model.exactness import (
    exact_tolerance,
    first_exact,
    is_narrow,
    is_sharded,
    measured_tolerance,
    widened,
)
from spin_train.model.packing import Group

_LOG = logging.getLogger(__name__)

__all__ = [
    "Trial",
    "announce_rows",
    "context_of",
    "length_for_rows",
    "length_to_try",
    "random_groups",
]

# Nats by which other responses may change a log-prob, in any type. Seen: 0; 3e-3 through a state.
_BLIND_TOLERANCE = 1e-6
# In a narrow type a way may be off by so many times what the plain forward pass is off.
_OWN_ROUNDING = 4
# Per token, the most of all responses, between two ways that each round. Seen on a model of 135
# million parameters in bfloat16: 0.26 nats where the plain forward pass is 0.1 off.
_BETWEEN_ROUNDINGS = 6
# Nats per token, root mean square, that are rounding in a narrow type whatever was measured.
_LEAST_ROUNDING = 0.01
_SHORTEST = 90  # tokens; some faults need a few blocks of a mask or a chunk to show
_LONGEST_RESPONSE = 512  # tokens; whole rows of logits are computed for each of them
_CONTEXTS = (
    *("max_position_embeddings", "max_seq_len", "max_sequence_length", "n_positions", "n_ctx"),
    *("max_seq_length", "seq_length", "context_length", "max_target_positions"),
)
# Of the responses of the random groups, the last of each.
_LAST = [1, 3, 5]

# Tokens of the longest row to come, where it was announced.
_announced: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()

Way = TypeVar("Way")
_Logps = list[Tensor]


def context_of(settings: Any) -> int | None:
    """Longest row that a text configuration allows, tokens; None if it names none."""
    found = (getattr(settings, name, None) for name in _CONTEXTS)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def length_to_try(settings: Any, longest: int) -> int:
    """Tokens of the longest row to try, at least `longest`; few lengths, so few trials."""
    length = _SHORTEST
    while length < longest:
        length *= 2
    return max(longest, min(length, context_of(settings) or length))


def announce_rows(module: nn.Module, longest: int) -> None:
    """Say how long the rows to come are at most, so that one trial serves all of them."""
    _announced[module] = longest


def length_for_rows(module: Any, longest: int) -> int:
    """Tokens of the longest row to try a model on, before rows of up to `longest` tokens."""
    settings = module.config.get_text_config()
    announced = _announced.get(module, 0)
    # Under ZeRO-3 all ranks must try at the same calls, so only what all of them know counts.
    if longest <= announced or is_sharded(module):
        shortest = min(_SHORTEST, context_of(settings) or _SHORTEST)
        return max(shortest, min(announced, context_of(settings) or announced))
    return length_to_try(settings, longest)


def random_groups(settings: Any, length: int) -> list[Group]:
    """Make three groups: one row as long as that, a short neighbour, and a long response."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(settings.vocab_size, (max(1, count),), generator=generator).tolist()

    longer, own = min(30, length // 3), min(length // 2, _LONGEST_RESPONSE)
    return [
        Group(ids(length - longer), [ids(longer), ids(longer // 2 + 1)]),
        Group(ids(min(5, length // 2)), [ids(1), ids(min(4, longer))]),
        Group(ids(length // 4), [ids(own), ids(own // 2)]),
    ]


class Trial(Generic[Way]):
    """Compares ways to compute log-probs with forward passes of one response each.

    `module` is in evaluation mode. `alone` and `by` give the log-probs (T,) of the tokens of each
    response of some groups, `alone` in a forward pass of its own, `by` all at once.
    """

    def __init__(
        self,
        module: Any,
        length: int,
        alone: Callable[[Sequence[Group]], _Logps],
        by: Callable[[Way, Sequence[Group]], _Logps],
    ) -> None:
        self._module = module
        self._length = length
        self._groups = random_groups(module.config.get_text_config(), length)
        self._alone = alone
        self._by = by

    def first_exact(self, ways: Mapping[str, Way], nothing: str) -> Way:
        """Pick the first way that is exact; UserError with the message `nothing` without one."""
        expected = self._plainly()
        try:
            return self._first_exact(expected, ways, nothing)
        except UserError:
            self._refuse_seeing_ahead()
            raise

    def _first_exact(self, expected: _Logps, ways: Mapping[str, Way], nothing: str) -> Way:
        if is_narrow(self._module):
            with widened(self._module) as wide:
                truth = None if wide is None else self._alone(self._groups)
            if truth is not None:
                flaw = self._against_wider(truth, expected)
                return first_exact(self._module, ways, flaw, nothing)
        tolerance = exact_tolerance(self._module)
        try:
            return first_exact(self._module, ways, self._against(expected, tolerance), nothing)
        except UserError:
            wider = measured_tolerance(self._module, lambda: self._alone(self._groups))
            if wider <= tolerance:
                raise
            return first_exact(self._module, ways, self._against(expected, wider), nothing)

    def _plainly(self) -> _Logps:
        """Compute what ways are compared with; UserError where the model itself cannot."""
        name = f"model: {type(self._module).__name__}"
        try:
            logps = self._alone(self._groups)
        except (UserError, StoppedError):
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            raise UserError(
                f"{name} cannot compute a row of {self._length} tokens ({type(error).__name__}: "
                f"{one_line(error, 200)}); if its context is shorter, lower data.max_prompt_tokens "
                "and data.max_response_tokens"
            ) from error
        if not all(part.isfinite().all() for part in logps):
            raise UserError(
                f"{name} gives log-probs that are not finite: its weights are broken, or "
                "training.dtype is too narrow for it; try training.dtype=float32"
            )
        return logps

    def _refuse_seeing_ahead(self) -> None:
        """Raise UserError if log-probs depend on later tokens, which explains every difference."""
        *_, (prompt, responses) = ((g.prompt_ids, g.responses) for g in self._groups)
        half = len(responses[0]) // 2
        changed = responses[0][:half] + responses[0][half:][::-1]
        now, then = self._alone([Group(prompt, [responses[0]]), Group(prompt, [changed])])
        difference = (now[:half] - then[:half]).abs().max().item()
        if difference > exact_tolerance(self._module):
            raise UserError(
                f"model: {type(self._module).__name__} sees the tokens that follow (they change a "
                f"log-prob by {difference:.2g} nats), as encoders do: give a causal language model"
            )

    def _against(self, expected: _Logps, tolerance: float) -> Callable[[Way], str]:
        """Give what is wrong with a way, in the type that the model has now."""

        def flaw(way: Way) -> str:
            logps = self._by(way, self._groups)
            others = self._by(way, _neighbours_changed(self._groups))
            seen = max((others[i].sum() - logps[i].sum()).abs().item() for i in _LAST)
            pairs = zip(logps, expected, strict=True)
            error = max(
                (ours.sum() - theirs.sum()).abs().item() / len(ours) for ours, theirs in pairs
            )
            if error <= tolerance and seen <= _BLIND_TOLERANCE:
                return ""
            return f"off by {error:.2g} nats per token; other responses change it by {seen:.2g}"

        return flaw

    def _against_wider(self, truth: _Logps, plain: _Logps) -> Callable[[Way], str]:
        """Do the same for a narrow type, against the log-probs of the same weights in a wide one.

        In the wide type a way is as exact as that type allows. In the model's own it is not much
        further from the truth than the plain forward pass.
        """
        rounding = _rms(plain, truth)
        allowed = max(_LEAST_ROUNDING, _OWN_ROUNDING * rounding)
        between = max(exact_tolerance(self._module), _BETWEEN_ROUNDINGS * rounding)

        def flaw(way: Way) -> str:
            error = _rms(self._by(way, self._groups), truth)
            if not error <= allowed:
                return f"off by {error:.2g} nats per token, where rounding explains {rounding:.2g}"
            own = self._against(plain, between)(way)
            if own:
                return own
            with widened(self._module):
                try:
                    return self._against(truth, exact_tolerance(self._module))(way)
                except (NotImplementedError, RuntimeError) as error:  # a kernel without a wide type
                    name, reason = type(self._module).__name__, one_line(error, 200)
                    _LOG.warning("%s: not compared in the wider type (%s)", name, reason)
                    return ""

        return flaw


def _rms(logps: _Logps, truth: _Logps) -> float:
    """Root mean square difference of two lists of log-probs, nats per token."""
    difference = torch.cat(logps).double() - torch.cat(truth).double()
    return difference.square().mean().sqrt().item()


def _neighbours_changed(groups: Sequence[Group]) -> list[Group]:
    """Give the last response of each group other neighbours of the same length."""
    return [
        Group(group.prompt_ids, [group.responses[0][::-1], group.responses[1]]) for group in groups
    ]
