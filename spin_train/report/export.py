"""The pairs of an iteration as text, in the forms that other programs read.

The official SPIN code reads ``real`` and ``generated``, each a chat of one user's turn and one
answer; of a longer chat it would learn later turns as part of the answer. TRL's DPOTrainer reads
``prompt`` (a chat), ``chosen`` and ``rejected`` (an answer each). Whatever a form cannot carry is
counted. Every text is also read back with the run's own renderer, so that it is known how many
tokens come back as they were.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from spin_train.config.schema import Config
from spin_train.data.formats import RowError, SftRow
from spin_train.data.pairing import labelled_pairs
from spin_train.data.records import Record, Response, read_records
from spin_train.data.rendering import Renderer
from spin_train.data.sources import read_rows, source_of
from spin_train.data.turns import Message
from spin_train.errors import UserError
from spin_train.run.frames import tokenizer_of
from spin_train.run.run import Run
from spin_train.sampling.play import stop_ids_of
from spin_train.system.files import read_object, write_directory

__all__ = ["WORDS", "Exported", "Form", "export"]

Form = Literal["spin", "trl"]
_COLUMNS = {"spin": ("real", "generated"), "trl": ("prompt", "chosen", "rejected")}
_SPLITS = {"train": "train", "held_out": "test"}
_CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ROWS = 512

WORDS = {
    "left_out_system": "pairs left out: with a system turn the official code misplaces the prompt",
    "left_out_turns": "pairs left out: several turns, of which the official code keeps the first",
    "left_out_tools": "pairs left out: tools, or turns with more than a role and a text",
    "left_out_proto": "proto responses of T-SPIN left out: a pair has two responses",
    "cut_samples": "samples were cut at max_new_tokens; who reads the text ends them",
    "weighted": "pairs have a weight other than 1: it is in the column weight, which others ignore",
    "prompts_otherwise": "prompts are read back by the run's own template as other tokens",
    "real_otherwise": "human responses are read back as other tokens",
    "generated_refused": "samples hold special tokens that this code would not read as text",
    "generated_otherwise": "samples are read back as other tokens than were sampled",
}
"""What is counted, in words."""


@dataclass(frozen=True)
class Exported:
    """What was written, and what could not be."""

    folder: Path
    iteration: int
    pairs: dict[str, int]
    """Pairs by split, `train` and `test`."""
    counts: dict[str, int]
    """By the keys of `WORDS`, only those above 0."""


def export(run: Run, form: Form, to: Path, *, iteration: int | None = None) -> Exported:
    """Write the pairs that an iteration trains on, and its held-out ones, into a new directory.

    `iteration` is the last one that is scored unless it is given. UserError where nothing is
    scored, where the rows of the data are gone or are others, and where `to` holds something.
    """
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise UserError(f"--to {to} exists; name a new directory")
    found = _last_scored(run) if iteration is None else iteration
    shards = {name: _shards(run, found, name) for name in _SPLITS}
    if run.manifest().is_gone(f"iter{found}/score"):
        raise UserError(
            f"the pairs of iteration {found} of {run.root} were removed by keep; choose "
            f"--iteration {_last_scored(run)}"
        )
    if not shards["train"]:
        raise UserError(
            f"iteration {found} of {run.root} is not scored yet, so it has no pairs; "
            "`spin-train status` says how far the run is"
        )
    work = _Export(run, form)
    pairs = {}
    with write_directory(to) as folder:
        for name, paths in shards.items():
            split = _SPLITS[name]
            pairs[split] = work.write(folder / f"{split}.parquet", read_records(*paths))
            if not pairs[split]:  # `datasets` refuses a split without rows
                (folder / f"{split}.parquet").unlink()
        counts = {name: work.counts[name] for name in WORDS if work.counts[name]}
        if not pairs["train"]:
            reasons = "; ".join(f"{count} {WORDS[name]}" for name, count in counts.items())
            raise UserError(f"no pair of iteration {found} fits --as {form}: {reasons}")
        exported = Exported(to, found, pairs, counts)
        (folder / "README.md").write_text(_card(run, form, exported), encoding="utf-8")
    return exported


def _shards(run: Run, iteration: int, split: str) -> list[Path]:
    return sorted((run.directory.iteration(iteration) / "scored").glob(f"{split}-*.parquet"))


def _last_scored(run: Run) -> int:
    scored = [k for k in range(run.config.iterations) if _shards(run, k, "train")]
    return max(scored, default=0)


def _require_same_data(config: Config, source: dict[str, Any]) -> None:
    """Refuse data that the run was not made of: tokens do not tell turns and roles."""
    path = config.data.path
    if "sha256" in source and not Path(path).exists():
        raise UserError(
            f"data.path: nothing lies at {path}; export takes the turns of each prompt from there"
        )
    now = source_of(config.data)
    for name in ("sha256", "commit"):
        if source.get(name) and source[name] != now.get(name):
            raise UserError(
                f"data.path: {path} is not what the run was made of ({name} {source[name]}, now "
                f"{now.get(name)}); put those rows back"
            )


class _Export:
    """One export: the rows of the data by number, a renderer, and what was counted."""

    def __init__(self, run: Run, form: Form) -> None:
        config, directory = run.config, run.directory
        _require_same_data(config, read_object(directory.data_summary).get("source", {}))
        self._form, self._stops = form, set(stop_ids_of(directory))
        self._tokenizer = tokenizer_of(config, directory)
        self._renderer = Renderer(
            self._tokenizer,
            config.template,
            arguments=config.template_arguments,
            today=config.template_date,
            ends=self._stops,
        )
        self._rows = {row.number: row for row in self._fitted(run)}
        self.counts: Counter[str] = Counter()

    def _fitted(self, run: Run) -> Iterator[SftRow]:
        def rows() -> Iterator[SftRow]:
            for row in read_rows(run.config.data):
                try:
                    yield self._renderer.fitted(row)[0]
                except RowError:  # dropped by the run as well
                    continue

        given = run.config.generation.engine == "given"
        return labelled_pairs(rows(), Counter()) if given else rows()

    def write(self, path: Path, records: Any) -> int:
        """Write the pairs of some records; how many there are comes back."""
        columns = [(name, _CHAT) for name in _COLUMNS[self._form]]
        weighted = any(record.weight != 1 for record in records)
        schema = pa.schema([*columns, *([("weight", pa.float64())] if weighted else [])])
        pairs, count = (pair for record in records for pair in self._pairs(record)), 0
        with pq.ParquetWriter(path, schema) as writer:
            while group := list(islice(pairs, _ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                count += len(group)
        return count

    def _pairs(self, record: Record) -> Iterator[dict[str, Any]]:
        row = self._rows.get(record.prompt_id)
        if row is None:
            raise UserError(f"row {record.prompt_id + 1} of the data is not there any more")
        (real,), samples = record.of_role("real"), record.of_role("generated")
        self.counts["left_out_proto"] += len(record.of_role("proto"))
        if problem := self._problem(row):
            self.counts[problem] += len(samples)
            return
        prompt_ids, real_ids = self._renderer.render(row)
        self.counts["prompts_otherwise"] += prompt_ids != record.prompt_ids
        self.counts["real_otherwise"] += real_ids != real.ids
        for sample in samples:
            text = self._text(sample)
            self.counts["cut_samples"] += sample.finish_reason != "stop"
            self.counts["weighted"] += record.weight != 1
            same = self._comes_back(row, text, sample)
            self.counts["generated_otherwise"] += same is False
            self.counts["generated_refused"] += same is None
            yield self._pair(row, text) | {"weight": record.weight}

    def _comes_back(self, row: SftRow, text: str, sample: Response) -> bool | None:
        """Say whether a sample is read back as its own tokens; None where it is refused."""
        try:
            again = self._renderer.render_given(replace(row, given=text, given_fields={}))
        except RowError:
            return None
        if sample.finish_reason != "stop":  # text does not say where it was cut
            again = again[:-1]
        return again == sample.ids

    def _problem(self, row: SftRow) -> str:
        """Name what the form cannot carry of a row; empty if it can carry all."""
        turns = row.messages
        if row.tools or row.fields or any(turn.keys() - {"role", "content"} for turn in turns):
            return "left_out_tools"
        if self._form == "trl":
            return ""
        if turns[0]["role"] == "system":
            return "left_out_system"
        return "left_out_turns" if len(turns) > 1 else ""

    def _pair(self, row: SftRow, text: str) -> dict[str, list[Message]]:
        answers = [[{"role": "assistant", "content": said}] for said in (row.response, text)]
        if self._form == "trl":
            return dict(zip(_COLUMNS["trl"], [row.messages, *answers], strict=True))
        chats = [[*row.messages, *answer] for answer in answers]
        return dict(zip(_COLUMNS["spin"], chats, strict=True))

    def _text(self, sample: Response) -> str:
        ids = sample.ids[:-1] if sample.ids[-1:] and sample.ids[-1] in self._stops else sample.ids
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def _card(run: Run, form: Form, found: Exported) -> str:
    """Say in the directory itself what it holds."""
    reader = {"spin": "the official SPIN code (uclaml/SPIN)", "trl": "TRL's DPOTrainer"}[form]
    sizes = ", ".join(f"{n} in `{name}.parquet`" for name, n in found.pairs.items() if n)
    lines = [
        f"# Pairs of iteration {found.iteration} for {reader}",
        "",
        f"Human responses, and those that `p_{found.iteration}` sampled: {sizes}.",
        f"Made by `spin-train export` from `{run.root}` ({run.config.algorithm}, data "
        f"`{run.config.data.path}`).",
        "",
        "A reader renders the chats with its own template and takes its own log-probs of them; "
        f"the run's template was {_template(run)}.",
        "",
        *(f"- {count} {WORDS[name]}" for name, count in found.counts.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _template(run: Run) -> str:
    return "that of the tokenizer" if run.config.template is None else f"`{run.config.template}`"
