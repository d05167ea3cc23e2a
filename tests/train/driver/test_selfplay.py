from spin_train.driver import selfplay
from spin_train.run.directory import RunDirectory
from spin_train.run.manifest import Manifest
from spin_train.system.files import write_json


def test_what_was_left_out_of_the_data_is_said_once_they_are_prepared(tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    write_json(directory.data_summary, {"notes": ["3 rows were left out"]})
    assert not selfplay.tell(directory)  # of an earlier start, perhaps
    assert caplog.messages == []
    Manifest(directory).complete("prepare", [directory.data_summary], seconds=1.0)
    assert selfplay.tell(directory)
    assert caplog.messages == ["data: 3 rows were left out"]


def test_data_prepared_by_an_earlier_version_have_nothing_to_say(tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    write_json(directory.data_summary, {"stop_id": 2})
    Manifest(directory).complete("prepare", [directory.data_summary], seconds=1.0)
    assert selfplay.tell(directory)
    assert caplog.messages == []
