"""What methods that learn from captions share: a longer text window, tokens of a batch, options for both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...backbone.positions import (
    CLIP_LENGTH,
    position_tower,
    stretch_positions,
)
from ...core.errors import UserError
from ...core.types import CaptionSource, CaptionUse
from .contrastive import ContrastiveMethod

if TYPE_CHECKING:
    from ...backbone import Backbone, Tokens
    from ...core.types import Batch, Episode

log = logging.getLogger(__name__)

LOOKED_AT = 2000  # training captions whose length is looked at before a run that truncates
LONG_CLIP: Mapping[str, Any] = {  # settings of Long-CLIP, which SmartCLIP took over
    "lr": 1e-6,
    "weight_decay": 0.01,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_steps": 0.0548,  # 200 of 3,650
}


@dataclass(frozen=True)
class CaptionConfig:
    """Which text of a caption is shown, and how long it may be."""

    captions: CaptionUse = "long"
    """Text per image and step: the whole caption, its first K sentences (K drawn anew each time), or one of its
    sentences."""
    context_length: int | None = None
    """Tokens that the text tower reads; its positions are stretched, or cut. Default: Long-CLIP's rule, 4 L - 3
    keep-positions for a tower of L (248 for 77); towers that read more than 77 keep their own."""
    keep_positions: int = 20
    """First positions that stretching leaves as they are, and training too. Nothing is held where nothing is
    stretched."""
    too_long: Literal["truncate", "error", "stretch"] = "truncate"
    """What to do with captions of more tokens: cut them, and log how many and how much; refuse to start; or
    stretch further, to the longest training caption."""

    def __post_init__(self) -> None:
        if self.keep_positions < 0:
            raise UserError(f"--keep-positions must be at least 0, not {self.keep_positions}")


class CaptionMethod(ContrastiveMethod):
    """Both towers trained on images and captions, the text tower with a longer window.

    The text window is the tower's own where --context-length says so; Long-CLIP's recipe otherwise
    (`backbone.positions`). Images have no augmentation of a method's own.
    """

    towers = ("vit", "resnet")
    learns_from: ClassVar[Literal["classes", "captions"]] = "captions"
    Config = CaptionConfig

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        backbone.model.requires_grad_(True)
        bias = getattr(backbone.model, "logit_bias", None)
        if bias is not None:  # moves every logit of a softmax alike
            bias.requires_grad_(False)
        self.own_length: int = backbone.context_length
        self.cut_share: float | None = None
        self.kept: Any = None
        self.stretch(self.chosen_length())
        self.warned_of_cut = False

    def chosen_length(self) -> int:
        """Tokens of the text window, after a look at the training captions.

        Raises:
            UserError: --too-long error, and one is too long.
        """
        from ...backbone.positions import long_clip_length

        o, length = self.config, self.own_length
        if o.context_length is not None:
            length = o.context_length
        elif length <= CLIP_LENGTH:
            length = long_clip_length(length, o.keep_positions)
        texts = self.training_captions()
        if not texts:  # a finished run, opened: its weights say how long the window is
            return int(length)
        lengths = self.backbone.tokenize(texts).lengths
        longest = max(lengths)
        if longest > length and o.too_long == "error":
            text = texts[lengths.index(longest)]
            raise UserError(
                f"--too-long error: a training caption has {longest} tokens, --context-length is {length}: "
                f'"{text[:60]}..."; take a longer one, or --too-long truncate or stretch'
            )
        if o.too_long == "stretch":
            length = max(length, longest)
        self.cut_share = sum(n > length for n in lengths) / len(lengths)
        return int(length)

    def training_captions(self) -> list[str]:
        """The captions that are trained on; a regular sample of them where lengths are only reported."""
        source, rows = self.episode.source, self.episode.train_rows
        if not isinstance(source, CaptionSource) or len(rows) == 0:
            return []
        every = max(1, len(rows) // LOOKED_AT) if self.config.too_long == "truncate" else 1
        return [source.texts[row][0] for row in rows[::every].tolist()]

    def stretch(self, length: int) -> None:
        """Give the text tower a window of `length`, and hold its first positions if that made it longer."""
        from ...backbone.positions import FrozenPositions

        stretch_positions(self.backbone, length, self.config.keep_positions)
        if self.kept is not None:
            self.kept.remove()
        longer = self.backbone.context_length > self.own_length
        self.kept = FrozenPositions(self.backbone, self.config.keep_positions if longer else 0)

    def resolved(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"context_length": self.backbone.context_length}
        if self.cut_share is not None:
            facts["captions_cut"] = round(self.cut_share, 4)
        return facts

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tower = position_tower(self.backbone)
        prefix = "" if tower is self.backbone.model else "text."
        table = state.get(f"{prefix}positional_embedding")
        if table is not None and table.dim() == 2:
            self.stretch(len(table))
        super().load_state_dict(state)
        self.stretch(self.backbone.context_length)  # what is held is what was loaded

    def after_step(self, step: int) -> None:
        self.kept.restore()

    def tokens(self, batch: Batch, captions: Sequence[str] | None = None) -> Tokens:
        """Tokens of a batch's captions, or of others made from them.

        Raises:
            UserError: the batch has none, or an empty one.
        """
        texts = batch.captions if captions is None else captions
        if texts is None:
            raise UserError(
                f"--method {self.name} learns from captions, and --data {self.episode.source.name} has none"
            )
        for row, text in zip(batch.rows.tolist(), texts, strict=True):
            if not text.strip():
                raise UserError(
                    f"--data {self.episode.source.name}: the caption of row {row} is empty; remove the row or "
                    "write one"
                )
        tokens = self.backbone.tokenize(texts)
        if tokens.num_truncated and not self.warned_of_cut:
            self.warned_of_cut = True
            log.warning(
                "captions of more than %d tokens are cut (--too-long truncate); captions_cut and tokens_cut in "
                "metrics.jsonl say how many, and what share of all tokens",
                self.backbone.context_length,
            )
        return tokens

    def unit_text(self, tokens: Tokens) -> Tensor:
        """Unit rows [B, d] float32 of tokens."""
        return F.normalize(self.backbone.encode_text(tokens.ids).float(), dim=-1)


def caption_lengths(tokens: Tokens, device: torch.device) -> Tensor:
    """[B, 2] float32: tokens of each caption, and how many of them were cut."""
    lengths = torch.tensor(tokens.lengths, dtype=torch.float32, device=device)
    return torch.stack([lengths, (lengths - tokens.ids.shape[1]).clamp_min(0)], dim=1)


def cut_statistics(lengths: Tensor, everyone: Tensor) -> dict[str, Tensor]:
    """What to log of `caption_lengths`: share of captions cut, share of all tokens lost."""
    return {
        "captions_cut": (lengths[:, 1] > 0).float().mean(),
        "tokens_cut": everyone[:, 1].sum() / everyone[:, 0].sum(),
    }
