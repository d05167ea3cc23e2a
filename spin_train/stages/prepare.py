"""Prepare: rows to records on disk, split by prompt; never all rows in memory."""

import hashlib
import json
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spin_train.config.sections import DataConfig
from spin_train.data.formats import RowError, SftRow
from spin_train.data.records import Record, Response, share_out, write_records
from spin_train.data.rendering import Renderer
from spin_train.data.sources import drop_or_raise, read_rows, source_of
from spin_train.errors import UserError
from spin_train.model.loading import load_tokenizer, model_limits
from spin_train.run.graph import Stage
from spin_train.stages.work import Work
from spin_train.system.files import write_json

__all__ = ["Limits", "prepare", "prepare_rows", "split_prompts"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits on the length of a sequence."""

    context: int
    """Longest sequence the model takes, tokens."""
    max_new_tokens: int
    """Longest generated response, tokens."""
    vocabulary: int
    """Different token ids the model knows."""


def split_prompts(
    prompts: Sequence[bytes], *, held_out: float, rows: int | None, seed: int
) -> tuple[set[bytes], set[bytes]]:
    """Choose the prompts to train on and those held out, from the digest of each row's prompt.

    Prompts are put in the order of a digest of seed and prompt: the first are held out, the next
    are trained on. So nothing depends on the order of the rows, and a smaller `rows` gives a
    subset. `held_out` is a fraction of the distinct prompts below 1, and their number from 1 on.
    Raises `UserError` if either side would be empty, or fewer than `rows` prompts are left.
    """
    key = hashlib.sha256(repr(seed).encode()).digest()
    order = sorted(set(prompts), key=lambda prompt: hashlib.sha256(key + prompt).digest())
    wanted = int(held_out) if held_out >= 1 else max(1, round(held_out * len(order)))
    if wanted >= len(order):
        raise UserError(
            f"data.held_out asks for {wanted} of {len(order)} distinct prompts; "
            "leave some for training"
        )
    train = order[wanted:]
    if rows is not None and rows > len(train):
        raise UserError(
            f"data.rows asks for {rows} training prompts, but only {len(train)} are left "
            f"after holding out {wanted}: lower it, or set data.rows=null for all"
        )
    return set(train[:rows]), set(order[:wanted])


def prepare(work: Work, stage: Stage) -> list[Path]:
    """Render the rows of the data on rank 0; the other ranks wait at the end of the stage."""
    directory = work.run.directory
    if work.ranks.is_first:
        _prepare(work, stage)
    return [directory.train_rows, directory.held_out_rows, directory.data_summary]


def _prepare(work: Work, stage: Stage) -> None:
    config, directory = work.config, work.run.directory
    renderer = Renderer(load_tokenizer(config), config.template)
    context, vocabulary = model_limits(config)
    summary = prepare_rows(
        config.data,
        renderer,
        Limits(context, config.generation.max_new_tokens, vocabulary),
        train=directory.train_rows,
        held_out=directory.held_out_rows,
        seed=config.seed,
        watch=lambda rows: work.progress.report(stage.name, 0, 1, f"{rows} rows"),
    )
    bare = summary["train"] + summary["held_out"] - summary["given"]
    if config.generation.engine == "given" and bare:
        raise UserError(
            f"generation.engine: given, but {bare} rows of {config.data.path} have no other "
            "response (generated, rejected)"
        )
    write_json(directory.data_summary, {**summary, "stop_id": renderer.stop_id})


def prepare_rows(
    data: DataConfig,
    renderer: Renderer,
    limits: Limits,
    *,
    train: Path,
    held_out: Path,
    seed: int,
    watch: Callable[[int], None] = lambda rows: None,
) -> dict[str, Any]:
    """Render all rows, write the records to train on and those held out, and return counts.

    Each record holds its real response, and the given one if its row has one. Raises `UserError`
    if a row is malformed or beyond a limit, there are too few rows, or tokenizer and model do
    not belong together.
    """
    if limits.max_new_tokens >= limits.context:
        raise UserError(
            f"generation.max_new_tokens={limits.max_new_tokens} leaves no room for a prompt in the "
            f"model's context of {limits.context} tokens; lower it"
        )
    pass_ = _Pass(data, renderer, limits, watch)
    # Named as what a killed writer leaves, which is removed when the run goes on.
    rendered = train.with_name("rendered.partial")
    try:
        write_records(rendered, pass_.records())
        if len(set(pass_.prompts)) < 2:
            count = len(pass_.prompts)
            raise UserError(f"{data.path} has {count} usable rows; it needs 2 distinct prompts")
        sides = split_prompts(pass_.prompts, held_out=data.held_out, rows=data.rows, seed=seed)
        masks = [np.array([prompt in side for prompt in pass_.prompts]) for side in sides]
        share_out(rendered, dict(zip((train, held_out), masks, strict=True)))
    finally:
        rendered.unlink(missing_ok=True)
    return {"source": source_of(data), **pass_.summary(*masks)}


_COUNTS = (
    "rows",
    "dropped_malformed",
    "dropped_too_long",
    "truncated_prompts",
    "truncated_responses",
    "repeated_rows",
    "dropped_repeated",
    "ignored_tool_turns",
    "dropped_turns_after_response",
)


@dataclass
class _Pass:
    """One pass over the rows, which keeps the digest and the lengths of each."""

    data: DataConfig
    renderer: Renderer
    limits: Limits
    watch: Callable[[int], None]
    counts: Counter[str] = field(default_factory=Counter)
    prompts: list[bytes] = field(default_factory=list)
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    texts: Any = field(default_factory=hashlib.sha256)

    def records(self) -> Iterator[Record]:
        """Make records of the rows that are kept, in their order."""
        counts = self.counts
        seen: set[bytes] = set()
        for row in read_rows(self.data, counts):
            if counts["rows"] % 1000 == 0:
                self.watch(counts["rows"])
            prompt_text = json.dumps(row.messages)
            prompt = _digest(prompt_text)
            whole = _digest(json.dumps([prompt_text, row.response, row.given]))
            counts["repeated_rows"] += whole in seen
            if {"none": None, "prompt": prompt, "row": whole}[self.data.deduplicate] in seen:
                counts["dropped_repeated"] += 1
                continue
            try:
                record = self._record(row)
            except RowError as error:
                drop_or_raise(error, self.data, counts)
                continue
            if record is None:
                counts["dropped_too_long"] += 1
                continue
            seen |= {prompt, whole}
            counts["ignored_tool_turns"] += row.ignored_turns
            counts["dropped_turns_after_response"] += row.dropped_turns
            self.texts.update((b"\n" if self.prompts else b"") + prompt_text.encode())
            self.prompts.append(prompt)
            lengths = {response.role: len(response.ids) for response in record.responses}
            self.lengths += array(
                "q", [len(record.prompt_ids), lengths["real"], lengths.get("given", -1)]
            )
            yield record
        if counts["ignored_tool_turns"]:
            _LOG.warning(
                "%s: %d tool turns were left out", self.data.path, counts["ignored_tool_turns"]
            )

    def summary(self, train: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> dict[str, Any]:
        """Count rows, and measure those on either side."""
        used = train | held_out
        prompt, response, given = np.array(self.lengths).reshape(-1, 3)[used].T
        summary = {
            **{name: self.counts[name] for name in _COUNTS},
            "left_out": int((~used).sum()),
            "train": int(train.sum()),
            "held_out": int(held_out.sum()),
            "given": int((given >= 0).sum()),
            "distinct_prompts": len(set(self.prompts)),
            "prompt_tokens": _statistics(prompt),
            "response_tokens": _statistics(response),
            "prompts_sha256": self.texts.hexdigest(),
        }
        if (given >= 0).any():
            summary["given_tokens"] = _statistics(given[given >= 0])
        return summary

    def _record(self, row: SftRow) -> Record | None:
        prompt_ids, real_ids = self.renderer.render(row)
        responses = {"real": real_ids}
        if row.given is not None:
            responses["given"] = self.renderer.render_given(row)
        largest = max(map(max, (prompt_ids, *responses.values())))
        if largest >= self.limits.vocabulary:
            raise UserError(
                f"the tokenizer produces token id {largest}, but the model has only "
                f"{self.limits.vocabulary} ids: they do not belong together"
            )
        longest = max(map(len, responses.values()))
        problem = self._too_long(len(prompt_ids), longest)
        if problem and self.data.too_long == "error":
            raise UserError(
                f"{row.where}: {problem}, or set data.too_long=drop to drop such rows, "
                "or data.too_long=truncate to cut them"
            )
        if problem and self.data.too_long == "drop":
            return None
        kept_prompt, most = self._cut(prompt_ids)
        self.counts["truncated_prompts"] += len(kept_prompt) < len(prompt_ids)
        self.counts["truncated_responses"] += sum(len(ids) > most for ids in responses.values())
        return Record(
            self.counts["rows"] - 1,
            kept_prompt,
            [
                Response(role, ids[:most], "stop" if len(ids) <= most else "length")
                for role, ids in responses.items()
            ],
        )

    def _too_long(self, prompt: int, response: int) -> str:
        longest = prompt + max(response, self.limits.max_new_tokens)
        if prompt > self.data.max_prompt_tokens:
            return f"the prompt has {prompt} tokens, over data.max_prompt_tokens; raise it"
        if response > self.data.max_response_tokens:
            return f"the response has {response} tokens, over data.max_response_tokens; raise it"
        if longest > self.limits.context:
            return (
                f"prompt and response take up to {longest} tokens (generation.max_new_tokens "
                f"included), over the model's context of {self.limits.context}; lower the limits"
            )
        return ""

    def _cut(self, prompt_ids: list[int]) -> tuple[list[int], int]:
        """End of the prompt, and how many tokens of a response are left next to it."""
        room = self.limits.context - self.limits.max_new_tokens
        kept = prompt_ids[-min(self.data.max_prompt_tokens, room) :]
        return kept, min(self.data.max_response_tokens, self.limits.context - len(kept))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _statistics(lengths: NDArray[np.int64]) -> dict[str, float]:
    return {
        "mean": round(float(lengths.mean()), 2),
        "median": float(np.median(lengths)),
        "95 %": float(np.percentile(lengths, 95)),
        "max": float(lengths.max()),
    }
