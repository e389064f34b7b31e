"""A run or a backbone as one object: load it once, then classify and encode images and texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor

from ..backbone import Backbone, preprocess_for
from ..backbone.text.features import clean_class_names, text_features
from ..backbone.text.templates import choose_templates
from ..core.errors import UserError
from ..core.precision import Precision, select_device
from ..core.progress import track
from ..core.weights import state_digest
from ..data.inputs import ImageInput, ImageTransform, gather_images
from ..evaluation.loader import batches_for
from ..evaluation.results import ResultRow
from ..losses import unit_features
from ..losses.contrastive import masked_scores
from ..methods import Method, SupportsExplain, SupportsHooks, SupportsMasks
from ..methods.base import Classifier
from ..protocols.names_only import NamesOnly
from . import pretrained
from .opening import OpenedModel, Weights, open_model
from .run import Run

BATCH = 64  # images per forward pass
DECODERS = 4  # threads that decode the images of a batch; Pillow releases the interpreter lock


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
        image: the file; None for an image that was not a file.
        classes: names, most probable first.
        probabilities: softmax over all class names, in the same order.
        error: why a file in a folder could not be classified.
    """

    image: Path | None
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class; None if the file could not be classified."""
        return self.classes[0] if self.classes else None

    @property
    def probability(self) -> float | None:
        """Probability of `label`."""
        return self.probabilities[0] if self.probabilities else None


class Model(ModelHubMixin, library_name="clipalign", tags=["clip", "image-text"]):
    """A run or a backbone, ready to predict; `clipalign.load` returns one.

    `save_pretrained`, `from_pretrained` and `push_to_hub` are those of huggingface_hub.

    Attributes:
        name: the run folder or the backbone's name.
        method: set up, with the weights of the run; zero-shot for a backbone.
        run: the run; None for a backbone.
        preprocess: turns an image into an input [3, H, W], as a transform of torchvision does.
        templates: prompt templates of class names.

    Example:
        >>> model = load_model("pocket", device="cpu")
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> len(model.predict([image, image], classes=["a cat", "a dog"]))
        2
        >>> model.encode_image(image).shape == model.encode_text("a cat").shape == (1, model.embed_dim)
        True
    """

    def __init__(self, opened: OpenedModel, name: str = "", precision: str = "auto") -> None:
        self.name = name or opened.method.backbone.spec
        self.opened = opened
        self.method: Method[Any] = opened.method
        self.run: Run | None = opened.run
        self.templates: tuple[str, ...] = tuple(opened.method.templates)
        self.preprocess = ImageTransform(preprocess_for(self.backbone, opened.interpolation))
        self.precision = Precision(precision, self.device)
        self._classifier = lru_cache(8)(self._make_classifier)
        self._hub_mixin_config = pretrained.facts(
            opened
        )  # config.json; by default the arguments of this function

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"Model({self.name}: {self.method.name} on {self.backbone.spec}{classes}, {self.device})"

    @property
    def backbone(self) -> Backbone:
        """The towers."""
        return self.method.backbone

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that the run was trained on; none for a backbone."""
        return self.opened.class_names

    @property
    def results(self) -> list[ResultRow]:
        """Result rows of the run, with fields such as `accuracy`; none for a backbone."""
        return [] if self.run is None else self.run.results

    @property
    def embed_dim(self) -> int:
        """Size of the joint space."""
        return self.backbone.embed_dim

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.backbone.device

    def digest(self) -> str:
        """Return the SHA-256 of all weights."""
        return state_digest(self.method.state_dict())

    # Predictions

    @torch.no_grad()
    def predict(
        self,
        images: ImageInput | Iterable[ImageInput],
        classes: Sequence[str] | None = None,
        *,
        templates: Sequence[str] | None = None,
        topk: int = 5,
        batch_size: int = BATCH,
        tolerated: frozenset[Path] = frozenset(),
        progress: bool | None = None,
    ) -> list[Prediction]:
        """Classify images among any class names.

        The text features of a list of classes are computed once and kept for the next calls.

        Args:
            images: a path, folder, PIL image, array or tensor (see `preprocess`), or any number of them.
            classes: class names; None for those the run was trained on.
            templates: prompt templates with {}; None for those of the run.
            topk: classes per image.
            batch_size: images per forward pass.
            tolerated: files that may fail to decode, like those found in folders; they get an `error`.
            progress: whether to show a bar; None to show it on a terminal and in notebooks.

        Returns:
            One prediction per image, in order.

        Raises:
            UserError: no classes, or an image that does not decode.
        """
        names = tuple(self.class_names if classes is None else classes)
        if isinstance(classes, str) or not names:
            raise UserError('classes: pass a list of names, such as classes=["cat", "dog"]')
        classifier = self._classifier(names, None if templates is None else tuple(templates))
        items, inside = gather_images(images)
        answers: dict[int, Prediction] = {}
        groups = batches_for(classifier, np.zeros(len(items), dtype=int), batch_size)  # domains are unknown
        errors: dict[int, str] = {}
        for positions, views in self.inputs(items, groups, tolerated | inside, errors, progress):
            with self.precision.autocast():
                logits = classifier(views)  # [B, C]
            top = logits.float().softmax(dim=1).topk(min(topk, len(names)))  # 2 x [B, k]
            for i, values, indices in zip(positions, *map(Tensor.tolist, top), strict=True):
                answers[i] = Prediction(path_of(items[i]), tuple(names[c] for c in indices), tuple(values))
        answers |= {i: Prediction(path_of(items[i]), error=error) for i, error in errors.items()}
        return [answers[i] for i in range(len(items))]

    # Features

    @torch.no_grad()
    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        normalize: bool = True,
        batch_size: int = BATCH,
        progress: bool | None = None,
    ) -> Tensor:
        """Return image features, [N, d] float32 on the CPU.

        Args:
            images: as in `predict`; a batch of preprocessed images is a float tensor [N, 3, H, W].
            normalize: whether features have unit norm.
            batch_size: images per forward pass.
            progress: as in `predict`.

        Raises:
            UserError: an image that does not decode.
        """
        items, _ = gather_images(images)
        groups = np.split(np.arange(len(items)), range(batch_size, len(items), batch_size))
        features = torch.empty(len(items), self.embed_dim)
        for positions, views in self.inputs(items, groups, frozenset(), {}, progress):
            features[positions] = self.features(views, normalize=normalize)
        return features

    def features(self, views: Tensor, *, normalize: bool = True) -> Tensor:
        """Return the features of preprocessed images on the model's device: [B, 3, H, W] -> [B, d] on the CPU."""
        with self._hooks(), self.precision.autocast():
            if normalize:
                return self.method.image_features(views).float().cpu()
            return self.backbone.encode_image(views).float().cpu()

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str], *, normalize: bool = True) -> Tensor:
        """Return text features, [T, d] float32 on the CPU.

        Texts are encoded without a template. Prompt learners put their learned context around them; context that
        depends on the image is computed for a uniform grey one.

        Args:
            texts: one text or several.
            normalize: whether features have unit norm.
        """
        texts = check_texts(texts)
        if not normalize:
            with self.precision.autocast():
                return self.backbone.encode_text(texts).float().cpu()
        if isinstance(self.method, SupportsExplain):
            grey = torch.zeros(1, 3, *self.preprocess.size, device=self.device)  # [1, 3, H, W]
            return self.method.explain_text_features(texts, grey).float().cpu()
        return text_features(self.backbone, texts).cpu()

    @torch.no_grad()
    def similarity(self, image_features: Tensor, texts: str | Sequence[str]) -> Tensor:
        """Return the cosines of images and texts, [N, T] float32.

        A method with masks (smartclip) compares each text in the dimensions of its mask only.

        Args:
            image_features: result of `encode_image`, [N, d].
            texts: T texts.
        """
        texts = check_texts(texts)
        if isinstance(self.method, SupportsMasks):
            text, masks = (encoded.float().cpu() for encoded in self.method.encode_captions(texts))  # [T, d]
            return masked_scores(image_features, text, masks, 1.0)
        return unit_features(image_features) @ self.encode_text(texts).T

    def inputs(
        self,
        items: Sequence[ImageInput],
        groups: Iterable[np.ndarray],
        tolerated: frozenset[Path],
        errors: dict[int, str],
        progress: bool | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield positions and inputs [b, 3, H, W] of batches, on the model's device.

        Args:
            items: single images.
            groups: positions of the images of each batch.
            tolerated: files that may fail to decode.
            errors: receives their messages, by position.
            progress: whether to show a bar; None to show it on a terminal and in notebooks.
        """

        def view(i: int) -> Tensor | None:
            try:
                return self.preprocess(items[i])
            except UserError as error:
                if not (isinstance(items[i], Path) and items[i] in tolerated):
                    raise
                errors[i] = str(error)
                return None

        def batches() -> Iterator[tuple[int, tuple[list[int], Tensor]]]:
            with ThreadPoolExecutor(DECODERS) as pool:
                for group in groups:
                    decoded = dict(zip(group.tolist(), pool.map(view, group.tolist()), strict=True))
                    good = {i: one for i, one in decoded.items() if one is not None}
                    if good:
                        yield len(group), (list(good), torch.stack(list(good.values())).to(self.device))

        yield from track(batches(), len(items), "images", progress)

    def _hooks(self) -> Any:
        return self.method.hooks() if isinstance(self.method, SupportsHooks) else nullcontext()

    def _make_classifier(self, names: tuple[str, ...], templates: tuple[str, ...] | None) -> Classifier:
        clean_class_names(names)
        chosen = choose_templates(templates or (), NamesOnly("", (), (), self.templates))
        return self.method.classifier(names, chosen)

    # The three steps that huggingface_hub's mixin leaves to its classes

    def _save_pretrained(self, save_directory: Path) -> None:
        pretrained.write(self.opened, self.preprocess.settings, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: torch.device | str = "auto",
        precision: str = "auto",
        **unknown: Any,
    ) -> Model:
        """Open a saved folder or repository; `device` and `precision` are keywords of `from_pretrained`."""
        if unknown:
            raise UserError(f"from_pretrained: unknown keyword {next(iter(unknown))}")
        folder = Path(model_id)
        if not folder.is_dir():
            folder = pretrained.download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls(pretrained.read(folder, select_device(str(device))), model_id, precision)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card of the run, or a short one of the backbone, with the lines that load the model."""
        return pretrained.card(self.opened)


def load_model(
    model: str | Path | Run,
    *,
    weights: Weights = "model",
    device: torch.device | str = "auto",
    precision: str = "auto",
    cache_dir: str | None = None,
    templates: Sequence[str] | None = None,
) -> Model:
    """Load a run or a backbone, to classify and encode any number of images and texts.

    Args:
        model: run folder, the result of `clipalign.train`, or a backbone as in `clipalign train --backbone`.
        weights: of a run folder: "model" (those predictions use) or "last" (those of the last step).
        device: "auto", "cpu", "cuda" or "cuda:N"; the result of `clipalign.train` stays where it is.
        precision: "auto", "fp32", "bf16" or "fp16", of forward passes.
        cache_dir: folder of downloaded weights.
        templates: prompt templates of a backbone; default: "a photo of a {}.".

    Raises:
        UserError: neither a run nor a backbone, or a run without weights.
    """
    if isinstance(model, Run):
        return Model(OpenedModel(model.method, model), str(model.folder.path), precision)
    opened = open_model(
        model, weights=weights, device=select_device(str(device)), cache_dir=cache_dir, templates=templates
    )
    return Model(opened, str(model), precision)


def check_texts(texts: str | Sequence[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        UserError: no text, or an empty one.
    """
    found = [texts] if isinstance(texts, str) else list(texts)
    if not found or not all(text.strip() for text in found):
        raise UserError("texts: give at least one, and none that is empty")
    return found


def path_of(image: ImageInput) -> Path | None:
    """Return the path of an image that is a file."""
    return Path(image) if isinstance(image, (str, Path)) else None
