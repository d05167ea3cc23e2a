import pytest
import torch

from spin_train.system.files import read_json, write_json
from spin_train.training.sums import MetricSums, sums_of_rank

BATCHES = [
    ({"logps": torch.tensor([-1.25, -3.1]), "right": torch.tensor([1.0, 0.0])}, 0.7),
    ({"logps": torch.tensor([-0.1]), "right": torch.tensor([1.0])}, 0.2),
    ({"logps": torch.tensor([-9.7, 1e-3, 4.0]), "right": torch.tensor([0.0, 1.0, 1.0])}, 1 / 3),
]
CPU = torch.device("cpu")


class OneRank:
    size = 1

    def sum(self, values):
        return values


class TwoEqualRanks:
    size = 2

    def sum(self, values):
        return 2 * values


def add(sums, batches):
    for values, loss in batches:
        sums.add(values, loss=torch.tensor(loss), counts=True)


def test_means_are_over_examples_and_the_loss_is_that_of_a_step():
    sums = MetricSums()
    add(sums, BATCHES)
    expected = {
        "loss": sum(loss for _, loss in BATCHES) / 2,
        "logps": torch.cat([values["logps"] for values, _ in BATCHES]).double().mean().item(),
        "right": 4 / 6,
    }
    assert sums.means(OneRank(), step=2) == pytest.approx(expected, rel=1e-7)


def test_every_line_starts_anew():
    sums = MetricSums()
    add(sums, BATCHES[:2])
    sums.means(OneRank(), step=10)
    add(sums, BATCHES[2:])
    again = MetricSums()
    add(again, BATCHES[2:])
    assert sums.means(OneRank(), step=11) == again.means(OneRank(), step=1)
    assert sums.means(OneRank(), step=12) == {}


def test_a_filler_counts_for_nothing_and_names_the_same_metrics():
    sums = MetricSums()
    add(sums, BATCHES)
    sums.add(BATCHES[0][0], loss=torch.tensor(0.0), counts=False)
    without = MetricSums()
    add(without, BATCHES)
    assert sums.means(OneRank(), step=1) == without.means(OneRank(), step=1)


def test_ranks_that_do_the_same_give_what_one_gives():
    one, two = MetricSums(), MetricSums()
    add(one, BATCHES)
    add(two, BATCHES)
    assert two.means(TwoEqualRanks(), step=3) == pytest.approx(one.means(OneRank(), step=3))


@pytest.mark.parametrize("cut", range(1, len(BATCHES)))
def test_what_a_checkpoint_keeps_goes_on_to_the_same_bits(tmp_path, cut):
    whole = MetricSums()
    add(whole, BATCHES[:1])
    whole.means(OneRank(), step=4)  # a line before the checkpoint
    begun = MetricSums()
    add(begun, BATCHES[:1])
    begun.means(OneRank(), step=4)
    add(whole, BATCHES)
    add(begun, BATCHES[:cut])
    begun.write(tmp_path / "sums.json")
    resumed = MetricSums()
    resumed.read(tmp_path / "sums.json", device=CPU)
    add(resumed, BATCHES[cut:])
    assert resumed.means(OneRank(), step=7) == whole.means(OneRank(), step=7)


@pytest.mark.parametrize("ranks", [1, 3])
def test_other_ranks_go_on_from_the_sums_of_two(tmp_path, ranks):
    two = MetricSums()
    add(two, BATCHES)
    two.write(tmp_path / "sums.json")
    written = [read_json(tmp_path / "sums.json")] * 2
    parts = []
    for rank in range(ranks):
        write_json(tmp_path / "part.json", sums_of_rank(written, rank, ranks))
        parts.append(MetricSums())
        parts[-1].read(tmp_path / "part.json", device=CPU)
    assert len({tuple(part._sums) for part in parts}) == 1  # they are summed name by name

    class AllRanks:
        size = ranks

        def sum(self, values):
            return values  # the others have zeros

    assert parts[0].means(AllRanks(), step=3) == two.means(TwoEqualRanks(), step=3)
    others = [sums_of_rank(written, rank, ranks) for rank in range(1, ranks)]
    assert all(set(other["sums"].values()) == {other["loss"]} == {0.0} for other in others)


def test_a_checkpoint_of_an_older_version_has_no_sums(tmp_path):
    sums = MetricSums()
    sums.read(tmp_path / "missing.json", device=CPU)
    assert sums.means(OneRank(), step=1) == {}
