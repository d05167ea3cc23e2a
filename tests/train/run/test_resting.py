import pytest

from spin_train.config.schema import Config
from spin_train.driver.selfplay import _say_where_it_rests
from spin_train.run.resting import resting_note
from spin_train.run.run import Run


def config(folder="runs/mine", *, temperature=0.7, **changes):
    generation = {"temperature": temperature} | changes.pop("generation", {})
    return Config(
        model="m",
        data={"path": "rows.jsonl"},
        output_dir=str(folder),
        generation=generation,
        **changes,
    )


def test_a_run_at_another_temperature_says_where_it_rests_and_with_which_multipliers():
    note = resting_note(config(iterations=2, beta=[0.1, 5.0]))
    assert "rests at p_data^0.7 (normalised), not at p_data" in note
    # 1 - 1/0.07 and 1 - 1/3.5
    assert "-13.29 at beta 0.1, where it does not settle, 0.7143 at beta 5" in note


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"loss_type": "hinge"}, "p_data^0.7", "multiplies"),
        ({"mixing": 1}, "p_data^0.7", "multiplies"),
        ({"sft_weight": 0.1}, "does not rest where it would", "p_data"),
        ({"algorithm": "gsil", "loss_type": "kliep"}, "does not rest where it would", "p_data"),
        ({"algorithm": "tspin"}, "does not rest where it would", "p_data"),
    ],
)
def test_no_more_is_said_than_is_known(changes, said, unsaid):
    note = resting_note(config(**changes))
    assert said in note
    assert unsaid not in note


def test_samples_of_the_opponent_and_given_pairs_need_no_word():
    assert resting_note(config(temperature=1.0)) is None
    given = {"engine": "given"}
    assert resting_note(config(generation=given, iterations=1)) is None


def test_it_is_printed_at_the_start_and_kept(tmp_path, capsys):
    run = Run.of(config(tmp_path))
    _say_where_it_rests(run)
    printed = capsys.readouterr().err
    assert printed == f"spin-train: {resting_note(run.config)}\n"
    assert Run.of(run.config).manifest().content["resting"] in printed
    _say_where_it_rests(Run.of(config(tmp_path, temperature=1.0)))
    assert capsys.readouterr().err == ""
    assert "resting" not in run.manifest().content
