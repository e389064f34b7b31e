"""Methods that train on captions: options, a longer text window, and the tokens of a batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from ...backbone.positions import (
    CLIP_LENGTH,
    FrozenPositions,
    long_clip_length,
    position_tower,
    stretch_positions,
)
from ...core.config import Options, facts
from ...core.errors import UserError
from ...core.types import CaptionSource, CaptionUse
from ...losses import unit_features
from .contrastive import ContrastiveMethod

if TYPE_CHECKING:
    from ...backbone import Backbone, Tokens
    from ...core.types import Batch, Episode

log = logging.getLogger(__name__)

LENGTH_SAMPLE = 2000  # training captions that are tokenised for the share of truncated ones


@dataclass(frozen=True)
class CaptionConfig(Options):
    """Caption part and text window."""

    captions: CaptionUse = "long"
    """Caption part: long, prefix or sentence. Drawn anew for each image and step; prefix: a random number of
    sentences, from the first."""
    captions_per_image: int | None = field(
        default=None, metadata=facts(unit="COUNT", unset="all", at_least=1, reason="SmartCLIP")
    )
    """Captions of an image to draw from, from the first. A step draws one of them; 1: always the first."""
    context_length: int | None = field(default=None, metadata=facts(unit="TOKENS", unset="248 for 77"))
    """Tokens the text tower reads. Its positions are stretched or cut. Default: Long-CLIP's 4 L - 3 keep-positions
    for a tower of L (248 for 77); towers that read more than 77 keep their length."""
    keep_positions: int = field(default=20, metadata=facts(unit="TOKENS", at_least=0, reason="Long-CLIP"))
    """First positions kept when stretching. They are frozen, too; nothing is frozen if nothing is stretched."""
    too_long: Literal["truncate", "error", "stretch"] = "truncate"
    """Long captions: truncate, error or stretch. truncate: cut, and log how many and how much; error: do not start;
    stretch: up to the longest training caption."""


CaptionConfigT = TypeVar("CaptionConfigT", bound=CaptionConfig)


class CaptionMethod(ContrastiveMethod[CaptionConfigT]):
    """A method that trains both towers on captioned images, the text tower with a longer window.

    Positions are stretched as in Long-CLIP (`backbone.positions`) unless --context-length keeps the tower's own window.
    Text towers whose positions cannot be stretched (CoCa's, those of Hugging Face) keep it too.
    """

    learns_from: ClassVar[Literal["classes", "captions"]] = "captions"

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        backbone.train_towers()
        self.stretchable = "text positions" in backbone.capabilities
        self.own_length: int = backbone.context_length
        self.captions_cut: float | None = None  # share of training captions over the window
        self.kept: FrozenPositions | None = None
        self.stretch(self.chosen_length())
        self.warned_of_cut = False

    @property
    def caption_use(self) -> CaptionUse:
        """The part of a caption that a training step draws."""
        return self.config.captions

    @property
    def captions_per_image(self) -> int | None:
        """The number of captions of an image to draw from; None for all."""
        return self.config.captions_per_image

    def chosen_length(self) -> int:
        """Return the text window in tokens and measure the share of captions it truncates.

        Raises:
            UserError: --too-long error, and a training caption is longer.
        """
        o, length = self.config, self.own_length
        if not self.stretchable:
            if o.context_length not in (None, length) or o.too_long == "stretch":
                self.backbone.check_offers(["text positions"], "a text window of another length")
        elif o.context_length is not None:
            length = o.context_length
        elif length <= CLIP_LENGTH:
            length = long_clip_length(length, o.keep_positions)
        texts = self.training_captions()
        if not texts:  # an opened run has no training rows; `load_state_dict` sets the window of its weights
            return length
        lengths = self.backbone.tokenize(texts).lengths
        longest = max(lengths)
        if longest > length and o.too_long == "error":
            text = texts[lengths.index(longest)]
            raise UserError(
                f"--too-long error: a training caption has {longest} tokens, --context-length is {length}: "
                f'"{text[:60]}..."; increase --context-length, or use --too-long truncate or stretch'
            )
        if o.too_long == "stretch":
            length = max(length, longest)
        self.captions_cut = sum(n > length for n in lengths) / len(lengths)
        return length

    def training_captions(self) -> list[str]:
        """Return the training captions; if their lengths are only reported, those of an evenly spaced sample."""
        source, rows = self.episode.source, self.episode.train_rows
        if not isinstance(source, CaptionSource) or len(rows) == 0:
            return []
        stride = max(1, len(rows) // LENGTH_SAMPLE) if self.config.too_long == "truncate" else 1
        limit = self.config.captions_per_image
        return [text for row in rows[::stride].tolist() for text in source.texts[row][:limit]]

    def stretch(self, length: int) -> None:
        """Set the text window to `length` tokens; if that is longer, freeze the first positions."""
        if not self.stretchable:
            return
        stretch_positions(self.backbone, length, self.config.keep_positions)
        if self.kept is not None:
            self.kept.remove()
        longer = self.backbone.context_length > self.own_length
        self.kept = FrozenPositions(self.backbone, self.config.keep_positions if longer else 0)

    def resolved(self) -> dict[str, object]:
        facts: dict[str, object] = {"context_length": self.backbone.context_length}
        if self.captions_cut is not None:
            facts["captions_cut"] = round(self.captions_cut, 4)
        return facts

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load as `Method.load_state_dict`; the text window takes the length of the stored positions."""
        if self.stretchable:
            prefix = "" if position_tower(self.backbone) is self.backbone.model else "text."
            table = state.get(f"{prefix}positional_embedding")
            if table is not None and table.dim() == 2:
                self.stretch(len(table))
        super().load_state_dict(state)
        self.stretch(self.backbone.context_length)  # freeze the loaded positions, not those before

    def after_step(self, step: int) -> None:
        if self.kept is not None:
            self.kept.restore()

    def tokens(self, batch: Batch, captions: Sequence[str] | None = None) -> Tokens:
        """Tokenise the captions of a batch, or other texts derived from them.

        Raises:
            UserError: the batch has no captions, or one is empty.
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
                "captions of more than %d tokens are truncated (--too-long truncate); metrics.jsonl logs the share "
                "of truncated captions (captions_cut) and of lost tokens (tokens_cut)",
                self.backbone.context_length,
            )
        return tokens

    def encode_tokens(self, tokens: Tokens) -> Tensor:
        """Return L2-normalised text features, [B, d] float32."""
        return unit_features(self.backbone.encode_text(tokens.ids))


def caption_lengths(tokens: Tokens, device: torch.device) -> Tensor:
    """Return the number of tokens per caption and how many of them were truncated, [B, 2] float32."""
    lengths = torch.tensor(tokens.lengths, dtype=torch.float32, device=device)  # [B]
    return torch.stack([lengths, (lengths - tokens.ids.shape[1]).clamp_min(0)], dim=1)  # [B, 2]


def cut_statistics(local: Tensor, gathered: Tensor) -> dict[str, Tensor]:
    """Return the shares of truncated captions and of lost tokens.

    Args:
        local: [b, 2], `caption_lengths` of this process.
        gathered: [N, 2], of the whole batch.
    """
    return {
        "captions_cut": (local[:, 1] > 0).float().mean(),
        "tokens_cut": gathered[:, 1].sum() / gathered[:, 0].sum(),
    }
