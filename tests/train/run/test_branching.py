import os
import shutil

import pytest

from spin_train.config.files import load_config
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.run.branching import branch
from spin_train.run.directory import RunDirectory
from spin_train.run.manifest import Manifest
from spin_train.run.run import Run
from tests.train.runs import make_config


def recorded(folder, *, until=None, **changes):
    """A run of which nothing was done: every stage left a file that holds its name."""
    path = make_config(folder, **changes)
    run = Run.of(load_config(path))
    run.root.mkdir()
    shutil.copy(path, run.directory.config_file)
    manifest = run.manifest()
    for stage in run.stages:
        if stage.name == until:
            break
        file = run.root / stage.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(stage.name)
        manifest.complete(stage.name, [file], seconds=1.0)
    return run.root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of which every stage is complete."""
    return recorded(tmp_path_factory.mktemp("source"), mixing=1)


@pytest.mark.parametrize(
    ("at", "override", "word"),
    [
        (1, "beta=[5.0, 0.5]", "beta"),
        (1, "loss_type=hinge", "loss_type"),
        (0, "seed=1", "seed"),
        (0, "data.held_out=4", "data.held_out"),
        (2, "template=null", "template"),
        (3, "iterations=4", "has only 2 iterations"),
        (3, "iterations=2", "has only 2 iterations"),
        (1, "control=true", "control"),
        (0, "generation.max_new_tokens=7", "max_new_tokens"),
    ],
)
def test_what_is_kept_cannot_be_otherwise(source, tmp_path, at, override, word):
    with pytest.raises(UserError, match=word):
        branch(source, tmp_path / "new", at=at, overrides=[override])
    assert not (tmp_path / "new").exists()


def test_no_run_and_a_target_that_exists_are_one_line(source, tmp_path):
    with pytest.raises(UserError, match="no run at"):
        branch(tmp_path, tmp_path / "new", at=0)
    with pytest.raises(UserError, match="exists"):
        branch(source, tmp_path, at=0)


def test_one_number_for_a_schedule_holds_from_iteration_k_on(source, tmp_path):
    config = branch(source, tmp_path / "new", at=1, overrides=["beta=1.0", "iterations=3"]).config
    assert [config.at("beta", k) for k in range(3)] == [0.5, 1.0, 1.0]
    saved = load_config(tmp_path / "new" / "config.yaml")
    assert [saved.at("beta", k) for k in range(3)] == [0.5, 1.0, 1.0]
    assert saved.learning_rate == load_config(source / "config.yaml").learning_rate


def test_a_control_and_benchmarks_may_be_added_at_the_start(source, tmp_path):
    assert branch(source, tmp_path / "control", at=0, overrides=["control=true"]).config.control
    overrides = ["evaluation.lm_eval.tasks=[a]"]
    new = branch(source, tmp_path / "benchmarks", at=1, overrides=overrides)
    assert new.config.evaluation.lm_eval


def with_overrides(run, *overrides):
    return Run.of(load_config(run.directory.config_file, overrides))


def files_of(root):
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return files - {"config.yaml", "manifest.json"}


BEFORE = {"data/prepare", "sft/train", "initial/evaluate"}
FIRST = {f"iter0/{kind}" for kind in ("generate", "score", "train", "evaluate")}
FIRST |= {"control/iter0/train", "control/iter0/evaluate"}


SAMPLED = [{f"iter{k}/generate", f"iter{k}/score"} for k in (0, 1)]


@pytest.mark.parametrize(
    ("at", "kept"), [(0, BEFORE | SAMPLED[0]), (1, BEFORE | FIRST | SAMPLED[1])]
)
def test_a_branch_has_the_stages_before_iteration_k_and_no_others(tmp_path, at, kept):
    source, target = recorded(tmp_path, control=True), tmp_path / "new"
    branch(source, target, at=at)
    assert files_of(target) == kept
    assert all((target / name).read_text() == name for name in kept)
    assert Manifest(RunDirectory(target)).content["stages"].keys() == kept


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("beta=1.0", True),
        ("loss_type=hinge", True),
        ("learning_rate=1e-5", True),
        ("control=true", True),
        ("ranks=2", True),
        ("generation.temperature=0.5", False),
        ("generation.samples_per_prompt=2", False),
        ("algorithm=tspin", False),
    ],
)
def test_samples_are_kept_where_nothing_that_they_rest_on_changes(tmp_path, override, kept):
    source = recorded(tmp_path, sft=None)
    branch(source, tmp_path / "new", at=0, overrides=[override])
    assert (SAMPLED[0] <= files_of(tmp_path / "new")) == kept
    assert "iter0/train" not in files_of(tmp_path / "new")


def test_samples_that_are_not_all_there_are_not_kept(tmp_path):
    source = recorded(tmp_path, until="iter0/score")
    branch(source, tmp_path / "new", at=0, overrides=["beta=2"])
    assert files_of(tmp_path / "new") == BEFORE | {"iter0/generate"}


def test_one_number_for_any_schedule_of_tspin_holds_from_iteration_k_on(tmp_path):
    source = recorded(tmp_path, algorithm="tspin", history_weight=[0.0, 0.1])
    given = {"beta": 2.0, "history_weight": 0.3, "learning_rate": 0.5, "epochs": 3.0}
    overrides = [f"{name}={value}" for name, value in given.items()]
    config = branch(source, tmp_path / "new", at=1, overrides=overrides).config
    before = load_config(source / "config.yaml")
    for name, value in given.items():
        assert [config.at(name, 0), config.at(name, 1)] == [before.at(name, 0), value]


def test_the_history_weight_of_later_iterations_may_change_and_of_earlier_may_not(tmp_path):
    source = recorded(tmp_path, algorithm="tspin", history_weight=[0.0, 0.1])
    branch(source, tmp_path / "later", at=1, overrides=["history_weight=[0.0, 0.3]"])
    with pytest.raises(UserError, match="history_weight"):
        branch(source, tmp_path / "earlier", at=1, overrides=["history_weight=[0.2, 0.1]"])


@pytest.mark.parametrize("override", ["generation.temperature=0.5", "mixing=1", "algorithm=tspin"])
def test_what_self_play_alone_knows_of_may_change_at_0_only(tmp_path, override):
    source = recorded(tmp_path)
    branch(source, tmp_path / "new", at=0, overrides=[override])
    with pytest.raises(UserError, match=override.partition("=")[0]):
        branch(source, tmp_path / "other", at=1, overrides=[override])


def test_at_0_without_sft_the_training_may_change(tmp_path):
    override = "training.batch_size=9"
    branch(recorded(tmp_path / "bare", sft=None), tmp_path / "new", at=0, overrides=[override])
    with pytest.raises(
        UserError, match=r"the data, SFT or p_0 were made with other settings .* a new run"
    ):
        branch(recorded(tmp_path / "sft"), tmp_path / "other", at=0, overrides=[override])


@pytest.mark.parametrize("override", ["training.optim=sgd", "learning_rate=1", "beta=2"])
def test_until_something_is_trained_its_settings_can_be_fixed(tmp_path, override):
    """What refuses them may come after hours of sampling."""
    run = Run.open(recorded(tmp_path, until="iter0/train", sft=None))
    fixed = with_overrides(run, override)
    (run.root / "iter0" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    selfplay._adopt_config(fixed)
    assert Run.open(run.root).config == fixed.config
    (run.root / "iter0" / "checkpoints" / "checkpoint-3" / "complete.json").touch()
    with pytest.raises(UserError, match=override.partition("=")[0]):
        selfplay._adopt_config(
            with_overrides(run, "training.optim=adafactor", "beta=3", "learning_rate=2")
        )


def test_what_was_sampled_is_not_fixed_so(tmp_path):
    run = Run.open(recorded(tmp_path, until="iter0/train", sft=None))
    for override in ("training.dtype=bfloat16", "seed=1", "generation.temperature=0.5"):
        with pytest.raises(UserError, match=override.partition("=")[0]):
            selfplay._adopt_config(with_overrides(run, override))
    trained = Run.open(recorded(tmp_path / "sft", until="initial/evaluate"))
    with pytest.raises(UserError, match="beta"):
        selfplay._adopt_config(with_overrides(trained, "beta=2"))


def test_sft_cannot_come_in_once_p_0_is_evaluated(tmp_path):
    run = Run.open(recorded(tmp_path, until="iter0/generate", sft=None))
    with pytest.raises(UserError, match="sft"):
        selfplay._adopt_config(with_overrides(run, "sft.learning_rate=1e-3"))


def test_a_source_that_is_not_that_far_names_what_it_lacks(tmp_path):
    source = recorded(tmp_path, until="iter0/evaluate")
    with pytest.raises(UserError, match=r"not got that far: iter0/evaluate is not complete"):
        branch(source, tmp_path / "new", at=1)
    assert not (tmp_path / "new").exists()


def test_files_are_copied_where_they_cannot_be_linked(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError

    source = recorded(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    branch(source, tmp_path / "new", at=0)
    for name in BEFORE:
        assert (tmp_path / "new" / name).read_text() == (source / name).read_text() == name
        assert not os.path.samefile(source / name, tmp_path / "new" / name)
