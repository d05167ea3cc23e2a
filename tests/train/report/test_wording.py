"""The summary says which policy is best, against which control, and no more than was found."""

import pytest

from spin_train.report.cautions import cautions_of
from spin_train.report.wording import MINUS, summarise_run
from tests.train.finished import EFFECT, finish


@pytest.mark.parametrize(
    ("effect", "headline", "control"),
    [
        (
            {},
            "lowered the held-out NLL: p_2 is better than p_0.",
            f"is better: {MINUS}0.0396 ({MINUS}0.0416",
        ),
        ({"control 2": 0.1}, "Self-play lowered", "is worse: +0.01"),
        ({"control 2": 0.2001}, "Self-play lowered", "cannot be told from it"),
        ({"p_1": -0.9, "p_2": -0.5}, "Self-play raised the held-out NLL", "is better"),
        ({"p_1": -9.0, "p_2": 1e-5}, "by less than these prompts can show", "is better"),
    ],
)
def test_the_headline_follows_the_interval(tmp_path, effect, headline, control):
    summary = summarise_run(finish(tmp_path / "run", effect=EFFECT | effect, answers=False))
    assert headline in summary.headline
    assert control in " ".join(summary.sentences)


def test_without_a_control_the_page_says_what_cannot_be_known(tmp_path):
    summary = summarise_run(finish(tmp_path / "run", control=False, answers=False))
    assert any("There is no control" in sentence for sentence in summary.sentences)


def test_what_is_said_of_several_policies_is_one_warning(tmp_path):
    found = cautions_of(finish(tmp_path / "run", answers=False))
    by_place = {caution.where: caution.what for caution in found}
    assert by_place["data"] == "a note on the data"
    assert by_place["p_2"] == "a warning about p_2"
    assert "cut at max_new_tokens" in by_place["p_1, control 1, p_2, control 2"]
