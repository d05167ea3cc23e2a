import json

import pytest
import yaml

from paper_figures import published_averages
from spin_train.errors import UserError


def policy_files(root, folder, *, nll):
    place = root / folder
    place.mkdir(parents=True)
    (place / "evaluation.json").write_text(json.dumps({"real_nll_per_token": nll}))


@pytest.fixture
def run(tmp_path):
    root = tmp_path / "mine"
    root.mkdir()
    config = {"model": "m", "data": {"path": "rows.jsonl"}, "iterations": 2, "control": True}
    (root / "config.yaml").write_text(yaml.safe_dump({**config, "output_dir": str(root)}))
    return root


def test_reported_numbers_are_the_papers():
    numbers = published_averages.compute()
    first, second, third = numbers.reported.values()
    assert first[0].values == {0: 58.14, 1: 60.80, 2: 62.12, 3: 62.97, 4: 63.16}
    assert second[0].values == {0: 5.94, 1: 6.46, 2: 6.65, 3: 6.78}
    assert [line.values[5] for line in third] == [40.62, 43.47, 41.79]
    assert numbers.runs == {}


def test_a_run_shows_its_exact_match_or_else_its_nll(run):
    from spin_train.api import open_run

    opened = open_run(run)
    for policy, nll in zip(opened.listed, (2.0, 1.5, 1.7, 1.4, 1.6), strict=True):
        folder = policy.evaluation.parent.relative_to(run)
        policy_files(run, folder, nll=nll)
    lines = published_averages.compute(runs=[run]).runs
    assert list(lines) == ["NLL [nats per token]"]
    own, control = lines["NLL [nats per token]"]
    assert own == published_averages.Line("mine", {0: 2.0, 1: 1.5, 2: 1.4})
    assert control == published_averages.Line("mine, control", {1: 1.7, 2: 1.6})
    opened.policy(1).answers_file.write_text(json.dumps({"exact_match": 0.25}))
    lines = published_averages.compute(runs=[run]).runs
    assert lines == {"exact match [%]": (published_averages.Line("mine", {1: 25.0}),)}
    assert len(published_averages.draw(published_averages.compute(runs=[run])).axes) == 6


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run at"):
        published_averages.compute(runs=[tmp_path])
