"""`inpo push` against a hub on this machine: private by default, one commit, and the token in nothing but the request's own header."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from inpo.evaluation.summary import MethodSummary, write_summary
from inpo.results.card import CARD, published
from inpo.results.result import Judgement
from tests.end_to_end.conftest import Run, small

TOKEN = "hf_" + "Secret" * 6


@dataclass
class Hub:
    """What a hub remembers. `repositories`: name → private; `status`: what it answers to a commit."""

    address: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    headers: list[str] = field(default_factory=list)
    status: int = 200

    def get(self, path: str) -> tuple[int, object, dict[str, str]]:
        name = path.removeprefix("/api/models/")
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        return 200, {"id": name, "private": self.repositories[name], "siblings": [], "tags": []}, {}

    def post(self, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repositories[name] = asked["private"] if "private" in asked else asked["visibility"] == "private"
            return 200, {"url": f"{self.address}/{name}"}, {}
        if "/preupload/" in path:
            wanted = json.loads(body)["files"]
            return 200, {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in wanted]}, {}
        if self.status != 200:
            return self.status, {"error": f"no, {TOKEN}"}, {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        name = path.removeprefix("/api/models/").partition("/commit/")[0]
        return 200, {"commitUrl": f"{self.address}/{name}/commit/0", "commitOid": "0", "hookOutput": "", "success": True}, {}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub at 127.0.0.1 that the client is pointed at, and a token in the environment."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, answer: tuple[int, object, dict[str, str]]) -> None:
            status, body, headers = answer
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content)), "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            state.headers.append(self.headers.get("authorization", ""))
            self._answer(state.get(self.path.partition("?")[0]))

        def do_POST(self) -> None:
            body = self._body()
            state.headers.append(self.headers.get("authorization", ""))
            self._answer(state.post(self.path, body))

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", state.address)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", state.address, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "mine"


@pytest.fixture
def trained(run: Run, adapters: Path, tiny_pipeline: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of adapters, trained once, with a token in the environment that the run could have kept."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    if not adapters.exists():
        settings = small(tiny_pipeline, pairs_file, "sft", "lora.rank=2", "output.format=lora", "train.steps=1")
        assert run("train", "sd15-sft", *settings, "--out", adapters).code == 0
    return adapters


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_run_is_pushed_privately(trained: Path, hub: Hub, run: Run) -> None:
    """Weights and card, without base.json, which holds this machine's paths; the token is in no file and no message."""
    done = run("push", trained, "--to", "owner/mine")
    assert done.code == 0, done.err
    assert hub.repositories == {"owner/mine": True}
    assert sorted(hub.files) == ["README.md", "pytorch_lora_weights.safetensors"]
    assert hub.files["pytorch_lora_weights.safetensors"] == (trained / "model" / "pytorch_lora_weights.safetensors").read_bytes()
    assert b"load_lora_weights('owner/mine'" in hub.files[CARD]
    assert str(trained.parent).encode() not in b"".join(hub.files.values())
    assert f"uploaded, private: {hub.address}/owner/mine" in done.out
    assert "left out: base.json" in done.out
    # The client asks about the card's front matter without one.
    assert set(hub.headers) - {""} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.out + done.err
    assert TOKEN.encode() not in everything_in(trained) + b"".join(hub.files.values())
    # Again: the same repository, still private.
    assert run("push", trained, "--to", "owner/mine").code == 0


def test_public_is_asked_for(trained: Path, hub: Hub, run: Run) -> None:
    """A new repository is public only with --public, and nothing goes to one that is seen by others than was said."""
    assert run("push", trained, "--to", "owner/open", "--public").code == 0
    assert hub.repositories == {"owner/open": False}
    hub.files.clear()
    refused = run("push", trained, "--to", "owner/open")
    assert (refused.code, "owner/open exists and is public: --public uploads there" in refused.err) == (2, True)
    hub.repositories["owner/closed"] = True
    refused = run("push", trained, "--to", "owner/closed", "--public")
    assert (refused.code, "owner/closed exists and is private: leave --public out" in refused.err) == (2, True)
    assert hub.files == {}


