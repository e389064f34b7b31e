"""`clipalign.load`: every kind of image, features, classes, and the formats of huggingface_hub."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.repocard_data import ModelCardData
from huggingface_hub.utils import validate_repo_id
from PIL import Image

import clipalign
from clipalign.core.errors import UserError
from clipalign.losses import unit_features
from clipalign.runs.model import Model
from clipalign.runs.run import Run

CLASSES = ["red square", "blue square", "an old boat"]


@pytest.fixture(scope="module")
def run(tiny_spec: str, squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "a"
    options: dict[str, Any] = {
        "backbone": tiny_spec,
        "target": "grey",
        "steps": 2,
        "batch_size": 4,
        "lr": 1e-3,
    }
    return clipalign.train("erm", squares_folder, out, **options)


@pytest.fixture(scope="module")
def model(run: Run) -> Model:
    return clipalign.load(run)


@pytest.fixture
def photo(squares_folder: Path) -> Path:
    return squares_folder / "grey" / "red_square" / "0.png"


def test_every_kind_of_image_gives_the_same_prediction(model: Model, photo: Path) -> None:
    picture = Image.open(photo)
    pixels = np.asarray(picture)  # [H, W, 3]
    kinds = {
        "path": photo,
        "string": str(photo),
        "pil": picture,
        "uint8 array": pixels,
        "float array": pixels / 255.0,
        "uint8 tensor": torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        "preprocessed": model.preprocess(picture),
    }
    with torch.no_grad():
        logits = model.method.classifier(CLASSES)(model.preprocess(photo)[None])  # [1, C]
    expected = float(logits.softmax(dim=1).max())
    for kind, image in kinds.items():
        (answer,) = model.predict(image, CLASSES)
        assert answer.probability == pytest.approx(expected, abs=1e-6), kind
        assert answer.image == (photo if kind in ("path", "string") else None), kind
    assert len(model.predict(list(kinds.values()), CLASSES, topk=1)) == len(kinds)
    assert len(model.predict(np.stack([pixels, pixels]), CLASSES)) == 2
    assert len(model.predict(torch.stack([kinds["preprocessed"]] * 3), CLASSES)) == 3  # type: ignore[list-item]


def test_predictions_agree_with_the_command_and_default_to_trained_classes(
    model: Model, run: Run, squares_folder: Path
) -> None:
    folder = squares_folder / "dark"
    by_name = clipalign.predict(run.folder.path, [folder])
    loaded = model.predict(folder, batch_size=7)
    assert [a.image for a in by_name] == [a.image for a in loaded] and len(loaded) == 20
    assert [a.label for a in by_name] == [a.label for a in loaded]
    assert set(loaded[0].classes) == set(run.class_names) and model.results[0].accuracy is not None


def test_broken_file_in_a_folder_is_an_error_of_its_prediction_only(
    model: Model, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(photo.read_bytes())
    (tmp_path / "b.png").write_text("text")
    good, bad = model.predict([tmp_path], CLASSES)
    assert good.label in CLASSES and bad.label is None and "does not decode" in str(bad.error)
    with pytest.raises(UserError, match="does not decode"):
        model.predict([photo, tmp_path / "b.png"], CLASSES)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("none.png", "no image file none.png"),
        (3, "int is no image"),
        (np.zeros((4, 4, 2), np.uint8), r"array is \[H, W\]"),
        (np.full((4, 4), 7.0), r"must be in \[0, 1\]"),
        (np.zeros((4, 4), np.int64), "not int64"),
        (torch.zeros(3, 5, 5), "a float tensor is a preprocessed image"),
        (torch.zeros(3, 5, 5, dtype=torch.int32), "a tensor of pixels is uint8"),
    ],
)
def test_what_is_no_image_is_an_error(model: Model, image: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(image, CLASSES)


def test_classes_are_required_and_checked(tiny_spec: str, model: Model, photo: Path) -> None:
    with pytest.raises(UserError, match="classes: pass a list of names"):
        clipalign.load(tiny_spec, device="cpu").predict(photo)
    with pytest.raises(UserError, match="classes: pass a list"):
        model.predict(photo, "cat")
    with pytest.raises(UserError, match="are the same to the model"):
        model.predict(photo, ["hot dog", "Hot-Dog"])


def test_text_features_of_classes_are_computed_once(
    tiny_spec: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = clipalign.load(tiny_spec, device="cpu")
    calls = []
    original = model.method.classifier
    monkeypatch.setattr(model.method, "classifier", lambda *given: calls.append(given) or original(*given))
    for _ in range(3):
        model.predict(photo, CLASSES)
    model.predict(photo, CLASSES, templates=["one {}."])
    assert [templates for _, templates in calls] == [("a photo of a {}.",), ("one {}.",)]


def test_features_are_those_of_the_towers(model: Model, squares_folder: Path) -> None:
    views = torch.stack([model.preprocess(path) for path in sorted(squares_folder.glob("grey/*/0.png"))])
    with torch.no_grad():
        images = model.backbone.encode_image(views)
        texts = model.backbone.encode_text(CLASSES)
    torch.testing.assert_close(model.encode_image(views, normalize=False, batch_size=3), images)
    torch.testing.assert_close(model.encode_image(views), unit_features(images))
    torch.testing.assert_close(model.encode_text(CLASSES, normalize=False), texts)
    torch.testing.assert_close(
        model.similarity(images, CLASSES), unit_features(images) @ unit_features(texts).T
    )
    with pytest.raises(UserError, match="none that is empty"):
        model.encode_text(["a", " "])


def test_saved_run_is_portable_and_predicts_the_same(
    model: Model, run: Run, squares_folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    again = Model.from_pretrained(saved, device="cpu")
    assert again.digest() == model.digest() and again.class_names == model.class_names
    assert again.backbone.spec == f"local-dir:{saved}"  # not the folder of the original backbone
    assert again.predict(squares_folder / "grey") == model.predict(squares_folder / "grey")
    assert clipalign.load(saved, device="cpu").run is not None  # it is a run folder too
    assert json.loads((saved / "config.json").read_text())["method"] == "erm"
    with pytest.raises(UserError, match="is the run itself"):
        model.save_pretrained(run.folder.path)


def test_saved_backbone_keeps_weights_and_templates(tiny_spec: str, tmp_path: Path) -> None:
    model = clipalign.load(tiny_spec, device="cpu", templates=["one {}."])
    model.save_pretrained(tmp_path / "b")
    again = Model.from_pretrained(tmp_path / "b", device="cpu")
    assert again.digest() == model.digest() and again.templates == ("one {}.",) and again.run is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither a run"):
        Model.from_pretrained(tmp_path / "empty")


def check_card(text: str) -> ModelCardData:
    """Assert what the hub asserts of the metadata of a card, as far as its documentation says."""
    content = ModelCard(text).data  # parses the YAML and the model index
    assert isinstance(content, ModelCardData)
    facts = yaml.safe_load(re.split(r"^---$", text, flags=re.M)[1])
    assert facts["library_name"] == "clipalign" and facts["license"] == "other"
    assert re.fullmatch(r"[a-z0-9.-]+", facts["license_name"]) and facts["license_link"]
    for name in facts.get("datasets", []):
        validate_repo_id(name)
    for entry in facts.get("model-index", []):
        assert entry["name"]
        for result in entry["results"]:
            assert {"type", "name"} <= set(result["dataset"]) and result["task"]["type"]
            assert all(isinstance(metric["value"], (int, float)) for metric in result["metrics"])
    return content


@pytest.mark.parametrize("kind", ["run", "backbone"])
def test_cards_have_valid_metadata(kind: str, model: Model, tiny_spec: str) -> None:
    chosen = model if kind == "run" else clipalign.load(tiny_spec, device="cpu")
    text = str(chosen.generate_model_card())
    data = check_card(text)
    assert data.pipeline_tag == "zero-shot-image-classification" and "from_pretrained" in text
    assert (data.eval_results is not None) == (kind == "run")


class StubHub(BaseHTTPRequestHandler):
    """A hub with one repository, as far as `create_repo`, `upload_folder` and `snapshot_download` call it."""

    files: dict[str, bytes]
    calls: list[str]

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.calls.append(path)
        url = f"http://{self.headers['Host']}/me/squares"
        if path == "/api/validate-yaml":
            check_card(json.loads(body)["content"])
            answer: dict[str, Any] = {"errors": [], "warnings": []}
        elif path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            answer = {"files": modes}
        elif path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                operation = json.loads(line)
                if operation["key"] == "file":
                    self.files[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
            answer = {"commitUrl": f"{url}/commit/{'0' * 40}", "commitOid": "0" * 40}
        else:
            answer = {"url": url, "name": "me/squares"}
        self.reply(json.dumps(answer).encode())

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].partition("/")[2]
            if name not in self.files:
                self.send_error(404)
                return
            etag = f'"{abs(hash(self.files[name]))}"'
            self.reply(self.files[name], "application/octet-stream", ETag=etag, X_Repo_Commit="0" * 40)
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.files.items()
            ]
            self.reply(json.dumps(tree).encode())
        else:
            siblings = [{"rfilename": name} for name in self.files]
            answer = {"id": "me/squares", "sha": "0" * 40, "siblings": siblings, "private": False, "tags": []}
            self.reply(json.dumps(answer | {"downloads": 0, "likes": 0}).encode())

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[StubHub]]:
    handler = type("Hub", (StubHub,), {"files": {}, "calls": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield handler
    server.shutdown()
    server.server_close()


def test_pushed_run_is_downloaded_again(
    hub: type[StubHub], model: Model, squares_folder: Path, tmp_path: Path
) -> None:
    commit = model.push_to_hub("me/squares", token="hf_test")
    assert str(commit).startswith("http://127.0.0.1")
    assert "/api/repos/create" in hub.calls and "/api/models/me/squares/commit/main" in hub.calls
    wanted = {"README.md", "config.json", "config.yaml", "model.safetensors", "results.jsonl"}
    assert wanted <= set(hub.files) and "last.safetensors" not in hub.files
    check_card(hub.files["README.md"].decode())
    again = Model.from_pretrained(
        "me/squares", device="cpu", cache_dir=tmp_path / "downloads", token="hf_test"
    )
    assert again.predict(squares_folder / "grey", CLASSES) == model.predict(squares_folder / "grey", CLASSES)
    with pytest.raises(LocalEntryNotFoundError):  # the hub's own error
        Model.from_pretrained("me/squares", cache_dir=tmp_path / "none", local_files_only=True)
