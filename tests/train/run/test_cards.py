"""A card says what a policy is, and decides nothing about resuming."""

import pytest
import yaml

from spin_train.run.cards import MARK, card, write_cards
from spin_train.run.run import Run
from tests.train.finished import finish


@pytest.fixture
def run(tmp_path):
    return finish(tmp_path / "run", beta=[0.5, 2.0], learning_rate=[1e-5, 3e-6], answers=False)


def table(text):
    """Rows of all tables of a card, by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in lines}


def test_the_head_is_yaml_that_names_the_base_where_others_find_it(run):
    def head(model):
        config = run.config.model_copy(update={"model": model})
        return yaml.safe_load(card(Run(config, run.directory), run.policy(2)).split("---\n")[1])

    assert head("org/base-7b") == {
        "base_model": "org/base-7b",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["self-play", "spin"],
    }
    assert "base_model" not in head(run.config.model)


def test_a_card_names_opponent_settings_of_its_iteration_data_and_paper(run):
    text = card(run, run.policy(2))
    assert "# p_2: SPIN after 2 iterations" in text
    assert "its opponent `p_1` sampled" in text
    rows = table(text)
    assert (rows["beta"], rows["learning rate"]) == (["2.0"], ["3e-06"])
    assert rows["sha256"] == ["ab" * 32]
    assert "arXiv:2401.01335" in text
    control = card(run, run.control(1))
    assert "It is the control of iteration 0" in control
    assert table(control)["learning rate"] == ["1e-05"]
    assert "beta" not in table(control)


def test_its_numbers_are_those_of_the_evaluations(run):
    rows = table(card(run, run.policy(2)))
    for policy in (run.policy(2), run.policy(0), run.control(2)):
        assert rows[policy.name][0] == f"{policy.numbers['real_nll_per_token']:.4f}"
    assert "p_1" not in rows


def test_cards_are_written_once_and_the_manifest_does_not_know_them(run):
    before = run.directory.manifest_file.read_bytes()
    assert {path.parent.parent.name for path in write_cards(run)} == {"iter0", "iter1"}
    assert len(list(run.root.glob("**/policy/README.md"))) == 4
    assert write_cards(run) == []
    assert run.directory.manifest_file.read_bytes() == before
    assert run.manifest().is_complete("iter0/train")


def test_cards_of_others_stay(run):
    mine, recorded = run.policy(1) / "README.md", run.policy(2) / "README.md"
    mine.write_text("mine")
    recorded.write_text(f"of PEFT, {MARK}")
    manifest = run.manifest()
    manifest.complete("iter1/train", [recorded], seconds=1.0)
    write_cards(run)
    assert mine.read_text() == "mine"
    assert recorded.read_text() == f"of PEFT, {MARK}"
