"""Exported pairs load elsewhere, come back here token for token, and lose nothing in silence."""

import json

import pytest

from spin_train.cli import app
from spin_train.config.files import parse_config
from spin_train.config.sections import DataConfig
from spin_train.config.yaml12 import yaml_text
from spin_train.data.records import Record, Response, read_records, write_records
from spin_train.data.rendering import Renderer
from spin_train.data.sources import read_rows
from spin_train.errors import UserError
from spin_train.report.export import WORDS, export
from spin_train.run.run import Run
from spin_train.stages.prepare import Limits, prepare_rows
from spin_train.system.files import write_json
from tests.train.tokenizers import CHATML, byte_level, sentence_piece

QUESTION, ANSWER = {"role": "user", "content": "a b"}, {"role": "assistant", "content": "ba"}
SYSTEM = {"role": "system", "content": "say a word"}
TEXTS = ["b ab", " ba\n", "", "say a word", "é\N{SNOWMAN} ab", "A: B:", "ab", "a"]


def chats():
    """Six chats of one turn; two with a system turn, two of several turns; one that weighs 2."""
    plain = [[{**QUESTION, "content": f"{n} a b"}, ANSWER] for n in range(6)]
    several = [[{**QUESTION, "content": f"{n}"}, ANSWER, QUESTION, ANSWER] for n in "xy"]
    system = [[SYSTEM, {**QUESTION, "content": f"{n}"}, ANSWER] for n in "pq"]
    rows = [{"messages": chat} for chat in (*plain, *several, *system)]
    rows[2]["weight"] = 2.0
    return rows


def scored_run(
    folder, rows, *, samples=1, held_out=1, tokenizer=None, change=lambda r: r, **settings
):
    """A run with one scored iteration, written without training anything."""
    folder.mkdir(parents=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model": str(folder / "model"),
        "data": {"path": str(path), "held_out": held_out},
        "output_dir": str(folder / "run"),
        "iterations": 2,
        "learning_rate": 1e-5,
    } | settings
    run = Run.of(parse_config(content))
    tokenizer = tokenizer or byte_level(chat_template=CHATML)
    tokenizer.save_pretrained(folder / "model")
    renderer = Renderer(tokenizer, run.config.template)
    directory = run.directory
    directory.data.mkdir(parents=True)
    directory.config_file.write_text(yaml_text(run.config.model_dump()), encoding="utf-8")
    summary = prepare_rows(
        run.config.data,
        renderer,
        Limits(128, 4, 300),
        train=directory.train_rows,
        held_out=directory.held_out_rows,
        seed=0,
    )
    stops = {"stop_id": renderer.stop_id, "stop_ids": [renderer.stop_id]}
    write_json(directory.data_summary, summary | stops)

    def sampled(record):
        texts = [TEXTS[(record.prompt_id + n) % len(TEXTS)] for n in range(samples)]
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        answers = [Response("generated", [*one, renderer.stop_id], "stop", 0) for one in ids]
        return change(
            Record(
                record.prompt_id, record.prompt_ids, [*record.responses, *answers], record.weight
            )
        )

    scored = directory.iteration(0) / "scored"
    for split, path in (("train", directory.train_rows), ("held_out", directory.held_out_rows)):
        write_records(scored / f"{split}-00000.parquet", map(sampled, read_records(path)))
    return run, renderer


def pairs_of(run, split="train"):
    """Token ids and weight of each pair as they were scored."""
    path = run.directory.iteration(0) / "scored" / f"{split}-00000.parquet"
    return [
        (record.prompt_ids, real.ids, sample.ids, record.weight)
        for record in read_records(path)
        for real in record.of_role("real")
        for sample in record.of_role("generated")
    ]


def read_back(path, renderer, **settings):
    """The same of a file that was exported, as `generation.engine: given` reads it."""
    rows = list(read_rows(DataConfig(path=str(path), **settings)))
    assert all(row.unused == () for row in rows)
    return [(*renderer.render(row), renderer.render_given(row), row.weight) for row in rows]


