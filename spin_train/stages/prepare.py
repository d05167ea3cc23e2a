"""Prepare: rows to records on disk, split by prompt; never all rows in memory."""

import hashlib
import json
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spin_train.config.schema import Config
from spin_train.config.sections import DataConfig
from spin_train.data.fields import Ignored
from spin_train.data.formats import RowError, SftRow
from spin_train.data.notes import COUNTS, counted, notes_on, without_effect
from spin_train.data.pairing import labelled_pairs
from spin_train.data.records import Record, Response, share_out, write_records
from spin_train.data.rendering import Renderer
from spin_train.data.sources import drop_or_raise, read_rows, source_of
from spin_train.data.splitting import (
    Conversations,
    alike,
    digest,
    prompt_text,
    response_texts,
    split_prompts,
)
from spin_train.errors import UserError
from spin_train.model.loading import ends_of_text, load_tokenizer, model_limits
from spin_train.run.graph import Stage
from spin_train.stages.work import Work
from spin_train.system.files import PARTIAL, write_json

__all__ = ["Limits", "prepare", "prepare_data", "prepare_rows"]

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


def prepare(work: Work, stage: Stage) -> list[Path]:
    """Render the rows of the data on rank 0; the other ranks wait at the end of the stage."""
    directory = work.run.directory
    if work.ranks.is_first:
        _prepare(work, stage)
    return [directory.train_rows, directory.held_out_rows, directory.data_summary]


def _prepare(work: Work, stage: Stage) -> None:
    directory = work.run.directory
    summary = prepare_data(
        work.config,
        train=directory.train_rows,
        held_out=directory.held_out_rows,
        watch=lambda rows: work.progress.report(stage.name, 0, 1, f"{rows} rows"),
    )
    write_json(directory.data_summary, summary)


def prepare_data(
    config: Config, *, train: Path, held_out: Path, watch: Callable[[int], None]
) -> dict[str, Any]:
    """Render the rows of a run into two files with its own tokenizer; returns its summary."""
    ends = ends_of_text(config)
    renderer = Renderer(
        load_tokenizer(config),
        config.template,
        arguments=config.template_arguments,
        today=config.template_date,
        ends=ends,
    )
    context, vocabulary = model_limits(config)
    summary = prepare_rows(
        config.data,
        renderer,
        Limits(context, config.generation.max_new_tokens, vocabulary),
        train=train,
        held_out=held_out,
        seed=config.seed,
        pairs=config.generation.engine == "given",
        watch=watch,
    )
    summary["notes"] += without_effect(config)
    if renderer.depends_on_date:
        summary["template_date"] = str(config.template_date)
    bare = summary["train"] + summary["held_out"] - summary["given"]
    if config.generation.engine == "given" and bare:
        raise UserError(
            f"generation.engine: given, but {bare} rows of {config.data.path} have no other "
            "response (generated, rejected)"
        )
    ends = [
        renderer.stop_id,
        *(end for end in ends if end != renderer.stop_id and end < vocabulary),
    ]
    return {**summary, "stop_id": renderer.stop_id, "stop_ids": ends}


def prepare_rows(
    data: DataConfig,
    renderer: Renderer,
    limits: Limits,
    *,
    train: Path,
    held_out: Path,
    seed: int,
    pairs: bool = False,
    watch: Callable[[int], None] = lambda rows: None,
) -> dict[str, Any]:
    """Render all rows, write the records to train on and those held out, and return counts.

    Each record holds its real response, and the given one if its row has one. With `pairs`, rows
    with labels are put together by prompt: a wanted response and an unwanted one. Raises
    `UserError` if a row is malformed or beyond a limit, there are too few rows, or tokenizer and
    model do not belong together.
    """
    if limits.max_new_tokens >= limits.context:
        raise UserError(
            f"generation.max_new_tokens={limits.max_new_tokens} leaves no room for a prompt in the "
            f"model's context of {limits.context} tokens; lower it"
        )
    pass_ = _Pass(data, renderer, limits, pairs, watch, Ignored(data.ignore))
    # Named as what a killed writer leaves, which is removed when the run goes on.
    rendered = train.with_name(f"rendered{PARTIAL}")
    try:
        write_records(rendered, pass_.records())
        if len(set(pass_.prompts)) < 2:
            count = len(pass_.prompts)
            why = "; ".join(counted(pass_.counts))
            raise UserError(
                f"{data.path} has {count} usable rows; it needs 2 distinct prompts"
                + (f". {why}" if why else "")
            )
        masks = pass_.split(seed)
        share_out(rendered, dict(zip((train, held_out), masks, strict=True)))
    finally:
        rendered.unlink(missing_ok=True)
    summary = {"source": source_of(data), **pass_.summary(*masks)}
    return {**summary, "notes": notes_on(data, summary)}


