import pytest
import yaml

from spin_train.config.changes import (
    changes_of,
    first_read,
    refused_on_branching,
    refused_on_resuming,
)
from spin_train.config.files import known_keys, load_config, override, parse_config
from spin_train.config.keys import FirstRead
from spin_train.config.yaml12 import yaml_text
from spin_train.errors import UserError
from spin_train.model.loading import load_tokenizer, model_limits

SMALLEST = {"model": "m", "data": {"path": "rows.jsonl"}, "output_dir": "out"}


def refusal(content):
    with pytest.raises(UserError) as caught:
        parse_config(SMALLEST | content)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"betta": 1}, "betta"),
        ({"data": {"path": "x", "heldout": 1}}, "data.heldout"),
        ({"training": {"batch_size": "many"}}, "training.batch_size"),
        ({"training": {"batch_size": 0}}, "training.batch_size"),
        ({"iterations": 1.5}, "iterations"),
        ({"beta": "small"}, "beta"),
        ({"beta": 0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"learning_rate": [1e-5, -1e-5, 1e-5]}, "learning_rate"),
        ({"algorithm": "dpo"}, "algorithm"),
        ({"loss_type": "sigmoid"}, "loss_type"),
        ({"zero_stage": 4}, "zero_stage"),
        ({"ranks": 0}, "ranks"),
        ({"generation": {"temperature": 0}}, "generation.temperature"),
        ({"data": {"path": "x", "held_out": 0}}, "data.held_out"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_key(content, named):
    assert named in refusal(content)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"lerning_rate": 1}, "learning_rate"),
        ({"data": {"path": "x", "heldout": 1}}, "data.held_out"),
        ({"max_new_tokens": 8}, "generation.max_new_tokens"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(content, key):
    assert f"did you mean {key}?" in refusal(content)
    assert "did you mean" not in refusal({"xyzzy": 1})


@pytest.mark.parametrize(
    "given",
    ["lerning_rate=1", "data.heldout=1", "epochs=two", "beta=0", "data={}", "data.held_out=1.5"],
)
def test_a_key_of_the_command_line_is_not_blamed_on_the_file(tmp_path, given):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    with pytest.raises(UserError, match=given[:4]) as caught:
        load_config(path, ["seed=1", given])
    assert str(path) not in str(caught.value)
    path.write_text(yaml.safe_dump(SMALLEST | {"mixin": 1}))
    with pytest.raises(UserError, match="unknown key mixin") as caught:
        load_config(path, ["seed=1"])
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epochs": "two"}, "epochs: Input should be a valid number, unable to parse"),
        ({"epochs": [1, "two", 3]}, "epochs: Input should be a valid number, unable to parse"),
        ({"adapter": {"target_modules": [3]}}, "adapter.target_modules: Input should be a valid s"),
    ],
)
def test_the_branches_of_a_union_are_not_part_of_the_key(content, says):
    assert f"config: {says}" in refusal(content)


@pytest.mark.parametrize(
    ("content", "example"),
    [
        ({"data": "rows.jsonl"}, "data.path=..., got 'rows.jsonl'"),
        ({"sft": True}, "sft.learning_rate=..., got True"),
        ({"adapter": True}, "adapter.rank=..., got True"),
        ({"evaluation": {"lm_eval": "v1"}}, "evaluation.lm_eval.leaderboard=..., got 'v1'"),
    ],
)
def test_a_section_given_a_value_names_a_key_of_its_own(content, example):
    assert f"is a section; set its keys, such as {example}" in refusal(content)


def test_a_missing_key_is_named():
    with pytest.raises(UserError, match=r"data\.path is missing: give data\.path=\.\.\.$"):
        parse_config({"model": "m", "data": {}, "output_dir": "out"})


def test_alpha_is_refused_with_its_name_here():
    assert "beta here" in refusal({"alpha": 1.0})


def test_a_schedule_needs_exactly_one_value_an_iteration():
    assert "2 values for 3 iterations" in refusal({"iterations": 3, "beta": [0.1, 0.1]})


def test_history_weight_belongs_to_tspin():
    assert "tspin" in refusal({"history_weight": 0.1})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"sft_weight": -0.1}, "sft_weight must be >= 0"),
        ({"sft_weight": float("nan")}, "sft_weight: Input should be a finite number"),
        ({"sft_weight": [0.1]}, "sft_weight has 1 values for 3 iterations"),
        ({"space_mu": 2.0}, "space_mu belongs to algorithm: space; remove it for spin"),
        ({"algorithm": "space", "space_mu": 0}, "space_mu"),
        ({"algorithm": "space", "beta": 0.5}, "scale 1; remove beta"),
        ({"algorithm": "space", "loss_type": "hinge"}, "space has one loss; remove loss_type"),
        ({"algorithm": "space", "history_weight": 0.1}, "belongs to algorithm: tspin"),
        ({"gsil_shift": 2.0}, "gsil_shift belongs to algorithm: gsil; remove it for spin"),
        ({"algorithm": "gsil"}, "one of bernoulli, brier, hinge, kliep, lsif for algorithm: gsil"),
        ({"loss_type": "kliep"}, "one of logistic, hinge, exponential, correlation for"),
        (
            {"algorithm": "gsil", "loss_type": "hinge", "gsil_shift": 2, "control": True},
            "set gsil_shift below 1 or remove control",
        ),
    ],
)
def test_keys_of_the_loss_that_contradict_the_algorithm_are_refused(content, says):
    assert says in refusal(content)


