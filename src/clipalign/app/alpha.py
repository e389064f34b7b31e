"""Answers of the weights between a backbone and its fine-tuned run, as in WiSE-FT."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..backbone import Backbone, stretch_positions
from ..core.weights import interpolate
from ..losses import cosine_logits, unit_features
from ..methods import Method, SupportsHooks
from ..report.style import COLOURS, ZEROSHOT_COLOUR, new_figure
from .models import PageModel

STEPS = 10  # intervals of alpha
ALPHAS = tuple(step / STEPS for step in range(STEPS + 1))
DRAWN = 5  # classes of the curve


def why_not(model: PageModel) -> str:
    """Return why there are no weights between a model and its backbone; empty if there are."""
    method = model.method
    if model.start is None:
        return "a backbone has no fine-tuned weights"
    if type(method).classifier is not Method.classifier or isinstance(method, SupportsHooks):
        return f"{method.name} predicts with more than the two towers (trained: {method.trains})"
    before = start_weights(model.start.method.backbone, method)
    after = method.backbone.model.state_dict()
    if all(torch.equal(tensor, after[name]) for name, tensor in before.items()):
        return f"{method.name} leaves the weights of the towers as they were"
    return ""


def start_weights(start: Backbone, method: Method) -> dict[str, Tensor]:
    """Return the weights of a backbone, its positions stretched if the method stretched its own.

    Methods for long captions do so before they train; the first positions, which class prompts use, stay the same.
    """
    length = method.backbone.context_length
    if start.context_length != length:
        start = copy.deepcopy(start)
        stretch_positions(start, length, method.config.keep_positions)
    return start.model.state_dict()


class WeightPath:
    """Predictions at every alpha of `ALPHAS`, with features cached per photo and per list of names.

    The weights are (1 - alpha) zero-shot + alpha fine-tuned, for all tensors of both towers; the class prompts of the
    run classify.

    Args:
        model: a run for which `why_not` is empty.
    """

    def __init__(self, model: PageModel) -> None:
        assert model.start is not None
        self.before = start_weights(model.start.method.backbone, model.method)
        self.after = model.method.backbone.model.state_dict()
        self.text_moves = any(
            not torch.equal(tensor, self.after[name])
            for name, tensor in self.before.items()
            if not name.startswith("visual.")
        )
        self.mixed = copy.copy(model.method)
        backbone = model.method.backbone
        self.mixed.backbone = copy.deepcopy(backbone) if self.text_moves else backbone.copy_vision()
        self.image_features = lru_cache(16)(self._image_features)
        self.text_features = lru_cache(16)(self._text_features)

    def set_alpha(self, alpha: float) -> None:
        """Load the weights of one alpha."""
        state = interpolate(self.before, self.after, alpha)
        if self.text_moves:
            self.mixed.backbone.model.load_state_dict(state)
        else:  # the other tensors are the run's own
            visual = {
                name.removeprefix("visual."): t for name, t in state.items() if name.startswith("visual.")
            }
            self.mixed.backbone.model.visual.load_state_dict(visual)

    def probabilities(self, view: Tensor, names: tuple[str, ...]) -> Tensor:
        """Return the probabilities of C names at every alpha.

        Args:
            view: model input, [1, 3, H, W]; its features are cached.
            names: C class names.

        Returns:
            [A, C] float32 on the CPU.
        """
        text, scales = self.text_features(names)  # [A or 1, C, d], [A]
        image = self.image_features(view)[:, None]  # [A, 1, d]
        pairs = zip(image, text.expand(len(ALPHAS), -1, -1), scales, strict=True)
        logits = torch.cat([cosine_logits(i, t, scale) for i, t, scale in pairs])  # [A, C]
        return logits.softmax(dim=-1).cpu()

    @torch.no_grad()
    def _image_features(self, view: Tensor) -> Tensor:
        features = []
        for alpha in ALPHAS:
            self.set_alpha(alpha)
            features.append(
                unit_features(self.mixed.backbone.encode_image(view.to(self.mixed.backbone.device)))
            )
        return torch.cat(features)  # [A, d]

    @torch.no_grad()
    def _text_features(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        texts, scales = [], []
        for alpha in ALPHAS if self.text_moves else (1.0,):
            if self.text_moves:
                self.set_alpha(alpha)
            texts.append(self.mixed.text_features(names))  # [C, d]
            scales.append(self.mixed.scale)
        return torch.stack(texts), torch.stack(scales).expand(len(ALPHAS))  # [A or 1, C, d], [A]


def curve_figure(names: tuple[str, ...], probabilities: Tensor, alpha: float) -> Figure:
    """Draw the probabilities of the most probable names over alpha, and mark one alpha.

    Args:
        names: C class names.
        probabilities: [A, C].
        alpha: value to mark.
    """
    figure, (axes,) = new_figure(5.4, 2.9)
    best = probabilities.amax(dim=0).topk(min(DRAWN, len(names))).indices.tolist()  # [k]
    for colour, name in zip(COLOURS, best, strict=False):
        percent = (100 * probabilities[:, name]).tolist()
        # matplotlib leaves labels that begin with an underscore out of the legend.
        axes.plot(ALPHAS, percent, "o-", color=colour, markersize=3, label=names[name].lstrip("_"))
    axes.axvline(alpha, color=ZEROSHOT_COLOUR, linewidth=1, linestyle="--")
    axes.set(xlim=(-0.02, 1.02), ylim=(-2, 102), xlabel="alpha (0: zero-shot, 1: fine-tuned)")
    axes.set_ylabel("probability in %")
    legend = axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)  # two dollar signs in a name would start a formula
    return figure
