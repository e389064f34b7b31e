"""WiSE-FT: interpolate between the pre-trained and the fine-tuned weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ..core.config import Options, facts
from ..core.search import SearchSpace, Uniform
from ..core.weights import interpolate
from . import register
from .base import Validation
from .erm import Erm

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Episode


@dataclass(frozen=True)
class WiseFtConfig(Options):
    """Options of the interpolation."""

    wise_alpha: float | None = field(
        default=None, metadata=facts(unit="SHARE", unset="validation", at_least=0, at_most=1)
    )
    """Share of the fine-tuned weights. 0: zero-shot; 1: fine-tuned. WiSE-FT recommends 0.5 if nothing is known
    about the target. Default: the best on source validation."""
    wise_steps: int = field(default=10, metadata=facts(unit="COUNT", at_least=1, reason="WiSE-FT"))
    """Intervals of alpha to measure. Validation accuracy is logged at 0, 1 / N, ..., 1."""


@register("wise-ft")
class WiseFt(Erm[WiseFtConfig]):
    """theta = (1 - alpha) theta_zero-shot + alpha theta_fine-tuned, for every weight of the image tower.

    Fine-tuning is `erm`: the frozen class prompts classify, so any class list can be scored. The publication also
    trains and interpolates a head initialised from them. metrics.jsonl records the source validation accuracy of each
    alpha. Source validation favours large alphas; prefer 0.5 for distant targets.
    """

    summary = "interpolation of zero-shot and fine-tuned weights"
    source = "Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022"
    Config = WiseFtConfig
    search: ClassVar[SearchSpace] = {"wise_alpha": Uniform(0, 1)}

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        tower = backbone.model.visual
        self.zero_shot = {name: tensor.detach().clone() for name, tensor in tower.state_dict().items()}

    def finish(self, validation: Validation) -> dict[str, object]:
        """Choose alpha by validation accuracy, if not given, and interpolate the weights."""
        o, tower = self.config, self.backbone.model.visual
        tuned = {name: tensor.detach().clone() for name, tensor in tower.state_dict().items()}
        classifier = self.classifier(self.episode.class_names)
        curve: list[dict[str, float]] = []
        for i in range(o.wise_steps + 1):
            alpha = i / o.wise_steps
            tower.load_state_dict(interpolate(self.zero_shot, tuned, alpha))
            curve.append({"alpha": alpha, **validation.measure(classifier)})
        # On a tie, the alpha closest to the published 0.5 wins.
        best = max(curve, key=lambda point: (point["validation_accuracy"], -abs(point["alpha"] - 0.5)))
        alpha = best["alpha"] if o.wise_alpha is None else o.wise_alpha
        tower.load_state_dict(interpolate(self.zero_shot, tuned, alpha))
        return {"alpha": alpha, "curve": curve}
