"""A run on a pretrained model and real stories, at small size."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.stories import markdown_table, story_rows, write_run
from spin_train.data.records import read_records
from spin_train.run.run import Run
from tests.train.runs import run

pytestmark = pytest.mark.process


def test_a_story_gives_its_first_two_sentences_and_the_next_two():
    story = 'A dog ran. "Stop!" said Tim.\n\nThe dog did not. It was fun. They went home.'
    assert story_rows([story, "Too short. To use.", "Brøken. Quotes. Are. Left out."]) == [
        {"prompt": 'A dog ran. "Stop!" said Tim.', "response": " The dog did not. It was fun."}
    ]


@pytest.fixture(scope="module")
def finished(data_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("stories")
    config = write_run(
        data_folder,
        out,
        rows=64,
        data={"held_out": 12},
        generation={"max_new_tokens": 40, "batch_size": 32},
    )
    code, stdout, stderr = run("run", out / "stories.yaml")
    assert code == 0, stderr
    return config, out / "run", stdout


def test_two_iterations_of_two_ranks_on_a_real_model_give_loadable_policies(finished):
    config, folder, _ = finished
    assert (config.ranks, config.zero_stage, config.iterations) == (2, 2, 2)
    for name in ("sft", "iter0", "iter1", "control/iter1"):
        AutoModelForCausalLM.from_pretrained(folder / name / "policy")


def test_real_responses_end_with_one_eos_although_pad_is_eos(finished):
    _, folder, _ = finished
    tokenizer = AutoTokenizer.from_pretrained(folder / "sft" / "policy")
    end = tokenizer.eos_token_id
    for record in read_records(folder / "data" / "train.parquet"):
        (real,) = record.responses
        assert real.ids[-1] == end
        assert real.ids.count(end) == 1
        assert tokenizer.decode(record.prompt_ids + real.ids[:-1]).startswith("<s>")


def test_samples_cut_at_the_limit_have_no_end_of_text(finished):
    _, folder, _ = finished
    ends = set(json.loads((folder / "data" / "summary.json").read_text())["stop_ids"])
    shards = sorted((folder / "iter0" / "generations").glob("*.parquet"))
    samples = [r for shard in shards for record in read_records(shard) for r in record.responses]
    cut = [sample for sample in samples if sample.finish_reason == "length"]
    assert cut
    assert all(len(sample.ids) == 40 and not ends & set(sample.ids) for sample in cut)
    ended = [sample for sample in samples if sample.finish_reason == "stop"]
    assert all(sample.ids[-1] in ends and not ends & set(sample.ids[:-1]) for sample in ended)


def test_held_out_numbers_are_those_of_a_language_model(finished):
    """A model of 512 tokens that knew nothing would be at log 512 = 6.24 nats per token."""
    _, folder, stdout = finished
    initial = json.loads((folder / "initial" / "evaluation.json").read_text())
    assert 1.0 < initial["real_nll_per_token"] < 2.2
    assert "p_2" in stdout
    assert markdown_table(Run.open(folder)).count("\n") == 6
