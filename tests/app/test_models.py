"""Models of the page, and their answers, maps, masks and weights between zero-shot and fine-tuned."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipalign.app import alpha, looks
from clipalign.app.alpha import ALPHAS, WeightPath, curve_figure
from clipalign.app.models import PageModel, open_models
from clipalign.app.session import PHOTO, MapView, Session
from clipalign.backbone import preprocess_for
from clipalign.commands.predict import predict
from clipalign.commands.train import run_training
from clipalign.core.errors import UserError
from clipalign.core.weights import interpolate
from clipalign.evaluation.maps import trace
from clipalign.explain.maps import default_settings, make_maps
from clipalign.runs.opening import open_model

NAMES = ("red square", "green square", "blue square")


@pytest.fixture(scope="module")
def session(models: tuple[PageModel, ...]) -> Session:
    return Session(models)


@pytest.fixture(scope="module")
def view(session: Session, photo_file: Path) -> Tensor:
    return session.photo(str(photo_file)).views[session.models[0].preprocess]


def test_every_run_follows_the_backbone_that_it_started_from(
    models: tuple[PageModel, ...], erm_run: Path, smartclip_run: Path, tiny_spec: str
) -> None:
    titles = [model.title for model in models]
    zeroshot = f"{tiny_spec} zero-shot"
    assert titles == [zeroshot, "squares", f'{zeroshot}, "a photo of a {{}}."', "masks"]  # other templates
    assert [model.start for model in models] == [None, models[0], None, models[2]]
    repeated = open_models([tiny_spec, smartclip_run, smartclip_run])
    assert [model.title for model in repeated] == [zeroshot, "masks"]  # equal backbones appear once


def test_folders_of_the_same_name_get_different_titles(erm_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "squares"
    shutil.copytree(erm_run, copy)
    assert [model.title for model in open_models([erm_run, copy])][1:] == ["squares", str(copy)]


def test_unknown_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown architecture"):
        open_models(["pockett"])
    with pytest.raises(UserError, match="not a run folder"):
        open_models([tmp_path])


def test_answers_are_those_of_predict(session: Session, photo_file: Path, erm_run: Path) -> None:
    answer = session.answers(str(photo_file), NAMES)[1]
    (expected,) = predict(erm_run, [photo_file], NAMES)
    assert answer.names == expected.classes
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_answer_says_why_a_model_cannot_score_the_names(
    tmp_path: Path, squares_folder: Path, tiny_spec: str, photo_file: Path
) -> None:
    tokens = f"--method linear-probe --data {squares_folder} --protocol base-to-new --backbone {tiny_spec}"
    run_training([*tokens.split(), "--out", str(tmp_path / "probe")])
    session = Session(open_models([tmp_path / "probe"]))
    zeroshot, probe = session.answers(str(photo_file), ("a dog", "a cat"))
    assert zeroshot.names and not probe.names and "linear-probe" in probe.problem
    assert session.paths == []
    with pytest.raises(UserError, match="probe: linear-probe"):
        session.along(str(photo_file), "probe", ("a dog",))


@pytest.mark.parametrize("structure", ["dv", "vvv"])
def test_published_maps_are_those_of_explain(
    session: Session, view: Tensor, structure: str, tiny_spec: str
) -> None:
    method = session.models[0].method
    settings = default_settings(method.backbone.num_blocks)
    text = method.text_features(NAMES)
    expected = make_maps(method.backbone, view, text, settings)
    traced = trace(method, view)
    if structure == "dv":
        torch.testing.assert_close(looks.text_maps(traced, NAMES, "dv", looks.PUBLISHED), expected.guide[0])
        attention = looks.text_maps(traced, NAMES, looks.ATTENTION, looks.PUBLISHED)
        torch.testing.assert_close(attention, expected.attention.expand(len(NAMES), -1, -1))
        patches = looks.text_maps(traced, NAMES, looks.PATCHES, looks.ALL)
        torch.testing.assert_close(patches, expected.patches[0])
    else:
        other = looks.text_maps(traced, NAMES, structure, looks.PUBLISHED)
        assert not torch.allclose(other, expected.guide[0])


@pytest.mark.parametrize("structure", looks.STRUCTURES)
def test_every_structure_and_layer_gives_a_map_per_text(
    session: Session, view: Tensor, structure: str
) -> None:
    for model in session.models:
        traced = trace(model.method, view)
        for layer in looks.layer_choices(model):
            for distinct in (False, True):
                maps = looks.text_maps(traced, NAMES, structure, layer, distinct=distinct)
                assert maps.shape == (len(NAMES), *model.method.backbone.grid)
                assert maps.isfinite().all()


def test_layers_give_different_maps_and_one_text_needs_no_subtraction(session: Session, view: Tensor) -> None:
    traced = trace(session.models[0].method, view)
    first, last = (looks.text_maps(traced, NAMES, "dv", layer) for layer in ("0", "2"))
    assert not torch.allclose(first, last)
    alone = [looks.text_maps(traced, NAMES[:1], "dv", "0", distinct=each) for each in (False, True)]
    torch.testing.assert_close(*alone)


def test_picture_is_the_photo_or_a_map_over_it(session: Session, photo_file: Path) -> None:
    path = str(photo_file)
    photo = session.picture(path, PHOTO, NAMES, NAMES[0], MapView())
    drawn = session.picture(path, session.models[0].title, NAMES, NAMES[0], MapView())
    assert photo.dtype == drawn.dtype == np.uint8 and photo.shape == drawn.shape
    assert not np.array_equal(photo, drawn)
    rows = session.map_rows(path, NAMES, NAMES[:2], MapView())
    assert [row.title for row in rows] == [model.title for model in session.models]
    assert np.array_equal(rows[0].pictures[0], drawn)


@pytest.mark.parametrize("run", ["squares", "masks"])
def test_weight_path_ends_at_the_two_models(session: Session, photo_file: Path, run: str) -> None:
    """SmartCLIP trains both towers, ERM only the image tower."""
    path = session.along(str(photo_file), run, NAMES)  # [A, C]
    assert path.shape == (len(ALPHAS), len(NAMES))
    torch.testing.assert_close(path.sum(dim=1), torch.ones(len(ALPHAS)))
    by_title = {answer.title: answer for answer in session.answers(str(photo_file), NAMES)}
    start = session.by_title[run].start
    assert start is not None
    for at, title in ((0, start.title), (-1, run)):
        answer = by_title[title]
        expected = [answer.probabilities[answer.names.index(name)] for name in NAMES]
        assert path[at].tolist() == pytest.approx(expected, abs=1e-5)


def test_weight_path_interpolates_weights_and_leaves_the_run_as_it_was(
    session: Session, view: Tensor, erm_run: Path, smartclip_run: Path
) -> None:
    for run, title in ((erm_run, "squares"), (smartclip_run, "masks")):
        path = WeightPath(session.by_title[title])
        assert path.text_moves == (title == "masks")
        found = path.probabilities(view, NAMES)[3]
        mixed = open_model(run).method  # the slow form: a new model with interpolated weights
        start = session.by_title[title].start
        assert start is not None
        before = alpha.start_weights(start.method.backbone, mixed)
        state = interpolate(before, mixed.backbone.model.state_dict(), ALPHAS[3])
        mixed.backbone.model.load_state_dict(state)
        with torch.no_grad():
            expected = mixed.classifier(NAMES)(view).softmax(dim=-1)[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        trained = open_model(run).method.state_dict()
        now = session.by_title[title].method.state_dict()
        assert all(torch.equal(tensor, now[name]) for name, tensor in trained.items())


def test_features_of_the_path_are_computed_once_per_photo_and_names(session: Session, view: Tensor) -> None:
    path = WeightPath(session.by_title["masks"])
    for names in (NAMES, NAMES, NAMES[:2]):
        path.probabilities(view, names)
    assert path.image_features.cache_info().misses == 1
    assert path.text_features.cache_info().misses == 2


def test_backbone_has_no_path(models: tuple[PageModel, ...]) -> None:
    assert "no fine-tuned weights" in alpha.why_not(models[0])
    assert [alpha.why_not(model) for model in (models[1], models[3])] == ["", ""]


def test_curve_names_the_most_probable_classes() -> None:
    names = ("_under", "a$b$", *(f"class {i}" for i in range(8)))
    probabilities = torch.rand(len(ALPHAS), 10, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    figure = curve_figure(names, probabilities, 0.3)
    legend = figure.axes[0].get_legend()
    assert legend is not None and len(legend.get_texts()) == 5
    figure.canvas.draw()


def test_masks_are_drawn_for_models_with_masks(session: Session) -> None:
    assert [model.title for model in session.mask_models] == ["masks"]
    figure = session.masks("masks", ("a red square", "a blue square"))
    assert "active dimensions" in " ".join(text.get_text() for text in figure.texts)


def test_views_follow_the_preprocessing_of_the_run(models: tuple[PageModel, ...], erm_run: Path) -> None:
    opened = open_model(erm_run)
    assert models[1].preprocess == preprocess_for(opened.method.backbone, opened.interpolation)
