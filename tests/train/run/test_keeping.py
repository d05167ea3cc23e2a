"""What `keep` deletes: nothing that is needed, nothing of others, and all of it after a kill."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spin_train.config.files import parse_config
from spin_train.config.yaml12 import yaml_text
from spin_train.errors import UserError
from spin_train.report.export import export
from spin_train.report.push import pack
from spin_train.run.branching import branch
from spin_train.run.cards import write_cards
from spin_train.run.graph import stages_of
from spin_train.run.keeping import removed_in_words, require_needs, spare, tidy
from spin_train.run.run import Run
from spin_train.run.status import read_status
from spin_train.system.files import read_object, write_json

NLL = "real_nll_per_token"
KINDS = {
    "train": ("policy/config.json", "policy/model.safetensors", "metrics.jsonl"),
    "generate": ("generations/train-00000.parquet", "generations/held_out-00000.parquet"),
    "reference": ("reference/train-00000.parquet", "reference/held_out-00000.parquet"),
    "score": ("scored/train-00000.parquet", "scored/held_out-00000.parquet"),
    "sample": ("samples.parquet",),
    "prepare": ("train.parquet", "held_out.parquet"),
}


def configured(root, **changes):
    content = {
        "model": "none",
        "data": {"path": "none"},
        "output_dir": str(root),
        "iterations": 3,
        "learning_rate": 1e-5,
        "sft": {"learning_rate": 1e-5, "epochs": 1},
        "control": True,
    }
    return parse_config({**content, **changes})


def played(root, *, values=None, until=None, **changes):
    """A run whose stages left files of the right names; p_K has the held-out NLL 5 - K."""
    run = Run.of(configured(root, **changes))
    root.mkdir(parents=True)
    run.directory.config_file.write_text(yaml_text(run.config.model_dump()))
    manifest = run.manifest()
    for stage in run.stages:
        if stage.name == until:
            break
        paths = [run.folder(stage) / name for name in KINDS.get(stage.kind, ())]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}" if path.suffix == ".jsonl" else path.name)
        if stage.kind == "evaluate":
            k = stage.iteration + 1
            name = f"control {k}" if stage.control else f"p_{k}"
            worst = 9.0 - k / 10 if stage.control else 5.0 - k
            paths = [run.folder(stage) / "evaluation.json"]
            write_json(paths[0], {NLL: (values or {}).get(name, worst)})
        manifest.complete(stage.name, paths, seconds=1.0)
    return run


def files_of(run):
    return {str(path.relative_to(run.root)) for path in run.root.rglob("*") if path.is_file()}


def removed(run):
    before = files_of(run)
    tidy(run, run.manifest())
    return before - files_of(run)


def policy(folder):
    return {f"{folder}/policy/config.json", f"{folder}/policy/model.safetensors"}


def rows(*iterations):
    kinds = ("generations", "scored")
    return {f"iter{k}/{kind}/train-00000.parquet" for k in iterations for kind in kinds}


def test_all_deletes_nothing(tmp_path):
    run = played(tmp_path / "run")
    assert removed(run) == set()
    assert removed_in_words(run) is None


def test_last_leaves_the_last_iteration_and_every_number(tmp_path):
    run = played(tmp_path / "run", keep="last")
    gone = removed(run)
    folders = ("sft", "iter0", "iter1", "control/iter0", "control/iter1")
    assert gone == set().union(*map(policy, folders)) | rows(0, 1)
    assert list(run.policies) == ["p_3", "control 3"]
    manifest = run.manifest()
    assert all(manifest.is_complete(stage.name) for stage in run.stages)
    assert gone <= manifest.content["stages"]["iter0/train"]["files"].keys() | gone
    assert removed(run) == set()


def test_a_card_that_is_left_alone_is_no_policy(tmp_path):
    run = played(tmp_path / "run", keep="last")
    write_cards(run)
    removed(run)
    assert [path.name for path in (run.root / "iter0/policy").iterdir()] == ["README.md"]
    assert not run.policy(1).is_there
    assert run.policy(3).is_there


def test_best_leaves_the_best_policy_and_a_control_that_is_better(tmp_path):
    run = played(tmp_path / "a", keep="best", values={"p_1": 1.0})
    removed(run)
    assert list(run.policies) == ["p_1", "p_3", "control 3"]
    run = played(tmp_path / "b", keep="best", values={"p_0": 1.0, "control 2": 0.5})
    removed(run)
    assert list(run.policies) == ["p_0", "control 2", "p_3", "control 3"]


def test_what_a_run_starts_from_is_nobodys_to_delete(tmp_path):
    run = played(tmp_path / "run", keep="last", sft=None, control=False)
    removed(run)
    assert list(run.policies) == ["p_0", "p_3"]


@pytest.mark.parametrize("algorithm", ["tspin", "tspin_ref"])
def test_the_samples_of_p_0_stay_for_triplets_and_p_0_for_its_own_scores(tmp_path, algorithm):
    run = played(tmp_path / "run", keep="last", algorithm=algorithm)
    gone = removed(run)
    assert "iter0/generations/train-00000.parquet" not in gone
    assert "iter1/generations/train-00000.parquet" in gone
    assert ("p_0" in run.policies) == (algorithm == "tspin_ref")
    assert ("iter0/reference/train-00000.parquet" in gone) == (algorithm == "tspin_ref")


def test_samples_that_a_further_iteration_would_mix_in_stay(tmp_path):
    gone = removed(played(tmp_path / "run", keep="last", mixing=2))
    assert "iter0/generations/train-00000.parquet" in gone
    assert "iter1/generations/train-00000.parquet" not in gone
    assert "iter1/scored/train-00000.parquet" in gone


def test_an_evaluation_that_is_to_be_done_again_keeps_what_it_reads(tmp_path):
    run = played(tmp_path / "run", keep="last", control=False)
    (run.root / "iter0/evaluation.json").unlink()
    gone = removed(run)
    assert "p_1" in run.policies
    assert "iter0/scored/train-00000.parquet" not in gone
    assert "iter0/generations/train-00000.parquet" in gone


def read_by(config, stage):
    """Places that a stage reads, written out once more: as the stages themselves name them."""
    k, folder = stage.iteration, f"iter{stage.iteration}"
    p_0 = ["sft/policy"] if config.sft else []
    start = [f"iter{k - 1}/policy"] if k > 0 else p_0
    if stage.control and k > 0:
        start = [f"control/iter{k - 1}/policy"]
    own = [f"{stage.folder}/policy"] if k >= 0 else p_0
    mixed = [f"iter{j}/generations" for j in range(max(0, k - config.mixing), k + 1)]
    if config.algorithm.startswith("tspin"):
        mixed.append("iter0/generations")
    if stage.kind == "train":
        return [*start, f"{folder}/scored"] if k >= 0 else []
    if stage.kind == "evaluate" and k >= 0:
        return [*own, f"{folder}/scored"]
    return {
        "generate": start,
        "reference": [*p_0, *mixed],
        "score": [*start, *mixed],
        "evaluate": own,
        "sample": own,
    }.get(stage.kind, [])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    algorithm=st.sampled_from(["spin", "tspin", "tspin_ref"]),
    mixing=st.integers(0, 3),
    iterations=st.integers(1, 5),
    control=st.booleans(),
    sft=st.sampled_from([None, {"learning_rate": 1e-5, "epochs": 1}]),
    more=st.integers(0, 2),
    upto=st.integers(0, 60),
)
def test_no_later_stage_misses_what_was_let_go_at_any_moment(
    algorithm, mixing, iterations, control, sft, more, upto
):
    changes = {"algorithm": algorithm, "mixing": mixing, "control": control, "sft": sft}
    config = configured("run", iterations=iterations, keep="last", **changes)
    stages = stages_of(config)
    done = [stage.name for stage in stages[:upto]]
    places = {"train": "policy", "generate": "generations", "score": "scored"}
    places["reference"] = "reference"
    gone = {f"{stage.folder}/{places[stage.kind]}" for stage in spare(config, done)}
    longer = configured("run", iterations=iterations + more, keep="last", **changes)
    for stage in stages_of(longer):
        if stage.name not in done:
            assert gone.isdisjoint(read_by(longer, stage)), stage.name
    trained = [name for name in done if name.endswith("/train")]
    assert not trained or {f"{name.removesuffix('/train')}/policy" for name in trained} - gone


@pytest.mark.parametrize("after", [0, 1, 6, 13])
def test_a_removal_that_is_cut_short_is_finished_by_the_next_start(tmp_path, monkeypatch, after):
    run = played(tmp_path / "run", keep="last")
    whole = files_of(played(tmp_path / "other", keep="all"))
    count, unlink = itertools.count(), Path.unlink

    class KilledError(Exception):
        pass

    def killed(path, **options):
        if path.is_relative_to(run.root) and ".spin-partial" not in path.name:
            assert "removing" in read_object(run.root / "manifest.json")  # recorded before
            if next(count) == after:
                raise KilledError
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KilledError):
            tidy(run, run.manifest())
    assert all(run.manifest().is_complete(stage.name) for stage in run.stages)
    everything = Run.of(run.config.model_copy(update={"keep": "all"}))
    tidy(everything, everything.manifest())  # what has begun ends, whatever the key says now
    assert len(whole - files_of(run)) == 14
    assert "removing" not in read_object(run.root / "manifest.json")


def test_what_others_put_there_stays(tmp_path):
    run = played(tmp_path / "run", keep="last")
    notes = run.root / "iter0/policy/notes.txt"
    notes.write_text("mine")
    replaced = run.root / "iter1/policy/model.safetensors"
    manifest = run.manifest()
    outside = tmp_path / "outside"
    outside.write_text("x")
    files = manifest.content["stages"]["iter0/train"]["files"]
    files["iter0/policy/../../../outside"] = {"bytes": 1, "sha256": ""}
    link = run.root / "iter0/policy/config.json"
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    manifest.begin_removal({"iter0/train": list(files), "iter1/train": list(KINDS)})
    replaced.write_text("another one of another size")
    manifest.content["stages"]["iter1/train"]["removed"] = ["iter1/policy/model.safetensors"]
    manifest.save()
    with pytest.raises(UserError, match=r"model\.safetensors has 27 bytes"):
        tidy(run, run.manifest())
    assert (notes.read_text(), outside.read_text()) == ("mine", "x")
    assert replaced.is_file()
    assert link.is_symlink()
    assert (tmp_path / "elsewhere").is_file()
    assert not (run.root / "iter0/policy/model.safetensors").exists()


def test_a_policy_that_is_put_back_counts_again_and_stays(tmp_path):
    run = played(tmp_path / "run", keep="last")
    removed(run)
    with pytest.raises(UserError, match=r"iter0/answer needs p_1, removed by keep: put .*/iter0/"):
        require_needs(*asked_for_answers(run), ["iter0/answer"])
    for name in policy("iter0"):
        path = run.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.name)
    require_needs(*asked_for_answers(run), ["iter0/answer"])
    assert removed(run) == set()
    assert "p_1" in run.policies


def asked_for_answers(run):
    """The run with answers to held-out prompts, asked for once it was over."""
    content = run.config.model_dump(exclude_none=True) | {"evaluation": {"answers": {}}}
    return Run.of(parse_config(content)), run.manifest()


def test_status_names_what_is_gone_in_one_line(tmp_path):
    run = played(tmp_path / "run", keep="last")
    removed(run)
    assert read_status(run.root).removed == (
        "p_0, p_1, control 1, p_2, control 2, samples and scores to train on of iteration 0, 1"
    )


def test_commands_that_need_what_is_gone_say_so(tmp_path):
    run = played(tmp_path / "run", keep="last", values={"p_1": 1.0})
    removed(run)
    with pytest.raises(UserError, match=r"p_1 of .* removed by keep.*--policy: p_3, control 3$"):
        pack(run, run.best.policy, "me/mine")
    with pytest.raises(UserError, match=r"iteration 1 .* removed by keep; choose --iteration 2$"):
        export(run, "trl", tmp_path / "pairs", iteration=1)
    run.write_best()
    assert read_object(run.directory.best)["best"]["removed"] is True


def test_a_branch_takes_what_is_left_and_refuses_what_is_not(tmp_path):
    run = played(tmp_path / "run", keep="last")
    removed(run)
    line = r"--at 1: iter1/generate needs p_1, which keep has removed .* there: p_3, control 3$"
    with pytest.raises(UserError, match=line):
        branch(run.root, tmp_path / "new", at=1)
    assert not (tmp_path / "new").exists()
    new = branch(run.root, tmp_path / "new", at=3, overrides=["iterations=4"])
    assert list(new.policies) == ["p_3", "control 3"]
    kept = [stage.name for stage in new.stages if stage.iteration < 3]
    assert all(new.manifest().is_complete(name) for name in kept if name != "iter2/sample")


def test_a_branch_samples_again_where_the_samples_are_gone(tmp_path):
    run = played(tmp_path / "run", keep="best", values={"p_1": 1.0}, control=False)
    removed(run)
    new = branch(run.root, tmp_path / "new", at=1, overrides=["beta=[0.1, 5.0, 5.0]"])
    assert not new.manifest().is_complete("iter1/generate")
    assert "iter1/score" not in json.loads((new.root / "manifest.json").read_text())["stages"]


def test_during_a_run_only_what_is_over_goes(tmp_path):
    run = played(tmp_path / "run", keep="last", until="iter1/generate")
    assert removed(run) == policy("sft")
    run = played(tmp_path / "other", keep="last", until="iter2/generate")
    gone = set().union(*map(policy, ("sft", "iter0", "control/iter0")))
    assert removed(run) == gone | rows(0)