@pytest.mark.parametrize("samples", [1, 3])
def test_trl_pairs_come_back_token_for_token(tmp_path, samples):
    run, renderer = scored_run(tmp_path / "a", chats(), samples=samples)
    found = export(run, "trl", tmp_path / "out")
    for split, name in (("train", "train"), ("held_out", "test")):
        assert read_back(tmp_path / "out" / f"{name}.parquet", renderer) == pairs_of(run, split)
    assert found.pairs["train"] == len(pairs_of(run))
    assert set(found.counts) <= {"weighted"}


def test_spin_pairs_come_back_token_for_token_but_for_chats_that_the_form_cannot_hold(tmp_path):
    run, renderer = scored_run(tmp_path / "a", chats())
    found = export(run, "spin", tmp_path / "out")
    back = read_back(tmp_path / "out" / "train.parquet", renderer)
    assert 0 < len(back) < len(pairs_of(run))
    assert [pair for pair in pairs_of(run) if pair in back] == back
    assert (found.counts["left_out_turns"], found.counts["left_out_system"]) == (2, 2)
    assert sum(found.pairs.values()) == 6


def test_the_files_are_what_the_readers_expect_and_load_with_datasets(tmp_path):
    import datasets

    run, _ = scored_run(tmp_path / "a", chats(), held_out=4)
    export(run, "spin", tmp_path / "spin")
    export(run, "trl", tmp_path / "trl")
    spin, trl = (
        datasets.load_dataset(str(tmp_path / form), cache_dir=str(tmp_path / "cache"))
        for form in ("spin", "trl")
    )
    assert set(spin) == set(trl) == {"train", "test"}
    for row in spin["train"]:
        for name in ("real", "generated"):
            assert [list(turn) for turn in row[name]] == [["role", "content"]] * 2
            assert [turn["role"] for turn in row[name]] == ["user", "assistant"]
        assert row["real"][0] == row["generated"][0]
    several = 0
    for row in trl["train"]:
        assert set(row) - {"weight"} == {"prompt", "chosen", "rejected"}
        assert row["prompt"][-1]["role"] == "user"
        assert [turn["role"] for turn in (*row["chosen"], *row["rejected"])] == ["assistant"] * 2
        several += len(row["prompt"]) > 1
    several += sum(len(row["prompt"]) > 1 for row in trl["test"])
    assert several == 4


def test_samples_that_text_cannot_give_back_are_counted(tmp_path):
    def cut_before_the_end(record):
        *before, sample = record.responses
        cut = Response("generated", sample.ids[:-1], "length", 0)
        return Record(record.prompt_id, record.prompt_ids, [*before, cut], record.weight)

    run, _ = scored_run(tmp_path / "cut", chats(), change=cut_before_the_end)
    found = export(run, "trl", tmp_path / "out")
    assert found.counts["cut_samples"] == 10
    assert "generated_otherwise" not in found.counts

    tokenizer = byte_level(chat_template=CHATML)

    def one_by_one(record):
        real, _ = record.responses
        ids = [i for c in "ab a" for i in tokenizer(c, add_special_tokens=False).input_ids]
        assert ids != tokenizer("ab a", add_special_tokens=False).input_ids
        other = Response("generated", [*ids, real.ids[-1]], "stop", 0)
        return Record(record.prompt_id, record.prompt_ids, [real, other], record.weight)

    run, _ = scored_run(tmp_path / "letters", chats(), change=one_by_one)
    assert export(run, "trl", tmp_path / "out2").counts["generated_otherwise"] == 10


def test_special_tokens_that_were_sampled_stay_in_the_text_and_are_counted(tmp_path):
    tokenizer = byte_level(chat_template=CHATML)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")

    def with_special(record):
        real, sample = record.responses
        other = Response("generated", [start, *sample.ids], "stop", 0)
        return Record(record.prompt_id, record.prompt_ids, [real, other], record.weight)

    run, _ = scored_run(tmp_path / "a", chats(), change=with_special)
    found = export(run, "trl", tmp_path / "out")
    assert found.counts["generated_otherwise"] == 10
    rows = list(read_rows(DataConfig(path=str(tmp_path / "out" / "train.parquet"))))
    assert all(row.given.startswith("<|im_start|>") for row in rows)