def test_an_export_is_pushed(trained: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    """A folder, and a single file whose card lies beside it."""
    assert run("export", trained, "--format", "lora-kohya", "--out", tmp_path / "k.safetensors").code == 0
    assert run("export", trained, "--out", tmp_path / "whole").code == 0
    (tmp_path / "whole" / ".env").write_text("PASSWORD=x")
    (tmp_path / "whole" / "notes.docx").write_text("mine")
    assert run("push", tmp_path / "k.safetensors", "--to", "owner/k").code == 0
    assert sorted(hub.files) == ["README.md", "k.safetensors"]
    hub.files.clear()
    done = run("push", tmp_path / "whole", "--to", "owner/whole")
    assert done.code == 0, done.err
    assert {"README.md", "model_index.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"} <= set(hub.files)
    assert "left out: .env, notes.docx" in done.out


def test_what_was_measured_is_in_the_card(trained: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    """Of an evaluation that lies in the run's folder: in the card of an export, and in the one that is pushed of the run itself."""
    judged, row = tmp_path / "mine", "| `candidate` against `baseline` | `world:oracle` | 0.750 | 0.500 – 1.000 | 8 |"
    shutil.copytree(trained, judged)
    entry = MethodSummary(scorer="world:oracle", win_rate=0.75, low=0.5, high=1.0, n=8)
    write_summary(judged / "judged" / "summary.json", kind="evaluate", baseline="baseline", methods={"candidate": entry})
    for source, there in ((trained, False), (judged, True)):
        exported = tmp_path / f"{there}"
        assert run("export", source, "--format", "lora", "--out", exported).code == 0
        assert (row in (exported / CARD).read_text(encoding="utf-8")) is there
        assert run("push", source, "--to", "owner/mine").code == 0
        assert (row in hub.files[CARD].decode()) is there


def test_a_dry_run_needs_no_hub(trained: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and sizes, without a token and without a network."""
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    done = run("push", trained, "--to", "owner/mine", "--dry-run")
    assert done.code == 0, done.err
    size = (trained / "model" / "pytorch_lora_weights.safetensors").stat().st_size
    assert f"{size:>15,}  pytorch_lora_weights.safetensors" in done.out
    assert "uploaded" not in done.out


@pytest.mark.parametrize(("status", "words"), [
    (401, "the hub does not accept the token (401)"), (403, "may not write there (403): make one with write access to owner"),
    (500, "the hub refused (HTTP 500)"),
])  # fmt: skip
def test_what_the_hub_refuses(status: int, words: str, trained: Path, hub: Hub, run: Run) -> None:
    """One line that says what to do, and never what the hub said: it may hold the token."""
    hub.status = status
    done = run("push", trained, "--to", "owner/mine")
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert words in done.err
    assert TOKEN not in done.err


def test_without_a_hub_or_a_token(trained: Path, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: exit 1 and the kind of fault. No token: exit 2 before anything is asked."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    done = run("push", trained, "--to", "owner/mine")
    assert done.code == 1
    assert "the hub could not be reached or broke off (" in done.err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    done = run("push", trained, "--to", "owner/mine")
    assert (done.code, "no token for the hub: run `hf auth login`" in done.err) == (2, True)
    assert hub.headers == []


@pytest.mark.parametrize(("source", "to", "words"), [
    ("{run}", "mine", "--to 'mine' is no name of a repository"),
    *(("{run}", to, f"--to {to!r} is no name of a repository: write owner/name") for to in (
        "a/b..c", "a/b-", "a/b.", "a/b--c", "a-/b", "a/b.git", "a/" + "b" * 99)),
    ("{tmp}/nowhere", "owner/mine", "there is no such folder or file"),
    ("{tmp}", "owner/mine", "has no README.md: give a finished run's folder"),
    ("{tmp}/card-alone", "owner/mine", "has no weights"),
])  # fmt: skip
def test_what_cannot_be_pushed(source: str, to: str, words: str, trained: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "card-alone").mkdir()
    (tmp_path / "card-alone" / CARD).write_text("# x")
    done = run("push", source.format(run=trained, tmp=tmp_path), "--to", to, "--dry-run")
    assert (done.code, words in done.err) == (2, True), done.err


def test_what_was_measured_since_is_added_once() -> None:
    """Before the licence; a card that has it stays."""
    judgements = (Judgement("candidate", "baseline", MethodSummary(scorer="s", win_rate=0.75, low=0.5, high=1.0, n=8)),)
    text = published("\n# a\n\nbase('a')\npipe('a')  # this result\n\n## Licence\n\nTerms.\n", "owner/b", judgements)
    assert text.index("0.750") < text.index("## Licence")
    assert "\n# b\n\nbase('a')\npipe('owner/b')  # this result\n" in text
    assert published(text, "owner/b", judgements) == text
