"""speed.jsonl: one line per line of the metrics, whatever happened to the stage before."""

import json

import pytest

from spin_train.system.files import read_lines
from spin_train.system.speed import Speed
from spin_train.training.speed import SpeedLines


class EveryStepHasTen:
    """Stands for `MicroBatches`: ten tokens per step."""

    def tokens_of(self, start, stop):
        return 10 * (stop - start)


class Rank:
    """Stands for `Ranks`, seen from one of two."""

    def __init__(self, *, is_first=True):
        self.is_first = is_first

    def gather(self, value):
        return [value, 2 * value]


def lines_after(path, *, begin, steps, speed=None, ranks=None):
    lines = SpeedLines(path, EveryStepHasTen(), speed or Speed())
    lines.begin(begin)
    for step in steps:
        lines.add(step, ranks or Rank())
    return lines


def test_a_line_is_about_the_steps_since_the_one_before(tmp_path):
    speed = Speed()
    lines_after(tmp_path / "speed.jsonl", begin=0, steps=[1, 4], speed=speed)
    first, second = read_lines(tmp_path / "speed.jsonl")
    assert [(line["step"], line["tokens"]) for line in (first, second)] == [(1, 10), (4, 30)]
    assert first["peak_memory"][1] == 2 * first["peak_memory"][0]
    assert speed.tokens == 40


def test_a_resumed_stage_keeps_the_lines_up_to_its_checkpoint(tmp_path):
    path = tmp_path / "speed.jsonl"
    lines_after(path, begin=0, steps=[1, 2, 3, 4])
    kept = path.read_text().splitlines()[:2]
    lines_after(path, begin=2, steps=[4])
    assert path.read_text().splitlines()[:2] == kept
    assert [line["step"] for line in read_lines(path)] == [1, 2, 4]


def test_a_stage_that_starts_again_starts_its_lines_again(tmp_path):
    path = tmp_path / "speed.jsonl"
    lines_after(path, begin=0, steps=[1, 2, 3])
    lines_after(path, begin=0, steps=[1])
    assert [line["step"] for line in read_lines(path)] == [1]


@pytest.mark.parametrize("text", ["{", "[]\n", "", json.dumps({"tokens": 3})])
def test_a_damaged_file_stops_nothing(tmp_path, text):
    path = tmp_path / "speed.jsonl"
    path.write_text(text)
    lines_after(path, begin=5, steps=[6])
    assert [line["step"] for line in read_lines(path)] == [6]


def test_only_the_first_rank_writes_and_counts(tmp_path):
    speed = Speed()
    other = lines_after(
        tmp_path / "speed.jsonl", begin=0, steps=[1], speed=speed, ranks=Rank(is_first=False)
    )
    assert not (tmp_path / "speed.jsonl").exists()
    assert (speed.tokens, other.shown) == (0, {})


def test_curves_show_the_fullest_rank(tmp_path):
    lines = lines_after(tmp_path / "speed.jsonl", begin=0, steps=[3])
    (line,) = read_lines(tmp_path / "speed.jsonl")
    assert lines.shown == {
        "speed/tokens_per_second": line["tokens_per_second"],
        "speed/peak_memory": line["peak_memory"][1],
    }
