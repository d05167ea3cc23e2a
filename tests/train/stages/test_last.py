"""The last policy answers as it would as the opponent of one more iteration."""

from contextlib import contextmanager
from functools import partial

import pytest
from transformers import AutoModelForCausalLM

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, read_records, write_records
from spin_train.run.graph import stages_of
from spin_train.run.run import Run
from spin_train.sampling.play import fill_shards
from spin_train.sampling.transformers_engine import sample
from spin_train.stages.held import Whole
from spin_train.stages.last import sample_last
from spin_train.system.files import write_json
from spin_train.system.speed import Speed
from tests.train.runs import make_model


def configured(root, **changes):
    return Config(
        model="none",
        data={"path": "none"},
        output_dir=str(root),
        **{"iterations": 2, "generation": {"max_new_tokens": 5, "samples_per_prompt": 2}} | changes,
    )


class Work:
    """Stand-in for `Work` of one of several ranks; the others' samples are those of `others`."""

    def __init__(self, run, rank=0, size=1, others=()):
        self.run, self.config, self.ranks = run, run.config, self
        self.rank, self.size, self.is_first = rank, size, rank == 0
        self._others = list(others)
        self.speed = Speed()
        self.played = None

    def gather(self, own):
        self.played = own
        return [own, *self._others]

    def visit(self, *_):
        pass

    @contextmanager
    def holding(self, policy, stage):
        yield Whole(lambda: AutoModelForCausalLM.from_pretrained(policy.source).eval(), self.visit)


@pytest.fixture
def run(tmp_path):
    run = Run.of(configured(tmp_path))
    rows = [Record(n, [3 + n % 8, 4, 2], [Response("real", [5, 0], "stop")]) for n in range(9)]
    write_records(run.directory.held_out_rows, rows)
    write_records(run.directory.train_rows, [])
    write_json(run.directory.data_summary, {"stop_id": 0})
    make_model(run.policy(2).source)
    return run


def samples_of(records):
    return [[(r.ids, r.finish_reason, r.iteration) for r in record.responses] for record in records]


def test_the_draws_are_those_of_one_more_iteration(run):
    (path,) = sample_last(Work(run), stages_of(run.config)[-1])
    model = AutoModelForCausalLM.from_pretrained(run.policy(2).source).eval()
    fill_shards(
        run.config,
        run.directory,
        2,
        lambda finished: partial(sample, model, finished=finished),
        visit=lambda *_: None,
    )
    folder = run.directory.iteration(2) / "generations"
    again = read_records(*sorted(folder.glob("held_out-*.parquet")))
    assert samples_of(read_records(path)) == samples_of(again)
    assert {len(record.responses) for record in again} == {2}


def test_ranks_share_the_prompts_and_the_first_writes_them_in_order(run):
    stage = stages_of(run.config)[-1]
    (path,) = sample_last(Work(run), stage)
    alone = samples_of(read_records(path))
    path.unlink()
    second = Work(run, rank=1, size=2)
    sample_last(second, stage)
    assert not path.exists()
    sample_last(Work(run, size=2, others=[second.played]), stage)
    assert [record.prompt_id for record in read_records(path)] == list(range(9))
    assert samples_of(read_records(path)) == alone


def test_it_is_the_last_stage_and_can_be_switched_off():
    last = stages_of(configured("run", control=True))[-1]
    assert (last.name, last.iteration, last.control) == ("iter1/sample", 1, False)
    given = {"generation": {"engine": "given"}, "iterations": 1}
    for changes in ({"evaluation": {"samples": False}}, given):
        kinds = [stage.kind for stage in stages_of(configured("run", **changes))]
        assert "sample" not in kinds
