"""What runs log: every name has its formula in docs/metrics.md, every number its meaning."""

import io
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from spin_train.config.files import parse_config
from spin_train.data.records import read_records
from spin_train.run.run import Run
from spin_train.run.tables import benchmark_table
from spin_train.system.files import read_lines, read_object, write_json
from tests.train.runs import make_config, run, succeed

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
ONE_BATCH = {"batch_size": 1000, "micro_batch_size": 7, "logging_steps": 1}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def evaluation_of(folder):
    return json.loads((folder / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def spin(tmp_path_factory):
    """SPIN with SFT and control on two ranks; every step is over all examples."""
    folder = tmp_path_factory.mktemp("spin")
    config = make_config(
        folder, ranks=2, zero_stage=2, control=True, iterations=1, epochs=3, training=ONE_BATCH
    )
    out = succeed("run", config)
    return folder / "run", config, out


@pytest.fixture(scope="module")
def tspin(tmp_path_factory):
    """T-SPIN at another temperature, no TensorBoard, 21 steps that are to be logged rarely."""
    folder = tmp_path_factory.mktemp("tspin")
    config = make_config(
        folder,
        algorithm="tspin",
        sft_weight=0.1,
        sft=None,
        iterations=1,
        epochs=3,
        generation={"max_new_tokens": 3, "temperature": 0.5},
        training={"logging_steps": 100, "report_to": "none"},
    )
    succeed("run", config)
    return folder / "run", config


def glossary():
    """Names in the first column of the tables of docs/metrics.md."""
    names = set()
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            names |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return names


def test_every_logged_name_is_in_the_glossary(spin, tspin):
    known, logged = glossary(), set()
    for root in (spin[0], tspin[0]):
        for path in root.rglob("metrics.jsonl"):
            logged |= {name for line in lines_of(path.parent) for name in line}
        for path in root.rglob("evaluation.json"):
            logged |= {
                name.removesuffix("_standard_error") for name in json.loads(path.read_text())
            }
        for path in root.rglob("speed.jsonl"):
            logged |= {name for line in read_lines(path) for name in line}
        stages = read_object(root / "manifest.json")["stages"].values()
        logged |= {name for record in stages for name in record["speed"]}
    assert {"loss", "logps/proto", "rewards/margin", "meter", "opponent_kl"} <= logged
    assert logged <= known, sorted(logged - known)
    # And the other way round: nothing is explained that nobody logs.
    of_benchmarks = {"task", "metric", "value", "standard_error", "num_fewshot", "limit"} | {
        *("chat_template", "questions", "task_version", "lm_eval_version", "metrics"),
        *("leaderboard", "v1", "tspin"),
    }
    of_answers = {
        "prompts",
        "tokens",
        "stopped",
        "max_new_tokens",
        "compared",
        "with_final",
        "final",
    }
    of_answers |= {f"exact_match{end}" for end in ("", "_low", "_high", "_confidence")}
    of_experts = {"loss/router"}  # tests/runs/test_experts.py logs it
    of_devices = {"device_memory"}  # tests/train/system/test_speed.py has one
    explained = of_benchmarks | of_answers | of_experts | of_devices
    assert known - logged <= explained, sorted(known - logged)


def test_metrics_are_means_over_all_ranks(spin):
    """At the first step policy and opponent are one, so its log-probs are those on disk."""
    shards = (spin[0] / "iter0" / "scored").glob("train-*.parquet")
    records = [record for shard in shards for record in read_records(shard)]
    first = lines_of(spin[0] / "iter0")[0]
    for name, role in (("logps/real", "real"), ("logps/generated", "generated")):
        stored = [record.of_role(role)[0].opponent_logps for record in records]
        assert first[name] == pytest.approx(sum(stored) / len(stored), abs=1e-4)
        # Half of them, as one rank alone has, would give another number.
        assert abs(sum(stored[::2]) / len(stored[::2]) - first[name]) > 1e-3


def test_the_last_step_is_logged_whatever_the_spacing(tspin):
    lines = lines_of(tspin[0] / "iter0")
    assert [line["step"] for line in lines] == [*range(2, 21, 2), 21]
    assert lines[-1]["epoch"] == 1.0


def test_report_to_none_writes_no_events(tspin):
    assert not (tspin[0] / "logs" / "tensorboard").exists()


def test_no_line_of_the_metrics_is_a_summary(spin):
    assert all("loss" in line for line in lines_of(spin[0] / "iter0"))
    assert not any("per_second" in name for line in lines_of(spin[0] / "iter0") for name in line)


def test_every_line_of_the_metrics_has_one_of_its_speed_with_the_memory_of_all_ranks(spin):
    stages = read_object(spin[0] / "manifest.json")["stages"]
    for folder in ("sft", "iter0", "control/iter0"):
        lines = read_lines(spin[0] / folder / "speed.jsonl")
        assert [line["step"] for line in lines] == [li["step"] for li in lines_of(spin[0] / folder)]
        assert all(len(line["peak_memory"]) == 2 for line in lines)
        speed = stages[f"{folder}/train"]["speed"]
        assert speed["tokens"] == sum(line["tokens"] for line in lines) > 0
        assert "speed.jsonl" not in str(stages[f"{folder}/train"]["files"])


def test_sampling_and_scoring_say_how_many_tokens_they_did(spin):
    stages = read_object(spin[0] / "manifest.json")["stages"]
    records = [r for p in (spin[0] / "iter0/scored").glob("*.parquet") for r in read_records(p)]
    sampled = [len(one.ids) for record in records for one in record.of_role("generated")]
    assert stages["iter0/generate"]["speed"]["tokens"] == sum(sampled)
    passed = [
        len(record.prompt_ids) + sum(len(one.ids) - 1 for one in record.responses)
        for record in records
    ]
    assert stages["iter0/score"]["speed"]["tokens"] == sum(passed)
    assert all(min(record["speed"]["peak_memory"]) > 2**20 for record in stages.values())
    speed = stages["iter0/score"]["speed"]
    seconds = stages["iter0/score"]["seconds"]
    assert speed["tokens_per_second"] == pytest.approx(speed["tokens"] / seconds, rel=0.01)


def test_another_temperature_is_named_in_file_and_table(tspin):
    numbers = evaluation_of(tspin[0] / "iter0")
    assert "opponent_kl" not in numbers
    assert any("temperature 0.5" in note for note in numbers["notes"])
    assert "temperature 0.5" in rendered(Run.open(tspin[0]).table())


def test_the_kl_of_the_policy_to_its_opponent_is_that_of_the_samples(spin):
    numbers = evaluation_of(spin[0] / "iter0")
    assert numbers["opponent_kl"] == -numbers["generated_log_ratio"]
    assert "opponent_kl" not in evaluation_of(spin[0] / "initial")


def test_results_hold_every_policy_as_json(spin):
    rows = json.loads((spin[0] / "results.json").read_text(), parse_constant=pytest.fail)
    assert [row["policy"] for row in rows] == ["p_0", "p_1", "control 1"]
    assert [row["folder"] for row in rows] == ["initial", "iter0", "control/iter0"]
    assert rows[1]["margin"] == evaluation_of(spin[0] / "iter0")["margin"]
    assert f"numbers: {spin[0]}/results.json" in spin[2]


def test_results_have_null_for_what_is_no_number_and_each_policys_benchmarks(tmp_path):
    content = {"model": "m", "data": {"path": "d"}, "output_dir": str(tmp_path), "control": True}
    values = {"initial": 1.5, "iter0": math.nan, "control/iter0": -math.inf}
    for place, value in values.items():
        write_json(tmp_path / place / "evaluation.json", {"real_logps": value})
        benchmark = {"value": len(place), "error": math.nan}
        write_json(tmp_path / place / "benchmark" / "task.json", benchmark)
    path = Run.of(parse_config(content)).write_results()
    rows = json.loads(path.read_text(), parse_constant=pytest.fail)
    expected = {
        "p_0": ("initial", 1.5),
        "p_1": ("iter0", None),
        "control 1": ("control/iter0", None),
    }
    assert rows == [
        {
            "policy": name,
            "folder": place,
            "real_logps": value,
            "benchmarks": {"task": {"value": len(place), "error": None}},
        }
        for name, (place, value) in expected.items()
    ]


def rendered(table, width=140):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def long_responses(spin, tmp_path_factory):
    """The run with numbers as wide as those of long responses."""
    tmp_path = tmp_path_factory.mktemp("long")
    shutil.copytree(spin[0], tmp_path / "run")
    wide = {"real_logps": -1234.567, "generated_logps": -1234.567, "opponent_kl": 123.4567}
    wide |= {"real_logps_standard_error": 12.345, "margin": -123.456, "real_tokens": 2047.0}
    wide |= {"margin_standard_error": 12.345, "generated_tokens": 1023.5}
    for path in (tmp_path / "run").rglob("evaluation.json"):
        numbers = json.loads(path.read_text())
        path.write_text(json.dumps(numbers | {k: v for k, v in wide.items() if k in numbers}))
    text = (tmp_path / "run" / "config.yaml").read_text()
    content = yaml.safe_load(text) | {"output_dir": str(tmp_path / "run")}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(content))
    return Run.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("wide", "width", "cells"),
    [
        (True, 140, ("-1235 ± 12", "-123 ± 12", "-1234.57", "1023.5", "123.457")),
        (False, 80, ("-123 ± 12",)),
    ],
)
def test_no_cell_of_the_table_of_results_is_broken(long_responses, wide, width, cells):
    table = rendered(long_responses.table(wide=wide), width)
    (row,) = [line for line in table.splitlines() if "│ p_1 " in line]
    for cell in cells:
        assert f" {cell} " in row
    assert "…" not in table
    assert "beta 0.5, learning rate 0.001" in table


