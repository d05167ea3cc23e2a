"""A policy goes to a stand-in of the hub: what arrives is what was said, and no byte more."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spin_train.cli import app
from spin_train.errors import UserError
from spin_train.report.push import named_policy, pack, push
from spin_train.run.cards import MARK
from tests.train.finished import finish


class Hub:
    """As much of the hub's API as an upload takes, and what it was sent."""

    def __init__(self):
        self.repositories = {}  # name -> private
        self.files = {}  # path -> content, as committed
        self.blobs = {}  # SHA-256 -> content
        self.requests = []
        self.tokens = set()
        self.refuse = None

    def answer(self, handler, method):
        path = handler.path.partition("?")[0]
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((method, path))
        if path.startswith("/store/"):
            self.blobs[path.rpartition("/")[2]] = body
            return 200, {}
        self.tokens.add(handler.headers.get("Authorization"))
        if self.refuse:
            return self.refuse, {"error": "You are not allowed to do that"}
        if path == "/api/repos/create":
            return self.create(handler, json.loads(body))
        if path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            store = f"http://{handler.headers['Host']}/store"
            actions = [
                one | {"actions": {"upload": {"href": f"{store}/{one['oid']}"}}} for one in objects
            ]
            return 200, {"transfer": "basic", "objects": actions}
        if "/preupload/" in path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            return self.commit(f"http://{handler.headers['Host']}/{name}/commit/abc", body)
        if method == "GET" and path.startswith("/api/models/"):
            name = path.removeprefix("/api/models/").partition("/revision/")[0]
            return 200, {"id": name, "private": self.repositories[name], "sha": "0" * 40}
        return 200, {"errors": [], "warnings": []}  # validate-yaml

    def create(self, handler, asked):
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.repositories
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.repositories.setdefault(name, private)
        url = f"http://{handler.headers['Host']}/{name}"
        return (409 if known else 200), {"url": url, "id": name}

    def commit(self, url, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        return 200, {"success": True, "commitOid": "abc", "commitUrl": url}


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub.constants

    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self):
            status, content = hub.answer(self, self.command)
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = _do  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = finish(tmp_path_factory.mktemp("finished") / "run", prompts=12)
    (run.policy(2) / "my_notes.txt").write_text("private")
    (run.policy(2) / "optimizer.pt").write_bytes(b"state")
    return run


def test_what_arrives_are_the_recorded_files_and_the_card_to_the_byte(run, hub):
    parcel = pack(run, run.policy(2), "someone/policy")
    address = push(parcel)
    assert address.endswith("/someone/policy/commit/abc")
    assert set(hub.files) == set(parcel.files) == {"model.safetensors", "README.md"}
    for name, content in hub.files.items():
        assert content == (run.policy(2) / name).read_bytes()
        assert parcel.files[name] == len(content)
    assert hub.files["model.safetensors"] == b"p_2"
    assert hashlib.sha256(b"p_2").hexdigest() in hub.blobs
    assert MARK in hub.files["README.md"].decode()
    assert hub.repositories == {"someone/policy": False}
    assert hub.tokens == {"Bearer hf_secret"}


def test_what_nobody_recorded_stays_here_and_is_named(run, hub, capsys):
    arguments = ["push", str(run.root), "--to", "someone/policy", "--policy", "2"]
    app(arguments, standalone_mode=False)
    printed = capsys.readouterr().out
    assert "not of the run, so not sent: my_notes.txt, optimizer.pt" in printed
    assert not {"my_notes.txt", "optimizer.pt"} & set(hub.files)
    assert "sent: http://127.0.0.1" in printed


def test_a_dry_run_sends_nothing_and_shows_all(run, hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    arguments = ["push", str(run.root), "--to", "someone/policy", "--policy", "control 1"]
    app([*arguments, "--dry-run"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "control 1 to http://127.0.0.1" in printed
    assert "model.safetensors" in printed
    assert "continued SFT, the control of SPIN" in printed
    assert hub.requests == []


def test_a_private_repository_is_made_private_and_a_public_one_is_refused(run, hub):
    push(pack(run, run.policy(1), "someone/secret"), private=True)
    assert hub.repositories == {"someone/secret": True}
    hub.repositories["someone/open"] = False
    hub.files.clear()
    with pytest.raises(UserError, match="someone/open is there already and public; nothing was"):
        push(pack(run, run.policy(1), "someone/open"), private=True)
    assert hub.files == {}
    push(pack(run, run.policy(1), "someone/open"))
    assert hub.files["model.safetensors"] == b"p_1"


def test_without_a_token_nothing_is_asked(run, hub, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no token for the hub: run `hf auth login`, or set"):
        push(pack(run, run.policy(1), "someone/policy"))
    assert hub.requests == []


def test_a_refusal_is_one_line_with_the_hubs_reason(run, hub):
    hub.refuse = 403
    with pytest.raises(UserError, match=r"push to someone/policy at .* failed: ") as caught:
        push(pack(run, run.policy(1), "someone/policy"))
    assert "\n" not in str(caught.value)
    assert "403" in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_a_hub_that_is_not_there_is_one_line(run, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"at http://127\.0\.0\.1:9 failed: ConnectError"):
        push(pack(run, run.policy(1), "someone/policy"))


def test_a_name_that_the_hub_does_not_take_is_one_line(run, hub):
    with pytest.raises(UserError, match="failed: HFValidationError"):
        push(pack(run, run.policy(1), "a/b/c"))


def test_policies_by_number_name_and_as_the_best(run):
    assert named_policy(run, "1") == named_policy(run, "p_1") == run.policy(1)
    assert named_policy(run, "control 2") == run.control(2)
    assert named_policy(run, "best") == run.best.policy
    with pytest.raises(UserError, match=r"no policy '9' in .*; choose from p_0, p_1, control 1"):
        named_policy(run, "9")


def test_what_is_not_of_the_run_or_not_trained_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"p_0 is .*model, which this run only starts from"):
        pack(run, run.policy(0), "someone/policy")
    unfinished = finish(tmp_path / "run", upto="p_1")
    with pytest.raises(UserError, match=r"p_2 of .* is not trained yet"):
        pack(unfinished, unfinished.policy(2), "someone/policy")
