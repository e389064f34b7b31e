"""WiSE-FT: between the pre-trained and the fine-tuned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.errors import UserError
from ..core.weights import interpolate
from . import register
from .base import Validation
from .erm import Erm

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Episode


@dataclass(frozen=True)
class WiseFtConfig:
    """Options of the interpolation."""

    wise_alpha: float | None = None
    """Share of the fine-tuned weights: 0 is zero-shot, 1 fine-tuning (published: 0.5 where nothing is known).
    Default: the best on source validation."""
    wise_steps: int = 10
    """The curve over alpha is measured at 0, 1 / this, ... 1 (published: tenths)."""

    def __post_init__(self) -> None:
        if self.wise_alpha is not None and not 0 <= self.wise_alpha <= 1:
            raise UserError(f"--wise-alpha must be in [0, 1], not {self.wise_alpha:g}")
        if self.wise_steps < 1:
            raise UserError(f"--wise-steps must be at least 1, not {self.wise_steps}")


@register("wise-ft")
class WiseFt(Erm):
    """theta = (1 - alpha) theta_zero-shot + alpha theta_fine-tuned, for every weight of the image tower.

    Fine-tuning is that of `erm`: the class prompts stay the classifier, where the publication also trains
    (and interpolates) a head that starts from them; so any class list can be scored. The accuracy of each
    alpha on source validation goes to metrics.jsonl. Source validation favours large alphas; 0.5 is the
    safer choice where the target is far.
    """

    summary = "interpolation of zero-shot and fine-tuned weights"
    source = "Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022"
    Config = WiseFtConfig
    published: ClassVar[Mapping[str, Any]] = {
        "lr": 3e-5,
        "weight_decay": 0.1,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_steps": 0.02,  # 500 of 25,000
        "clip_grad_norm": 1.0,
        "batch_size": 512,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        tower = backbone.model.visual
        self.zero_shot = {name: tensor.detach().clone() for name, tensor in tower.state_dict().items()}

    def finish(self, validation: Validation) -> dict[str, Any]:
        o, tower = self.config, self.backbone.model.visual
        tuned = {name: tensor.detach().clone() for name, tensor in tower.state_dict().items()}
        classifier = self.classifier(self.episode.class_names)
        curve = []
        for i in range(o.wise_steps + 1):
            alpha = i / o.wise_steps
            tower.load_state_dict(interpolate(self.zero_shot, tuned, alpha))
            curve.append({"alpha": alpha, **validation.measure(classifier)})
        # Of equals the one nearest to the published recommendation.
        best = max(curve, key=lambda point: (point["validation_accuracy"], -abs(point["alpha"] - 0.5)))
        alpha = best["alpha"] if o.wise_alpha is None else o.wise_alpha
        tower.load_state_dict(interpolate(self.zero_shot, tuned, alpha))
        return {"alpha": alpha, "curve": curve}
