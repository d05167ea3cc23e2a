import logging
import os

import pytest

from spin_train.config.files import parse_config
from spin_train.driver.inputs import require_inputs, warn_of_crowding
from spin_train.errors import UserError


def config(model, data):
    return parse_config({"model": str(model), "data": {"path": str(data)}, "output_dir": "run"})


@pytest.fixture
def there(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    return tmp_path / "model", tmp_path / "rows.jsonl"


def test_what_is_there_or_may_be_on_the_hub_passes(there, monkeypatch, tmp_path):
    model, rows = there
    require_inputs(config(model, rows))
    require_inputs(config("HuggingFaceTB/SmolLM2-135M-Instruct", "openai/gsm8k"))
    require_inputs(config("gpt2", "squad"))
    require_inputs(config(model, tmp_path))
    monkeypatch.chdir(tmp_path)
    require_inputs(config("model", "rows.jsonl"))


@pytest.mark.parametrize("model", ["/no/model", "./model", "../model", "runs/a/model"])
def test_a_model_that_is_no_hub_name_must_be_there(there, model):
    with pytest.raises(UserError, match=f"no directory .*{model.lstrip('./')}"):
        require_inputs(config(model, there[1]))


@pytest.mark.parametrize("data", ["/no/rows", "rows.jsonl", "data/rows.parquet", "rows.json.gz"])
def test_data_that_are_no_hub_name_must_be_there(there, monkeypatch, tmp_path, data):
    monkeypatch.chdir(tmp_path / "model")
    with pytest.raises(UserError, match=f"no data file at {data}; correct data.path"):
        require_inputs(config(there[0], data))


@pytest.mark.parametrize(("ranks", "told"), [(1, False), (3, False), (4, True)])
def test_more_ranks_than_cores_are_named(monkeypatch, caplog, ranks, told):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    with caplog.at_level(logging.WARNING):
        warn_of_crowding(ranks)
    assert (f"{ranks} ranks share 3 cores" in caplog.text) == told
