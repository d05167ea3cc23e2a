"""The command line from end to end on a tiny model."""

import json
import math
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spin_theory.losses import spin_loss
from spin_train.config.files import load_config
from spin_train.data.records import read_records, write_records
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.model.logps import Group, response_logps
from spin_train.run.run import Run
from tests.train.runs import losses, make_config, make_model, run, start, succeed, weights

pytestmark = pytest.mark.process

# One iteration, no SFT: what little a test of messages needs.
SHORT = {"sft": None, "iterations": 1}


def refused(*arguments, **options):
    """The one line of a run that ends with exit code 2."""
    code, out, err = run(*arguments, **options)
    lines = [line for line in err.strip().splitlines() if "Traceback" not in line]
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    assert lines[-1].startswith("spin-train: ")
    return lines[-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A SPIN run: SFT, two iterations with mixing, the control, two ranks, ZeRO-2."""
    folder = tmp_path_factory.mktemp("finished")
    config = make_config(folder, ranks=2, zero_stage=2, mixing=1, control=True)
    before = set(Path("/dev/shm").glob("deepspeed_*"))
    out = succeed("run", config)
    left = sorted(map(str, set(Path("/dev/shm").glob("deepspeed_*")) - before))
    (folder / "shared_memory.json").write_text(json.dumps(left))
    return folder, config, out


def records_of(folder, pattern):
    return [r for path in sorted(folder.glob(pattern)) for r in read_records(path)]


def test_policy_holds_weights_config_and_tokenizer_and_loads(finished):
    policy = finished[0] / "run" / "iter1" / "policy"
    assert {path.name for path in policy.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    _, report = AutoModelForCausalLM.from_pretrained(policy, output_loading_info=True)
    assert not any(report.values())
    assert AutoTokenizer.from_pretrained(policy).eos_token == "<eos>"


def test_a_run_leaves_no_shared_memory_behind(finished):
    """DeepSpeed's buffers, 66 MiB per rank, would fill it run by run."""
    assert json.loads((finished[0] / "shared_memory.json").read_text()) == []


def test_every_stage_is_in_the_manifest(finished):
    manifest = json.loads((finished[0] / "run" / "manifest.json").read_text())
    assert list(manifest["stages"]) == [
        "data/prepare",
        "sft/train",
        "initial/evaluate",
        *(f"iter0/{kind}" for kind in ("generate", "score", "train", "evaluate")),
        *(f"control/iter0/{kind}" for kind in ("train", "evaluate")),
        *(f"iter1/{kind}" for kind in ("generate", "score", "train", "evaluate")),
        *(f"control/iter1/{kind}" for kind in ("train", "evaluate")),
    ]


def test_mixed_in_samples_are_scored_by_the_new_opponent(finished):
    folder = finished[0] / "run"
    records = records_of(folder / "iter1" / "scored", "train-*.parquet")
    assert [r.iteration for r in records[0].of_role("generated")] == [1, 0]
    opponent = AutoModelForCausalLM.from_pretrained(folder / "iter0" / "policy").double().eval()
    for record in records[:5]:
        group = Group(record.prompt_ids, [r.ids for r in record.responses])
        stored = torch.tensor([r.opponent_logps for r in record.responses], dtype=torch.float64)
        torch.testing.assert_close(response_logps(opponent, [group]), stored, atol=1e-4, rtol=0)


def test_logged_loss_is_the_dense_float64_mean_over_the_global_batch(finished):
    """With every example in one batch the first loss does not depend on their order."""
    folder = finished[0]
    other = folder / "one_batch"
    settings = {"batch_size": 1000, "micro_batch_size": 7, "save_steps": 3, "logging_steps": 1}
    config = make_config(folder, **SHORT, output_dir=str(other), training=settings, epochs=2)
    succeed("run", config)
    records = records_of(other / "iter0" / "scored", "train-*.parquet")
    model = AutoModelForCausalLM.from_pretrained(folder / "model").double().eval()
    pairs = [Group(r.prompt_ids, [s.ids for s in r.responses]) for r in records]
    policy = torch.stack([response_logps(model, [pair]) for pair in pairs])
    stored = [[s.opponent_logps for s in r.responses] for r in records]
    opponent = torch.tensor(stored, dtype=torch.float64)
    expected = spin_loss(
        policy_real_logps=policy[:, 0],
        policy_generated_logps=policy[:, 1],
        opponent_real_logps=opponent[:, 0],
        opponent_generated_logps=opponent[:, 1],
        beta=0.5,
    ).mean()
    assert losses(other, "iter0")[1] == pytest.approx(expected.item(), abs=1e-5)
    # Step 2 is after a warm-up step of learning rate 0: the same loss once more.
    assert losses(other, "iter0")[2] == pytest.approx(expected.item(), abs=1e-5)


def test_control_trains_as_many_steps_on_the_same_learning_rates(finished):
    folder = finished[0] / "run"
    for k in range(2):
        lines = {}
        for name in (f"iter{k}", f"control/iter{k}"):
            rows = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
            lines[name] = [(r["step"], r["learning_rate"]) for r in rows if "loss" in r]
        first, second = lines.values()
        assert first == second


def test_the_same_command_on_a_finished_run_changes_nothing(finished):
    folder, _, _ = finished
    before = weights(folder / "run")
    succeed("run", make_config(folder, ranks=2, zero_stage=2, mixing=1, control=True))
    assert weights(folder / "run") == before


def test_more_iterations_go_on_from_a_finished_run_that_was_moved(finished, tmp_path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    arguments = {"ranks": 2, "zero_stage": 2, "mixing": 1, "control": True, "iterations": 3}
    succeed("run", make_config(finished[0], **arguments, output_dir=str(tmp_path / "run")))
    old, new = weights(finished[0] / "run"), weights(tmp_path / "run")
    assert "iter2/policy/model.safetensors" in new
    assert old.items() <= new.items()


def test_a_changed_config_is_refused_by_the_names_of_its_keys(finished):
    folder, config, _ = finished
    line = refused("run", config, "output_dir=" + str(folder / "run"), "beta=0.7", "seed=1")
    assert "beta: 0.5 -> 0.7" in line
    assert "seed: 42 -> 1" in line


def test_scores_of_another_checkpoint_are_refused_at_step_zero(tmp_path):
    config = make_config(tmp_path, **SHORT)
    folder = tmp_path / "run"
    process = start("run", config)
    scored = folder / "iter0" / "scored"
    manifest = folder / "manifest.json"
    while process.poll() is None:
        if manifest.exists() and "iter0/score" in manifest.read_text():
            break
    process.kill()
    process.communicate()
    shutil.rmtree(folder / "iter0" / "policy", ignore_errors=True)
    shutil.rmtree(folder / "iter0" / "checkpoints", ignore_errors=True)
    make_model(tmp_path / "other", seed=1)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    for shard in scored.glob("train-*.parquet"):
        records = read_records(shard)
        swapped = [
            record.with_logps(
                response_logps(
                    other, [Group(record.prompt_ids, [r.ids for r in record.responses])]
                ).tolist()
            )
            for record in records
        ]
        write_records(shard, swapped)
    # Other bytes of the same length, as far as the manifest can tell.
    content = json.loads(manifest.read_text())
    for name, file in content["stages"]["iter0/score"]["files"].items():
        file["bytes"] = (folder / name).stat().st_size
    manifest.write_text(json.dumps(content))
    line = refused("run", config)
    assert "step-0 check" in line
    assert not (folder / "iter0" / "policy").exists()


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(tmp_path, zero_stage):
    one = make_config(tmp_path, **SHORT, output_dir=str(tmp_path / "one"))
    succeed("run", one)
    two = make_config(
        tmp_path, **SHORT, output_dir=str(tmp_path / "two"), ranks=2, zero_stage=zero_stage
    )
    succeed("run", two)
    alone, together = losses(tmp_path / "one", "iter0"), losses(tmp_path / "two", "iter0")
    assert alone.keys() == together.keys()
    assert len(alone) == 7  # 52 rows in batches of 8
    assert max(abs(alone[step] - together[step]) for step in alone) < 1e-3
    assert abs(alone[7] - alone[1]) > 0.02  # it does train


@pytest.mark.slow
def test_tspin_on_chat_rows_trains_on_triplets_whose_proto_is_the_first_opponents(tmp_path):
    end = "{{ '>' if m.role == 'user' else '<eos>' }}"
    chat = "{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"
    config = make_config(tmp_path, algorithm="tspin", beta=1.0, template=None)
    (tmp_path / "model" / "chat_template.jinja").write_text(chat)
    rows = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    turns = [[("user", row["prompt"]), ("assistant", row["response"])] for row in rows]
    messages = [[{"role": role, "content": text} for role, text in pair] for pair in turns]
    lines = [json.dumps({"messages": pair}) for pair in messages]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    succeed("run", config)
    folder = tmp_path / "run"
    sampled = records_of(folder, "iter0/generations/*.parquet")
    first = {record.prompt_id: record.responses[0].ids for record in sampled}
    for record in records_of(folder / "iter1" / "scored", "train-*.parquet"):
        assert [response.role for response in record.responses] == ["real", "generated", "proto"]
        assert record.of_role("proto")[0].ids == first[record.prompt_id]
    assert AutoTokenizer.from_pretrained(folder / "iter1" / "policy").chat_template == chat
    assert len(losses(folder, "iter1")) == 7


@pytest.mark.slow
def test_tspin_ref_subtracts_p_0_and_not_the_opponent(tmp_path):
    succeed("run", make_config(tmp_path, algorithm="tspin_ref", beta=1.0, learning_rate=1e-2))
    folder = tmp_path / "run"
    records = records_of(folder / "iter1" / "scored", "train-*.parquet")
    responses = [response for record in records for response in record.responses]
    groups = [Group(r.prompt_ids, [s.ids for s in r.responses]) for r in records]
    for policy, stored in (("sft", "reference_logps"), ("iter0", "opponent_logps")):
        model = AutoModelForCausalLM.from_pretrained(folder / policy / "policy").eval()
        numbers = torch.tensor([getattr(response, stored) for response in responses])
        torch.testing.assert_close(
            response_logps(model, groups).detach(), numbers, rtol=1e-5, atol=1e-4
        )
    apart = [abs(response.reference_logps - response.opponent_logps) for response in responses]
    assert max(apart) > 0.1
    # No history yet, nothing learnt yet.
    assert losses(folder, "iter0")[1] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.slow
def test_given_pairs_are_trained_on_as_dpo_does(tmp_path):
    config = make_config(tmp_path, **SHORT, generation={"engine": "given"}, beta=0.3)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    official = [
        {
            side: [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": answer},
            ]
            for side, answer in (("real", row["response"]), ("generated", row["prompt"][::-1]))
        }
        for row in rows
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, official)))
    succeed("run", config)
    folder = tmp_path / "run"
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for record in records_of(folder / "iter0" / "scored", "train-*.parquet"):
        real, generated = record.responses
        prompt = tokenizer.convert_ids_to_tokens(record.prompt_ids)
        answer = tokenizer.convert_ids_to_tokens(generated.ids)
        assert answer == [*prompt[:-1][::-1], "<eos>"]
        group = Group(record.prompt_ids, [real.ids, generated.ids])
        stored = torch.tensor([real.opponent_logps, generated.opponent_logps])
        logps = response_logps(reference, [group]).detach()
        torch.testing.assert_close(logps, stored, rtol=0, atol=1e-4)
    assert losses(folder, "iter0")[1] == pytest.approx(math.log(2), abs=1e-4)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*official[:3], *rows[3:]])))
    other = {"generation": {"engine": "given"}, "output_dir": str(tmp_path / "other")}
    line = refused("run", make_config(tmp_path, **SHORT, **other))
    assert f"given, but {len(rows) - 3} rows of" in line
    assert not (tmp_path / "other" / "initial").exists()  # before anything is evaluated


