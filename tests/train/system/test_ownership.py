import json
from pathlib import Path

import pytest

from spin_train.config.files import parse_config
from spin_train.config.sections import DataConfig
from spin_train.data.sources import read_rows, source_of
from spin_train.demo import build
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.grid import play_grid
from spin_train.run.run import Run
from spin_train.system.ownership import claim

MINE = {
    "data/train.parquet": "mine",
    "data/download.partial": "half of something of mine",
    "config.yaml": "mine: true\n",
    "iter0/notes.partial": "mine",
    "rows.jsonl": "{}\n",
}


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def run_in(folder):
    return Run.of(parse_config({"model": "m", "data": {"path": "d"}, "output_dir": str(folder)}))


@pytest.fixture
def played(monkeypatch):
    """Runs whose workers do nothing."""
    monkeypatch.setattr(selfplay, "refuse_early", lambda *_, **__: None)
    monkeypatch.setattr(selfplay, "build_communication_op", lambda: None)
    monkeypatch.setattr(selfplay, "work_locally", lambda run, watch: None)
    return selfplay.play


@pytest.mark.parametrize("name", MINE)
def test_a_run_changes_nothing_in_a_folder_of_other_files(tmp_path, played, name):
    write(tmp_path, {name: MINE[name]})
    with pytest.raises(UserError, match=r"nothing of yours is overwritten: .* new or empty"):
        played(run_in(tmp_path))
    assert contents(tmp_path) == {name: MINE[name]}


def test_a_manifest_of_another_program_makes_no_run(tmp_path, played):
    texts = [
        "{}",
        "[]",
        "not JSON",
        '{"stages": ["build"]}',
        '{"stages": {"build": {"image": "x"}}}',
    ]
    texts += ['{"stages": {}, "name": "pipeline"}', '{"stages": {}, "versions": "2"}']
    for text in texts:
        write(tmp_path, {"manifest.json": text})
        with pytest.raises(UserError, match=r"manifest\.json"):
            played(run_in(tmp_path))
        assert contents(tmp_path) == {"manifest.json": text}


def test_a_link_to_a_folder_of_other_files_is_that_folder(tmp_path, played):
    write(tmp_path / "home", MINE)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.raises(UserError, match="and 1 more"):
        played(run_in(tmp_path / "link"))
    assert contents(tmp_path / "home") == MINE


def test_an_empty_folder_becomes_a_run_and_stays_one(tmp_path, played):
    root = tmp_path / "run"
    (root / "lost+found").mkdir(parents=True)  # of a disk mounted there
    (root / ".lock").touch()  # of a start that got no further
    played(run_in(root))
    write(root, {"data/notes.partial": "mine"})
    played(run_in(root))
    assert contents(root)["data/notes.partial"] == "mine"


def test_a_folder_that_stands_where_a_lock_goes_is_refused(tmp_path, played):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"\(\.lock\)"):
        played(run_in(tmp_path))


def test_half_written_files_of_another_run_inside_are_left_to_it(tmp_path, played):
    """Its own process may be writing them."""
    played(run_in(tmp_path))
    played(run_in(tmp_path / "other"))
    theirs = {"other/data/rows.spin-partial": "half", "other/iter0/policy.spin-partial/a": "half"}
    write(tmp_path, {**theirs, "data/rows.spin-partial": "left", "iter0/p.spin-partial/a": "left"})
    (tmp_path / "link.spin-partial").symlink_to(tmp_path / "other")
    played(run_in(tmp_path))
    left = {name: text for name, text in contents(tmp_path).items() if "spin-partial" in name}
    assert left == theirs


def test_a_folder_is_claimed_before_rows_are_written_to_it(tmp_path, played):
    """A start that is killed right after must be able to go on."""
    seen = []
    played(run_in(tmp_path), before=lambda: seen.append(claim(tmp_path)))
    assert seen == [None]


def test_the_demo_and_a_grid_overwrite_nothing_either(tmp_path):
    write(tmp_path, MINE)
    with pytest.raises(UserError, match=r"--out .* holds files that are not of a run"):
        build(tmp_path, ranks=1)
    write(tmp_path / "other", {"demo.yaml": "mine: true\n"})
    with pytest.raises(UserError, match=r"\(demo\.yaml\)"):
        build(tmp_path / "other", ranks=1)
    assert contents(tmp_path / "other") == {"demo.yaml": "mine: true\n"}
    (tmp_path / "other" / "demo.yaml").unlink()
    write(tmp_path, {"grid.json": "mine"})
    with pytest.raises(UserError, match=r"grid\.json is not of a grid"):
        play_grid(Path("config.yaml"), tmp_path, axes={"learning_rate": ["0.1"]}, seeds=[0])
    assert contents(tmp_path) == {**MINE, "grid.json": "mine"}


def test_runs_in_the_folder_of_the_data_are_not_data(tmp_path):
    rows = "".join(json.dumps({"prompt": f"p{i}", "response": f"r{i}"}) + "\n" for i in range(3))
    write(tmp_path, {"rows.jsonl": rows})
    data = DataConfig(path=str(tmp_path))
    before = list(read_rows(data)), source_of(data)
    assert len(before[0]) == 3
    run = {"manifest.json": '{"stages": {}}', "config.yaml": "a: 1", "results.json": '[{"a": 1}]'}
    write(tmp_path / "runs" / "a", {**run, "data/train.jsonl": '{"b": 2}\n'})
    write(tmp_path / "grid", {"grid.json": '{"c": 3}'})
    write(tmp_path / "grid" / "seed0" / "0.1", run)
    write(tmp_path / "demo", {"demo.yaml": "", "rows.jsonl": '{"d": 4}\n'})
    write(tmp_path / "demo" / "run", run)
    assert (list(read_rows(data)), source_of(data)) == before


def test_a_run_alone_is_no_data(tmp_path):
    write(tmp_path, {"manifest.json": '{"stages": {}}', "results.json": '[{"a": 1}]'})
    with pytest.raises(UserError, match="the folder returned no rows"):
        list(read_rows(DataConfig(path=str(tmp_path))))
