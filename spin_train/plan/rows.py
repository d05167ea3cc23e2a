"""The rows of a run before it starts: how many there are, and how long."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, read_records
from spin_train.errors import UserError
from spin_train.model.loading import model_limits
from spin_train.run.directory import RunDirectory
from spin_train.stages.prepare import prepare_data

__all__ = ["Rows", "assumed_rows", "rows_of", "with_samples"]


@dataclass(frozen=True)
class Rows:
    """Prompts with their human responses; ids are those of the data, or zeros."""

    train: Sequence[Record]
    """Rows to train on."""
    held_out: Sequence[Record]
    """Rows held out."""
    source: str
    """Where these come from, in words."""

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(row.prompt_ids) for rows in (self.train, self.held_out) for row in rows)


def rows_of(config: Config, *, watch: Callable[[int], None] = lambda rows: None) -> Rows:
    """Take the rows that a run has prepared, or prepare them in a temporary folder."""
    directory = RunDirectory(config.output_dir)
    if directory.data_summary.is_file():
        files = directory.train_rows, directory.held_out_rows
        train, held_out = (list(read_records(file)) for file in files)
        return Rows(train, held_out, f"as prepared in {directory.data}")
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "train.parquet", Path(folder) / "held_out.parquet"
        try:
            prepare_data(config, train=files[0], held_out=files[1], watch=watch)
        except UserError as error:
            raise UserError(f"{error} (without the data: --rows N assumes N rows)") from error
        train, held_out = (list(read_records(file)) for file in files)
        return Rows(train, held_out, f"read from {config.data.path}")


def assumed_rows(config: Config, count: int) -> Rows:
    """Assume so many rows, each as long as the configuration and the model allow."""
    context, _ = model_limits(config)
    prompt = min(config.data.max_prompt_tokens, context - config.generation.max_new_tokens)
    response = min(config.data.max_response_tokens, context - prompt)
    share = config.data.held_out
    held_out = max(1, round(count * share)) if share < 1 else int(share)
    if held_out >= count or prompt < 1:
        raise UserError(f"--rows {count}: {held_out} of them are held out; give more")
    train = min(count - held_out, config.data.rows or count)
    given = config.generation.engine == "given"
    responses = [_response("real", response)] + ([_response("given", response)] if given else [])
    rows = [Record(n, _ids(prompt), responses) for n in range(train + held_out)]
    return Rows(
        rows[:train],
        rows[train:],
        f"assumed, prompts of {prompt} tokens and responses of {response}",
    )


def with_samples(config: Config, rows: Sequence[Record], iteration: int) -> list[Record]:
    """Add the samples of an iteration to rows, as scoring does, as long as they may get."""
    generation = config.generation
    if generation.engine == "given":
        return [
            Record(
                row.prompt_id,
                row.prompt_ids,
                [
                    *row.of_role("real"),
                    *(_response("generated", len(one.ids)) for one in row.of_role("given")),
                ],
            )
            for row in rows
        ]
    own = generation.samples_per_prompt
    sample = _response("generated", generation.max_new_tokens)
    more = [sample] * (own * (1 + min(iteration, config.mixing)))
    if config.has_triplets:
        more += [_response("proto", generation.max_new_tokens)] * own
    return [Record(row.prompt_id, row.prompt_ids, [*row.of_role("real"), *more]) for row in rows]


@cache
def _ids(count: int) -> list[int]:
    """Make so many token ids, once: rows share them."""
    return [0] * count


def _response(role: str, tokens: int) -> Response:
    return Response(role, _ids(tokens), "length")
