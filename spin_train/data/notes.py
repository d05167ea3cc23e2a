"""What a person should know of the rows that were prepared, in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.config.sections import DataConfig

__all__ = ["COUNTS", "counted", "notes_on", "without_effect"]

COUNTS = (
    "rows",
    "dropped_malformed",
    "dropped_weight_zero",
    "dropped_unwanted",
    "dropped_unpaired",
    "dropped_too_long",
    "truncated_prompts",
    "truncated_responses",
    "repeated_rows",
    "dropped_repeated",
    "ignored_tool_turns",
    "dropped_turns_after_response",
    "rows_with_unknown_tokens",
    "equal_pairs",
    "dropped_shared_responses",
    "held_out_responses_in_training",
)
"""What is counted of the rows, in the order of the summary."""

_COUNTED = {
    "dropped_malformed": "malformed rows were left out (data.malformed=drop)",
    "dropped_too_long": "rows beyond the limits were left out (data.too_long=drop)",
    "dropped_weight_zero": "rows were left out: their weight is 0, or they are not to be learnt",
    "dropped_unwanted": "rows were left out: their label says that the response is unwanted "
    "(generation.engine=given makes pairs of both labels)",
    "dropped_unpaired": "rows were left out: no row of the same prompt has the other label",
    "ignored_tool_turns": "turns of tools were left out: the template cannot render them",
    "dropped_turns_after_response": "turns that follow the response were left out",
    "truncated_prompts": "prompts were cut (data.too_long=truncate)",
    "truncated_responses": "responses were cut (data.too_long=truncate)",
    "rows_with_unknown_tokens": "rows hold characters that the tokenizer does not know",
    "equal_pairs": "rows give the same response as wanted and as unwanted, which teaches nothing",
    "dropped_shared_responses": "training rows were left out: their response is also held out",
}


def counted(counts: Mapping[str, int]) -> list[str]:
    """Say in words what was left out, cut or not known."""
    return [f"{counts[name]} {text}" for name, text in _COUNTED.items() if counts[name]]


def notes_on(data: DataConfig, summary: dict[str, Any]) -> list[str]:
    """Name what was left out or is not used, from the counts of ``data/summary.json``."""
    notes = counted(summary)
    if in_vain := summary["ignored_in_vain"]:
        notes.append(f"data.ignore names what no row has: {', '.join(in_vain)}; correct the name")
    if unused := summary["unused_fields"]:
        named = ", ".join(f"{name or '(no name)'} ({count} rows)" for name, count in unused.items())
        notes.append(f"fields of rows that nothing uses: {named}; data.ignore silences them")
    if data.rows is not None and summary["train_prompts"] < data.rows:
        notes.append(
            f"data.rows asks for {data.rows} training prompts, but there are only "
            f"{summary['train_prompts']}"
        )
    if left := summary.get("source", {}).get("files_not_read"):
        notes.append(f"files of the folder that no split reads: {', '.join(left)}")
    shared = summary["held_out_responses_in_training"]
    if shared and data.shared_responses == "keep":
        notes.append(
            f"{shared} of {summary['held_out']} held-out responses stand word for word in training "
            "rows, so held-out numbers flatter; data.shared_responses=drop leaves those rows out"
        )
    if "weights" in summary:
        notes.append(
            f"rows have weights (mean {summary['weights']['mean']:g}): each multiplies the loss of "
            "its pairs; held-out numbers count every row once"
        )
    return notes


def without_effect(config: Config) -> list[str]:
    """Name settings of data sets and models on the hub that are given for local ones."""
    data, model = Path(config.data.path), Path(config.model)
    notes = []
    if data.is_file() or data.is_dir():
        kind = "file" if data.is_file() else "folder"
        of_the_hub = {"data.revision": config.data.revision}
        if data.is_file():
            split = config.data.split
            of_the_hub["data.split"] = None if split == "train" else split
            of_the_hub["data.subset"] = config.data.subset
        if given := [name for name, value in of_the_hub.items() if value is not None]:
            notes.append(f"without effect, as data.path is a local {kind}: {', '.join(given)}")
    if config.model_revision is not None and model.is_dir():
        notes.append("without effect, as model is a local folder: model_revision")
    return notes
