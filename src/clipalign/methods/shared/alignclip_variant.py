"""Constants of AlignCLIP's two variants, the paper and the released code, adapted to a backbone."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from ... import losses
from ...backbone.attention import AttentionOver
from ...backbone.text.features import class_text_features
from ...core.errors import UserError

if TYPE_CHECKING:
    from ...backbone import Backbone
    from ..alignclip import AlignClipConfig

PUBLISHED_SCALE = 100.0  # logit scale of OpenAI's weights
PUBLISHED_SHARPNESS = 35.0
PACS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PACS_MASS = 0.044  # mean share of other classes in the heat map of the released code, for ViT-B/16

Smoothing = Literal["paper", "paper-raw", "released", "uniform", "none"]
Classes = Literal["true", "sum", "mean"]


@dataclass(frozen=True)
class Variant:
    """The options that --variant and the backbone decide; fields as in the config.

    Numbers of blocks are in proportion to the depth. Constants tied to CLIP's logit scale s of 100 keep the effect that
    they have there: the gradient of the cross-entropy with respect to a cosine is proportional to s. Those of AL and AS
    grow with s as well at temperature 1 / s, but do not depend on s at temperature 1, so their weight then follows s.
    """

    aal_weight: float
    aligned_layers: int
    attention_over: AttentionOver
    al_direction: losses.Direction
    as_direction: losses.Direction
    as_classes: Classes
    temperature: float
    dual_blocks: int
    smoothing: Smoothing
    sharpness: float
    normalise_targets: bool
    margin: float

    @classmethod
    def paper(cls, scale: float, blocks: int) -> Variant:
        """The paper: equations (3) to (9) and its implementation details."""
        return cls(
            aal_weight=1.0,
            aligned_layers=max(1, round(blocks / 3)),
            attention_over="patches",
            al_direction="paper",
            as_direction="paper",
            as_classes="true",
            temperature=1 / scale,
            dual_blocks=max(1, blocks // 2),
            smoothing="paper",
            sharpness=1.0,
            normalise_targets=False,
            margin=0.0,
        )

    @classmethod
    def released(cls, scale: float, blocks: int, sharpness: float) -> Variant:
        """The released code: `engine.py` and the defaults of `main.py`."""
        return cls(
            aal_weight=10.0 * scale / PUBLISHED_SCALE,
            aligned_layers=max(1, (5 * blocks + 6) // 12),  # halves round up, where round(2.5) is 2
            attention_over="tokens",
            al_direction="released",
            as_direction="released",
            as_classes="sum",
            temperature=1.0,
            dual_blocks=max(1, blocks // 2),
            smoothing="released",
            sharpness=sharpness,
            normalise_targets=False,
            margin=0.3,
        )


def released_sharpness(backbone: Backbone) -> float:
    """Return the sharpness of released smoothing on a backbone.

    35 at CLIP's logit scale of 100. Elsewhere, the sharpness at which the classes of PACS give other classes the share
    that they have in the heat maps of the released code: how much class texts differ depends on the text tower, and
    not on the scale.
    """
    if abs(float(backbone.logit_scale.detach()) - PUBLISHED_SCALE) < 1:
        return PUBLISHED_SHARPNESS
    text = class_text_features(backbone, PACS, ("a photo of a {}.",))  # [7, d]
    return losses.sharpness_for_mass(losses.class_similarity(text), PACS_MASS)


def resolve(
    config: AlignClipConfig, scale: float, blocks: int, sharpness: float = PUBLISHED_SHARPNESS
) -> Variant:
    """Return the variant's options with those of the config that are not None.

    Args:
        config: options of the user.
        scale: logit scale s of the backbone.
        blocks: attention layers of its vision tower.
        sharpness: `released_sharpness` of the backbone.

    Raises:
        UserError: more layers than the tower has.
    """
    released = config.variant == "released"
    defaults = Variant.released(scale, blocks, sharpness) if released else Variant.paper(scale, blocks)
    chosen = {f.name: getattr(config, f.name) for f in fields(Variant)}
    variant = replace(defaults, **{name: value for name, value in chosen.items() if value is not None})
    for option, layers in (
        ("--aligned-layers", variant.aligned_layers),
        ("--dual-blocks", variant.dual_blocks),
    ):
        if not 1 <= layers <= blocks:
            raise UserError(f"{option} {layers}: this backbone allows 1 to {blocks}")
    if config.first_aligned_layer + variant.aligned_layers > blocks:
        raise UserError(
            f"--first-aligned-layer {config.first_aligned_layer} with {variant.aligned_layers} aligned layers: this "
            f"backbone has {blocks}; decrease it or --aligned-layers"
        )
    return variant