def test_given_pairs_are_of_one_iteration(tmp_path):
    config = make_config(tmp_path, generation={"engine": "given"})
    assert "iterations: 1" in refused("run", config)


def test_dropout_is_off_in_scoring_and_training(tmp_path):
    config = make_config(tmp_path, **SHORT)
    make_model(tmp_path / "model", dropout=0.5)
    succeed("run", config)  # with dropout on, the first losses would not be log 2
    assert losses(tmp_path / "run", "iter0")[1] == pytest.approx(0.6931472, abs=1e-5)


def test_bad_rows_and_missing_files_are_one_line(tmp_path):
    config = make_config(tmp_path, **SHORT)
    rows = tmp_path / "rows.jsonl"
    good = rows.read_text()
    rows.write_text(good + '{"prompt": "abc"}\n')
    assert f"{rows}, line 61" in refused("run", config)
    rows.unlink()
    assert str(rows) in refused("run", config)
    rows.write_text(good)
    # Nothing was complete, so another configuration may take the directory over.
    line = refused("run", config, "training.batch_size=1000")
    assert "warm-up" in line
    assert "no config file" in refused("run", tmp_path / "missing.yaml")


def test_a_model_that_cannot_be_used_is_one_line(tmp_path):
    config = make_config(tmp_path, **SHORT)
    assert "template" in refused("run", config, "template=null")
    settings = tmp_path / "model" / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    del content["eos_token"]
    settings.write_text(json.dumps(content))
    assert "end-of-text" in refused("run", config, f"output_dir={tmp_path}/no_eos")
    shutil.rmtree(tmp_path / "model")
    missing = refused("run", config, f"output_dir={tmp_path}/no_model")
    assert str(tmp_path / "model") in missing


