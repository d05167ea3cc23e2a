"""The samples stand in TensorBoard and W&B as text, and no reporter ends a run."""

import sys
import types

import pytest

from spin_train.config.files import parse_config
from spin_train.run.graph import stages_of
from spin_train.run.run import Run
from spin_train.stages.shown import PROMPTS_SHOWN, end_reports, reporters_of, show_samples
from tests.train.finished import HOSTILE, finish


@pytest.fixture
def run(tmp_path):
    return finish(tmp_path / "run", prompts=PROMPTS_SHOWN + 5)


def reporting_to(run, *names):
    """The run with these reporters."""
    changed = run.config.model_dump()
    changed["training"]["report_to"] = list(names)
    return Run(parse_config(changed), run.directory)


def stage(run, kind, iteration):
    return next(s for s in stages_of(run.config) if (s.kind, s.iteration) == (kind, iteration))


def texts(run):
    """Text by step of the events that were written, one folder each; none stands there twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in (run.directory.logs / "tensorboard" / "samples").iterdir():
        events = EventAccumulator(str(folder))
        events.Reload()
        (event,) = events.Tensors("samples/text_summary")
        assert folder.name == f"p_{event.step}"
        found[event.step] = event.tensor_proto.string_val[0].decode()
    return found


class FakeWandb(types.ModuleType):
    """As much of wandb as a table takes. wandb itself is not installed for tests."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace(name="wandb")
        self.run, self.begun, self.logged, self.finished = None, [], [], 0

    def init(self, **settings):
        self.begun.append(settings)
        self.run = object()

    def Table(self, columns, data):  # noqa: N802
        assert all(len(row) == len(columns) for row in data)
        return {"columns": columns, "data": data}

    def log(self, what):
        self.logged.append(what)

    def finish(self):
        self.finished += 1
        self.run = None


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_tensorboard_shows_every_policys_answers_to_the_first_prompts_by_step(run):
    for kind, iteration in (("generate", 0), ("generate", 1), ("sample", 1)):
        show_samples(run, stage(run, kind, iteration))
    found = texts(run)
    assert sorted(found) == [0, 1, 2]
    for k in (0, 1, 2):
        assert f"**p_{k}**\n\n    sample of p_{k} for 7" in found[k]
    assert found[2].count("### Prompt ") == PROMPTS_SHOWN
    assert "**human**\n\n    human 7" in found[2]
    assert "sample of p_0 for 1 [cut at max_new_tokens]" in found[2]
    assert "greedy" not in found[2]


def test_hostile_text_is_code_line_by_line(run):
    show_samples(run, stage(run, "sample", 1))
    (text,) = texts(run).values()
    lines = text.splitlines()
    assert any(HOSTILE in line for line in lines)
    for line in lines:
        named = line.startswith(("### Prompt ", "**")) or not line
        assert named or line.startswith("    ")
        assert named or not line.strip("\n").isspace() or line == "     "
    assert "\\x07" in text
    assert "\x07" not in text


def test_a_step_that_is_done_again_stands_there_once(run):
    for _ in range(2):
        show_samples(run, stage(run, "generate", 0))
        show_samples(run, stage(run, "generate", 1))
    assert sorted(texts(run)) == [0, 1]


def test_wandb_gets_a_table_with_a_row_per_response(run, wandb):
    of_wandb = reporting_to(run, "wandb")
    show_samples(of_wandb, stage(run, "sample", 1))
    assert wandb.begun == [{"project": "huggingface", "name": "run"}]
    ((key, table),) = wandb.logged[0].items()
    assert key == "samples/p_2"
    assert table["columns"] == ["prompt_id", "prompt", "who", "response"]
    rows = {(row[0], row[2]): row[3] for row in table["data"]}
    assert len({number for number, _ in rows}) == PROMPTS_SHOWN
    assert rows[17, "human"].strip() == "human 7"
    assert rows[17, "p_1"] == "sample of p_1 for 7"
    assert rows[17, "p_2"] == "sample of p_2 for 7"
    assert not (run.directory.logs / "tensorboard").exists()


def test_a_run_that_wandb_has_begun_is_gone_on_with_and_ended(run, wandb):
    wandb.run = object()
    show_samples(reporting_to(run, "wandb"), stage(run, "generate", 0))
    assert wandb.begun == []
    end_reports()
    end_reports()
    assert wandb.finished == 1


def test_a_reporter_that_fails_is_named_and_the_other_still_shows(run, wandb, caplog):
    def fail(what):
        raise ConnectionError("no\nroute")

    wandb.log = fail
    show_samples(reporting_to(run, "wandb", "tensorboard"), stage(run, "generate", 0))
    assert "samples are not shown in wandb: no route" in caplog.text
    assert sorted(texts(run)) == [0]


@pytest.mark.parametrize("given", ["none", [], None, ["mlflow"]])
def test_where_neither_is_on_nothing_is_written(run, given):
    changed = run.config.model_dump()
    changed["training"]["report_to"] = given
    show_samples(Run(parse_config(changed), run.directory), stage(run, "generate", 0))
    assert not (run.directory.logs / "tensorboard").exists()


def test_reporters_are_those_of_the_configuration(run):
    assert reporters_of(run.config) == ["tensorboard"]
    assert reporters_of(reporting_to(run, "wandb", "mlflow").config) == ["wandb", "mlflow"]
    assert "tensorboard" in reporters_of(reporting_to(run, "all").config)