def test_a_sample_that_no_text_gives_back_is_counted_and_ends_nothing(tmp_path):
    """The tokenizer has no k, so `<unk>` cannot be written as text; a run found it."""
    tokenizer = sentence_piece(chat_template=CHATML)
    unknown = tokenizer.unk_token_id

    def with_unknown(record):
        real, sample = record.responses
        other = Response("generated", [unknown, sample.ids[-1]], "stop", 0)
        return Record(record.prompt_id, record.prompt_ids, [real, other], record.weight)

    run, _ = scored_run(tmp_path / "a", chats(), tokenizer=tokenizer, change=with_unknown)
    found = export(run, "trl", tmp_path / "out")
    assert found.counts["generated_refused"] == sum(found.pairs.values()) == 10
    assert "generated_otherwise" not in found.counts


def test_cut_prompts_and_proto_responses_are_counted(tmp_path):
    def changed(record):
        proto = Response("proto", record.responses[-1].ids, "stop", 0)
        return Record(
            record.prompt_id, record.prompt_ids[1:], [*record.responses, proto], record.weight
        )

    run, _ = scored_run(tmp_path / "a", chats(), change=changed)
    counts = export(run, "trl", tmp_path / "out").counts
    assert (counts["prompts_otherwise"], counts["left_out_proto"]) == (10, 10)
    assert "real_otherwise" not in counts


def test_turns_with_more_than_a_text_are_left_out_and_counted(tmp_path):
    thought = {"messages": [QUESTION, {**ANSWER, "reasoning_content": "hm"}]}
    template = CHATML.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}")
    run, _ = scored_run(
        tmp_path / "a", [*chats(), thought], tokenizer=byte_level(chat_template=template)
    )
    found = export(run, "trl", tmp_path / "out")
    assert found.counts["left_out_tools"] == 1
    assert sum(found.pairs.values()) == 10


def test_where_nothing_fits_the_form_nothing_is_written(tmp_path):
    rows = [row for row in chats() if len(row["messages"]) > 2]
    run, _ = scored_run(tmp_path / "a", rows)
    with pytest.raises(UserError, match=r"no pair of iteration 0 fits --as spin: .* system turn"):
        export(run, "spin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_directory_says_what_it_holds(tmp_path, capsys):
    run, _ = scored_run(tmp_path / "a", chats())
    out = tmp_path / "out"
    app(["export", str(run.root), "--as", "spin", "--to", str(out)], standalone_mode=False)
    printed, card = capsys.readouterr().out, (out / "README.md").read_text("utf-8")
    for text in (f"2 {WORDS['left_out_system']}", f"2 {WORDS['left_out_turns']}"):
        assert text in printed
        assert text in card
    assert f"{out}/train.parquet: " in printed
    assert "Pairs of iteration 0 for the official SPIN code" in card
    assert {path.name for path in out.iterdir()} <= {"README.md", "test.parquet", "train.parquet"}


def test_what_cannot_be_exported_is_one_line(tmp_path):
    run, _ = scored_run(tmp_path / "a", chats())
    with pytest.raises(UserError, match=r"iteration 1 of .* is not scored yet"):
        export(run, "trl", tmp_path / "out", iteration=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="full exists; name a new directory"):
        export(run, "trl", tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    rows = tmp_path / "a" / "rows.jsonl"
    rows.write_text(rows.read_text() + json.dumps({"messages": [QUESTION, ANSWER]}) + "\n")
    with pytest.raises(UserError, match=r"is not what the run was made of \(sha256 "):
        export(run, "trl", tmp_path / "out")
    rows.unlink()
    with pytest.raises(UserError, match="nothing lies at "):
        export(run, "trl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