@pytest.mark.parametrize(
    "content",
    [
        {"algorithm": "space"},
        {"algorithm": "gsil", "loss_type": "lsif", "gsil_shift": -1.0, "beta": 1.0},
        {"algorithm": "tspin", "control": True, "sft_weight": [0.0, 0.1, 0.1]},
        {"algorithm": "gsil", "loss_type": "hinge", "gsil_shift": 2, "sft_weight": 0.1},
    ],
)
def test_every_member_of_the_family_is_configured(content):
    config = parse_config(SMALLEST | content)
    again = parse_config(config.model_dump())  # as a run directory holds it, every key written
    assert again == config
    assert config.at("beta", 0) == (1.0 if config.algorithm == "space" else config.beta)


@pytest.mark.parametrize("key", ["sft_weight", "space_mu", "gsil_shift"])
def test_keys_of_the_loss_may_change_until_something_is_trained(key):
    assert first_read(key) is FirstRead.LOSS


def test_managed_training_arguments_are_contradictions():
    assert "training.dtype" in refusal({"training": {"bf16": True}})
    assert "docs/benchmarks.md" in refusal({"training": {"torch_compile": True}})


@pytest.mark.parametrize("template", ["spin-official", "tspin", "zephyr", None])
def test_a_published_template_goes_by_its_name(template):
    assert parse_config({**SMALLEST, "template": template}).template == template


def test_template_must_hold_the_prompt_once():
    assert "{prompt}" in refusal({"template": "no place for it"})
    assert "{prompt}" in refusal({"template": "{prompt} and {prompt}"})


def test_published_history_weight_is_zero_then_a_tenth():
    config = parse_config(SMALLEST | {"algorithm": "tspin"})
    assert [config.at("history_weight", k) for k in range(3)] == [0.0, 0.1, 0.1]


def test_an_exponent_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALLEST) + "learning_rate: 5e-7\n")
    assert load_config(path).at("learning_rate", 0) == 5e-7


def test_an_exponent_without_a_point_is_a_number_in_passed_through_arguments_too(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALLEST) + "training: {adam_epsilon: 1e-8}\n")
    extra = load_config(path, ["training.max_grad_norm=1e-1"]).training.model_extra
    assert extra == {"adam_epsilon": 1e-8, "max_grad_norm": 0.1}


@pytest.mark.parametrize("schedule", ["beta", "sft_weight", "learning_rate", "epochs"])
def test_an_infinite_schedule_is_refused(schedule):
    assert schedule in refusal({schedule: float("inf")})


