from spin_train.driver.watching import Window
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import PREPARE
from spin_train.run.manifest import Manifest
from spin_train.system.files import write_json


def test_what_was_left_out_of_the_data_is_said_once_they_are_prepared(tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    write_json(directory.data_summary, {"notes": ["3 rows were left out"]})
    window = Window(directory, None)
    window.look()  # at what an earlier start has left, perhaps
    assert caplog.messages == []
    Manifest(directory).complete(PREPARE, [directory.data_summary], seconds=1.0)
    window.look()
    window.look()
    assert caplog.messages == ["data: 3 rows were left out"]


def test_data_prepared_by_an_earlier_version_have_nothing_to_say(tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    write_json(directory.data_summary, {"stop_id": 2})
    Manifest(directory).complete(PREPARE, [directory.data_summary], seconds=1.0)
    Window(directory, None).look()
    assert caplog.messages == []


def test_each_stage_that_is_over_is_shown_once(tmp_path):
    directory = RunDirectory(tmp_path)
    seen = []
    window = Window(directory, lambda *shown: seen.append(shown))
    window.look()  # nothing is written yet
    assert seen == []
    report = {"stages": ["sft/train", "iter0/generate"], "done": 2, "total": 8, "note": "n"}
    write_json(directory.progress, report)
    window.look()
    window.look()
    now = ("iter0/generate", 2, 8, "n")
    assert seen == [("sft/train", 1, 1, ""), now, now]