def test_unknown_training_arguments_are_refused_before_anything_is_loaded(tmp_path):
    config = make_config(tmp_path, **SHORT, training={"adam_betta": 0.9})
    assert "training.adam_betta" in refused("run", config)
    assert not (tmp_path / "run").exists()


def test_an_optimiser_or_schedule_that_is_not_known_is_refused_at_once(tmp_path):
    config = load_config(make_config(tmp_path, **SHORT), ["training.optim=adamw_torc"])
    with pytest.raises(UserError, match=r"training.optim: .* no 'adamw_torc'; it has adamw_torch"):
        selfplay.play(Run.of(config))
    config = load_config(make_config(tmp_path, **SHORT), ["training.lr_scheduler_type=cosinus"])
    with pytest.raises(UserError, match=r"lr_scheduler_type: .*cosine"):
        selfplay.play(Run.of(config))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_layout_is_refused_with_a_way_on(tmp_path):
    config = make_config(tmp_path, **SHORT, epochs=6)
    checkpoints = tmp_path / "run" / "iter0" / "checkpoints"
    process = start("run", config)
    while process.poll() is None and not any(checkpoints.glob("*/complete.json")):
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate()
    line = refused("run", config, "zero_stage=1")
    assert "zero_stage=0 ranks=1" in line
    assert "--restart-iteration" in line
    code, _, err = run("run", config, "zero_stage=1", "--restart-iteration")
    assert code == 0, err
    assert (tmp_path / "run" / "iter0" / "policy").is_dir()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    limit = 60 * 1024  # bytes per file: enough for rows and logs, not for weights
    config = make_config(tmp_path, **SHORT, width=64)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    line = refused("run", config, preexec_fn=small_files)
    assert "disk" in line or "limit" in line
    folder = tmp_path / "run"
    assert not (folder / "iter0" / "policy").exists()
    assert not list(folder.rglob("complete.json"))
    succeed("run", config)
    assert (folder / "iter0" / "policy").is_dir()


def test_a_second_run_in_the_same_directory_is_refused(tmp_path):
    config = make_config(tmp_path, **SHORT, epochs=20)
    first = start("run", config)
    while first.poll() is None and not (tmp_path / "run" / "manifest.json").exists():
        pass
    assert "another run" in refused("run", config)
    first.kill()
    first.communicate()


def test_a_policy_that_later_stages_were_made_from_is_not_made_anew(finished, tmp_path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "iter0" / "policy")
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(
        text.replace(str(finished[0] / "run"), str(tmp_path / "run"))
    )
    line = refused("run", tmp_path / "run" / "config.yaml")
    assert "iter0/train" in line
    assert "restore" in line