def test_overrides_reach_nested_keys(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    config = load_config(path, ["training.batch_size=8", "sft.learning_rate=1e-3", "beta=[1,2,3]"])
    assert config.training.batch_size == 8
    assert config.sft is not None
    assert config.sft.learning_rate == 1e-3
    assert config.at("beta", 2) == 3.0


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    """Defect 13: YAML itself keeps the last, silently."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALLEST) + "beta: 0.1\nbeta: 5.0\n")
    with pytest.raises(UserError, match=r"'beta' is given twice \(line \d+\)"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", r"not valid YAML: .* \(line 1\)"),
        ("- a\n", "must hold key"),
        (None, "no config file"),
    ],
)
def test_an_unreadable_config_file_is_refused(tmp_path, text, says):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_config(path)


def test_a_run_directory_is_refused_with_its_config_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    with pytest.raises(UserError, match=f"a directory; give {path}"):
        load_config(tmp_path)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Y", "N"])
def test_the_words_of_yaml_1_1_are_refused_for_arguments_that_the_schema_does_not_know(word):
    """TrainingArguments would take the text "no" as true."""
    value = "true" if word in ("yes", "on", "Y") else "false"
    said = refusal({"training": {"full_determinism": word}})
    assert f"training.full_determinism: write {value}; {word} is text in YAML 1.2" in said


def test_no_is_a_value_of_a_strategy():
    extra = parse_config(SMALLEST | {"training": {"logging_strategy": "no"}}).training.model_extra
    assert extra == {"logging_strategy": "no"}


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("no", False), ("off", False)])
def test_keys_with_two_values_still_take_the_words_of_yaml_1_1(word, value):
    content = dict(SMALLEST)
    override(content, [f"control={word}"])
    assert parse_config(content).control is value


def test_a_key_with_two_values_names_them():
    assert "control: " in refusal({"control": "perhaps"})
    assert refusal({"control": "perhaps"}).endswith("; write true or false")


@pytest.mark.parametrize("text", ["2026-01-31", "12", "1e5", "010"])
def test_a_number_where_text_belongs_is_to_be_put_in_quotes(text):
    content = dict(SMALLEST)
    override(content, [f"model={text}"])
    assert refusal(content).endswith("; put text that looks like a number or a date in quotes")
    override(content, [f"model='{text}'"])
    assert parse_config(content).model == text


def test_an_override_without_equals_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    with pytest.raises(UserError, match="key=value"):
        load_config(path, ["beta"])


def test_resuming_may_add_iterations_and_change_logging():
    old = parse_config(SMALLEST | {"iterations": 2, "beta": [0.1, 0.2]})
    new = parse_config(
        SMALLEST
        | {"iterations": 3, "beta": [0.1, 0.2, 5.0], "training": {"logging_steps": 1}, "ranks": 2}
    )
    assert refused_on_resuming(old, new, has_trained=True) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 42 -> 1"),
        ({"iterations": 1}, "iterations"),
        ({"iterations": 4, "beta": [0.1, 0.3, 0.1, 0.1]}, "beta"),
        ({"data": {"path": "other.jsonl"}}, "data.path"),
        ({"training": {"adam_beta1": 0.5}}, "training.adam_beta1"),
    ],
)
def test_resuming_names_the_keys_that_may_not_change(change, named):
    old, new = parse_config(SMALLEST), parse_config(SMALLEST | change)
    assert any(named in line for line in refused_on_resuming(old, new, has_trained=True))


@pytest.mark.parametrize(("name", "says"), [("none", "no directory"), ("empty", "not a model")])
def test_a_local_model_that_is_not_there_is_said_to_be_missing(tmp_path, name, says):
    (tmp_path / "empty").mkdir()
    config = parse_config({**SMALLEST, "model": str(tmp_path / name)})
    for load in (load_tokenizer, model_limits):
        with pytest.raises(UserError, match=says):
            load(config)


def test_every_key_says_which_stage_first_reads_it():
    for key in known_keys():
        assert isinstance(first_read(key), FirstRead), key


def test_a_key_that_passes_through_is_read_by_training_but_reporters_change_nothing():
    old, new = parse_config(SMALLEST), parse_config(SMALLEST | {"training": {"report_to": "none"}})
    assert changes_of(old, new) == []
    assert first_read("training.adam_beta1") is FirstRead.TRAINING


def test_until_something_is_trained_what_only_training_reads_may_change():
    old = parse_config(SMALLEST | {"sft": {"learning_rate": 1e-3}})
    new = parse_config(
        SMALLEST | {"sft": {"learning_rate": 1e-4}, "beta": 2.0, "training": {"optim": "sgd"}}
    )
    assert refused_on_resuming(old, new, has_trained=False) == []
    refused = [line.partition(":")[0] for line in refused_on_resuming(old, new, has_trained=True)]
    assert refused == ["beta", "sft.learning_rate", "training.optim"]


@pytest.mark.parametrize(("section", "refused"), [("sft", True), ("adapter", True)])
def test_a_section_that_comes_in_counts_as_a_whole(section, refused):
    values = {"sft": {"learning_rate": 1e-3}, "adapter": {"rank": 4}}
    old, new = parse_config(SMALLEST), parse_config(SMALLEST | {section: values[section]})
    assert bool(refused_on_resuming(old, new, has_trained=False)) is refused


def test_a_branch_may_change_the_control_and_before_iteration_0_all_of_self_play():
    old = parse_config(SMALLEST | {"sft": {"learning_rate": 1e-3}})
    new = parse_config(old.model_dump() | {"control": True, "beta": 2.0, "mixing": 1})
    assert refused_on_branching(old, new, at=0) == []
    refused = [line.partition(":")[0] for line in refused_on_branching(old, new, at=1)]
    assert refused == ["beta", "mixing"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"template_arguments": {"tools": []}}, "template_arguments: tools is set by the run"),
        ({"template_arguments": {"a": 1}, "template": "tspin"}, "belong to a chat template"),
        ({"template_date": "soon"}, "template_date"),
    ],
)
def test_arguments_that_no_template_could_take_are_refused(given, says):
    content = {"model": "m", "data": {"path": "d"}, "output_dir": "o"}
    with pytest.raises(UserError, match=says):
        parse_config(content | given)


def test_arguments_of_the_template_are_recorded_and_may_not_change(tmp_path):
    content = {"model": "m", "data": {"path": "d"}, "output_dir": "o"}
    config = parse_config(content | {"template_arguments": {"enable_thinking": False}})
    (tmp_path / "config.yaml").write_text(yaml_text(config.model_dump()))
    assert load_config(tmp_path / "config.yaml") == config
    (change,) = refused_on_resuming(config, parse_config(content), has_trained=False)
    assert change.startswith("template_arguments.enable_thinking: False -> None")