@dataclass
class _Pass:
    """One pass over the rows, which keeps the digest and the lengths of each."""

    data: DataConfig
    renderer: Renderer
    limits: Limits
    pairs: bool
    watch: Callable[[int], None]
    ignored: Ignored
    counts: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    prompts: list[bytes] = field(default_factory=list)
    responses: list[bytes] = field(default_factory=list)
    weights: "array[float]" = field(default_factory=lambda: array("d"))
    conversations: Conversations = field(default_factory=Conversations)
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    texts: Any = field(default_factory=hashlib.sha256)

    def records(self) -> Iterator[Record]:
        """Make records of the rows that are kept, in their order."""
        counts = self.counts
        seen: set[bytes] = set()
        rows = self._rows()
        for row in labelled_pairs(rows, counts) if self.pairs else rows:
            text = prompt_text(row)
            prompt = digest(text)
            whole = digest(json.dumps([text, *response_texts(row)]))
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
            self.texts.update((b"\n" if self.prompts else b"") + text.encode())
            self.prompts.append(prompt)
            self.responses.append(digest(alike(response_texts(row)[0])))
            self.weights.append(row.weight)
            self.conversations.add(row, prompt)
            lengths = {response.role: len(response.ids) for response in record.responses}
            self.lengths += array(
                "q", [len(record.prompt_ids), lengths["real"], lengths.get("given", -1)]
            )
            yield record

    def _rows(self) -> Iterator[SftRow]:
        """Read the rows that are to be learnt, with what the template renders of each."""
        counts = self.counts
        for row in read_rows(self.data, counts, ignore=self.ignored):
            if counts["rows"] % 1000 == 0:
                self.watch(counts["rows"])
            try:
                fitted, names = self.renderer.fitted(row)
            except RowError as error:
                drop_or_raise(error, self.data, counts)
                continue
            self.unused.update(name for name in {*row.unused, *names} if name not in self.ignored)
            if not row.weight:
                counts["dropped_weight_zero"] += 1
            elif row.label is False and not self.pairs:
                counts["dropped_unwanted"] += 1
            else:
                yield fitted

    def split(self, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Choose the rows to train on and those held out, (R,) each."""
        self.conversations.join()
        sides = split_prompts(
            self.prompts,
            held_out=self.data.held_out,
            rows=self.data.rows,
            seed=seed,
            conversation_of=self.conversations.of,
        )
        train, held_out = (np.array([p in side for p in self.prompts]) for side in sides)
        learnt, kept = (
            {text for text, chosen in zip(self.responses, mask, strict=True) if chosen}
            for mask in (train, held_out)
        )
        shared = np.array([text in learnt and text in kept for text in self.responses])
        self.counts["held_out_responses_in_training"] = int((shared & held_out).sum())
        if self.data.shared_responses == "drop":
            self.counts["dropped_shared_responses"] = int((shared & train).sum())
            train = train & ~shared
            if not train.any():
                raise UserError(
                    "data.shared_responses=drop leaves nothing to train on: every response is also "
                    "held out; set it to keep"
                )
        return train, held_out

    def summary(self, train: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> dict[str, Any]:
        """Count rows, and measure those on either side."""
        used = train | held_out
        prompt, response, given = np.array(self.lengths).reshape(-1, 3)[used].T
        summary = {
            **{name: self.counts[name] for name in COUNTS},
            "unused_fields": dict(sorted(self.unused.items())),
            "ignored_in_vain": self.ignored.in_vain,
            "left_out": int((~used).sum()) - self.counts["dropped_shared_responses"],
            "train": int(train.sum()),
            "train_prompts": len({self.prompts[row] for row in np.flatnonzero(train)}),
            "held_out": int(held_out.sum()),
            "given": int((given >= 0).sum()),
            "distinct_prompts": len(set(self.prompts)),
            "prompt_tokens": _statistics(prompt),
            "response_tokens": _statistics(response),
            "prompts_sha256": self.texts.hexdigest(),
        }
        weights = np.array(self.weights)[used]
        if (weights != 1).any():
            summary["weights"] = _statistics(weights)
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
        self._look_for_unknown(row, prompt_ids, real_ids)
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
        given = responses.get("given", []) if self.pairs else []
        self.counts["equal_pairs"] += given[:most] == real_ids[:most]
        return Record(
            row.number,
            kept_prompt,
            [
                Response(role, ids[:most], "stop" if len(ids) <= most else "length")
                for role, ids in responses.items()
            ],
            row.weight,
        )

    def _look_for_unknown(self, row: SftRow, prompt_ids: list[int], real_ids: list[int]) -> None:
        """Count rows with characters that the tokenizer does not know; refuse those of no other."""
        unknown = self.renderer.unknown_id
        if unknown is None or unknown not in (*prompt_ids, *real_ids):
            return
        if set(real_ids[:-1]) == {unknown}:
            raise RowError(f"{row.where}: the tokenizer knows no character of the response")
        self.counts["rows_with_unknown_tokens"] += 1

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


def _statistics(lengths: NDArray[Any]) -> dict[str, float]:
    return {
        "mean": round(float(lengths.mean()), 2),
        "median": float(np.median(lengths)),
        "95 %": float(np.percentile(lengths, 95)),
        "max": float(lengths.max()),
    }
