"""`spin-train fetch` on a machine with a network, and the run on one without."""

import hashlib
import json
import os
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.train.runs import make_config, refused, run, succeed

pytestmark = pytest.mark.process
NAME, COMMIT = "someone/tiny", "0" * 39 + "1"


@pytest.fixture
def hub(tmp_path):
    """A stand-in of the hub that serves the files of a folder, and notes which were asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, body=b"", status=200, **headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def _do(self):
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{NAME}"):
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                tree = [
                    {"type": "file", "path": file.name, "oid": "0" * 40, "size": 1}
                    for file in sorted(folder.iterdir())
                ]
                found = tree if "/tree/" in path else {"id": NAME, "sha": COMMIT, "siblings": files}
                return self._answer(json.dumps(found).encode(), Content_Type="application/json")
            file = folder / path.rpartition("/")[2]
            if not path.startswith(f"/{NAME}/resolve/") or not file.is_file():
                return self._answer(status=404, X_Error_Code="EntryNotFound")
            content = file.read_bytes()
            if self.command == "GET":
                asked.append(file.name)
            etag = hashlib.sha256(content).hexdigest()
            return self._answer(content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

        do_GET = do_HEAD = _do  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, asked, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_was_fetched_is_all_that_a_run_needs(tmp_path, hub, monkeypatch):
    folder, asked, address = hub
    config = make_config(tmp_path, iterations=1, sft=None, ranks=2)
    shutil.copytree(tmp_path / "model", folder, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in a form that is not read")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write('{"prompt": "ab", "response": "ab", "note": "not used"}\n')
    code, out, err = run("fetch", config, f"model={NAME}")
    assert code == 0, err
    assert re.search(r"^data: .*\bnote\b", err, re.MULTILINE), err  # nothing is left out silently
    assert COMMIT in out
    assert f"rows: prepared in {tmp_path / 'run/data'}" in out
    assert set(asked) == {path.name for path in folder.iterdir()} - {"pytorch_model.bin"}
    assert sorted(os.listdir(tmp_path / "run/logs"))  # one worker prepared the rows
    asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    succeed("run", tmp_path / "run/config.yaml")
    assert asked == []
    assert json.loads((tmp_path / "run/results.json").read_text())[-1]["policy"] == "p_1"


def test_a_model_that_the_hub_does_not_have_is_named(tmp_path, hub, monkeypatch):
    config = make_config(tmp_path, iterations=1, sft=None)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", hub[2])
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    line = refused("fetch", config, "model=someone/else")
    assert "model: someone/else (revision main) cannot be fetched" in line
    assert not (tmp_path / "run").exists()