def test_every_prompt_is_shown_with_the_human_response_and_each_policys(spin):
    found = [json.loads(line) for line in succeed("samples", spin[0], "--json").splitlines()]
    samples = Run.open(spin[0]).samples(0)
    held_out = samples[samples["split"] == "held_out"]
    assert len(found) == 8
    for answer in found:
        of_prompt = held_out[held_out["prompt_id"] == answer["prompt_id"]]
        assert set(of_prompt["prompt"]) == {answer["prompt"]}
        drawn = of_prompt[of_prompt["role"] == "generated"]
        assert [one["response"] for one in answer["answers"]["p_0"]] == list(drawn["response"])
        assert answer["human"] == list(of_prompt[of_prompt["role"] == "real"]["response"])


def test_a_run_says_what_it_is_and_how_far(spin):
    text = repr(Run.open(spin[0]))
    assert "spin, beta 0.5, learning rate 0.001; 1 of 1 iterations evaluated; best p_" in text


def test_a_run_without_benchmarks_has_no_table_of_them(spin):
    assert benchmark_table(Run.open(spin[0]).listed) is None


def events_of(folder):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_the_metrics_of_every_stage_and_no_policy_has_events(spin):
    for stage in ("sft", "iter0", "control/iter0"):
        events = events_of(spin[0] / "logs" / "tensorboard" / stage)
        logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
        lines = [(line["step"], line["loss"]) for line in lines_of(spin[0] / stage)]
        assert [step for step, _ in logged] == [step for step, _ in lines]
        assert [value for _, value in logged] == pytest.approx([loss for _, loss in lines])
        speeds = read_lines(spin[0] / stage / "speed.jsonl")
        shown = [event.value for event in events.Scalars("train/speed/tokens_per_second")]
        assert shown == pytest.approx([line["tokens_per_second"] for line in speeds])
    written = list(spin[0].rglob("events.out*"))
    for k in (0, 1):  # p_0 as the opponent, and the last policy
        samples = events_of(spin[0] / "logs" / "tensorboard" / "samples" / f"p_{k}")
        assert [event.step for event in samples.Tensors("samples/text_summary")] == [k]
    assert len(written) == 5  # one rank writes, and nowhere else
    assert all(path.is_relative_to(spin[0] / "logs" / "tensorboard") for path in written)


def test_a_reporter_that_is_not_installed_is_named_before_anything_starts(tmp_path):
    config = make_config(tmp_path)
    code, _, err = run("run", config, "training.report_to=comet_ml")
    assert code == 2
    assert "comet_ml" in err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()
