"""`Backbone`: a CLIP-like model with features, dense maps and hooks, as the rest of the package uses it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from ..core.config import ModelOptions, NameRule, Pooling
from ..core.errors import UserError
from ..core.types import Resize
from .attention import AttentionOver
from .dense import DenseFeatures, check_options
from .families import FAMILIES, Capability, Kind, missing, towers_with
from .hooks import BlockHook, Hooks, Tap
from .positions import can_stretch
from .text.encoder import TextEncoder
from .text.tokens import Tokenizer
from .text.tower import text_tower
from .trace import Trace
from .vision import VisionModule, embed_dim, kind_of, vision_module

NOT_OF_FEATURES = ("text_decoder.", "logit_bias")  # of CoCa and SigLIP


class Backbone(TextEncoder):
    """An open_clip model with its tokenizer and preprocessing.

    In shapes, B is images, C texts, M patches, W the token width of a tower and d the embedding dimension.

    Attributes:
        model: the open_clip model; its state dict is what checkpoints contain.
        tokenizer: open_clip's tokenizer.
        spec: the name it was loaded by.
        kind: family of the image tower; see `families.FAMILIES`.
        capabilities: what methods can use beyond image and text features; see `families.CAPABILITIES`.
        image_size: height and width in pixels.
        mean, std: of image channels in [0, 1].
        interpolation: of image resizing, "bicubic" or "bilinear".
        resize: "shortest": resize the shorter side and crop the centre; "squash": resize both sides, as for SigLIP.
        embed_dim: d.
        num_blocks: attention layers of the image tower that have maps: blocks of a ViT with a class token, 1 for an
            attention pool, 0 if the tower has no image tokens.
        num_layers: blocks or stages whose output `Hooks.tap` receives.
        grid: rows and columns of patches (cells of the feature map for a ResNet); M is their product.
        context_length: token positions of the text tower.
        names: whether hyphens in class names become spaces in prompts; see `text.features.clean_class_names`.
        pooling: image feature: the class token ("class"), or the mean of the patch tokens ("patches").
        text_cache: class text features by fingerprint and prompts, which backbones may share; None for no caching.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, spec: str) -> None:
        """Wrap a model.

        Raises:
            UserError: the image tower is open_clip's ViT or ResNet, but not as open_clip computes it; its images are
                padded.
        """
        super().__init__(model, tokenizer, spec)
        self.text_cache: dict[Hashable, Tensor] | None = None
        self.names: NameRule = "paper"
        self.pooling: Pooling = "class"
        self._text_digest: tuple[Hashable, str] | None = None  # see `fingerprint.text_fingerprint`

        visual = model.visual
        self.kind: Kind = kind_of(visual)
        self.num_blocks: int
        self.grid: tuple[int, int]
        self.num_blocks, self.grid = self._vision.layout(visual)
        self.num_layers: int = self._vision.num_layers(visual)
        size = visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.mean: tuple[float, ...] = tuple(visual.image_mean)
        self.std: tuple[float, ...] = tuple(visual.image_std)
        preprocess = getattr(visual, "preprocess_cfg", {})
        self.interpolation: Literal["bicubic", "bilinear"] = (
            "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
        )
        resize = preprocess.get("resize_mode", "shortest")
        if resize not in ("shortest", "squash"):
            raise UserError(
                f'backbone "{spec}": its images are padded (resize mode {resize}), which is not supported'
            )
        self.resize: Resize = resize
        self.embed_dim: int = embed_dim(visual)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What methods can use beyond image and text features."""
        text: set[Capability] = set()
        if text_tower(self.model) is not None:
            text.add("text prompts")
        if can_stretch(self):
            text.add("text positions")
        return self._vision.capabilities(self.model.visual) | text

    def check_offers(self, needs: Iterable[Capability], needed_by: str) -> None:
        """Check that the towers offer everything that a caller needs.

        Args:
            needs: capabilities.
            needed_by: subject of the message, such as "--method maple".

        Raises:
            UserError: a capability is missing; the message names the towers that offer it.
        """
        for need in missing(needs, self.capabilities):
            raise UserError(
                f"{needed_by} needs {need}, which --backbone {self.spec} ({FAMILIES[self.kind].name}) does not offer. "
                f"Offered by: {towers_with(need)}"
            )

    def has_structure(self, structure: str) -> bool:
        """Return whether a second path of an attention structure exists: an attention pool has no queries of patches.

        Example:
            >>> from clipalign.backbone import load
            >>> load("pocket").has_structure("qqv")
            True
        """
        return "image tokens" in self.capabilities and not (self.kind == "pooled-vit" and "q" in structure)

    @property
    def logit_scale(self) -> Tensor:
        """The logit scale s, a scalar; 100 for OpenAI's weights."""
        return self.model.logit_scale.exp().reshape(())  # some checkpoints store it as [1]

    @property
    def logit_bias(self) -> Tensor:
        """The bias b of s cos + b in SigLIP's sigmoid loss, a scalar; 0 for models without one."""
        bias = getattr(self.model, "logit_bias", None)
        return self.model.logit_scale.new_zeros(()) if bias is None else bias.reshape(())

    # Images

    def encode_image(self, images: Tensor) -> Tensor:
        """Return image features, not normalised: [B, 3, H, W] -> [B, d].

        Raises:
            UserError: images of another size than `image_size`.
        """
        if self.pooling == "patches":
            return self.dense(images).image
        self._check_size(images)
        return self._vision.encode(self.model.visual, images, self._hooks)

    def forward(self, images: Tensor) -> Tensor:
        """Return `encode_image`, for wrappers that call the module (DDP, torch.compile, summaries)."""
        return self.encode_image(images)

    def dense(
        self,
        images: Tensor,
        attention_layers: Sequence[int] = (),
        guide: str | None = None,
        dual_blocks: int | None = None,
        *,
        attention_over: AttentionOver = "patches",
        detach_guide: bool = True,
        keep_mlp: bool = False,
    ) -> DenseFeatures:
        """Return image features, patch tokens, class-token attention and guide tokens from one forward pass.

        Args:
            images: [B, 3, H, W].
            attention_layers: layers whose class-token attention to return, counted from 0 (negative from the end),
                in this order.
            guide: attention structure of the second path: "dv" (identity), "vvv", "qqv", "kkv" or any other
                combination of queries, keys and values; None for no second path.
            dual_blocks: number of last blocks in which the second path runs; None for half of them.
            attention_over: softmax over the "patches" (AlignCLIP, equation 3), or over all "tokens", then without the
                class token and divided by the sum (its released code).
            detach_guide: compute the second path without gradient.
            keep_mlp: apply the blocks' MLPs in the second path too.

        Raises:
            UserError: the tower has no image tokens; layers that it does not have, an unknown structure, or images of
                another size.

        Example:
            >>> import torch
            >>> from clipalign.backbone import load
            >>> backbone = load("pocket")
            >>> images = torch.zeros(2, 3, *backbone.image_size)
            >>> dense = backbone.dense(images, attention_layers=[0, -1], guide="dv")
            >>> dense.patches.shape == dense.guide.shape == (2, backbone.grid[0] * backbone.grid[1], backbone.embed_dim)
            True
            >>> dense.cls_attention.shape[:2]  # layers, images
            torch.Size([2, 2])
        """
        self.check_offers(["image tokens"], "an attention map or patch feature")
        self._check_size(images)
        options = check_options(
            self.num_blocks, attention_layers, attention_over, guide, dual_blocks, detach_guide, keep_mlp
        )
        dense = self._vision.dense(self.model.visual, images, options, self._hooks)
        # [B, M, d] -> [B, d]; the projection is linear, so its order with the mean does not matter.
        return replace(dense, image=dense.patches.mean(dim=1)) if self.pooling == "patches" else dense

    def trace(self, images: Tensor) -> Trace:
        """Run the vision tower once and keep the queries, keys and values of every layer.

        `dense` keeps only what a loss needs; a trace gives the attention and the second path of any structure, layers
        and heads without another pass.

        Args:
            images: [B, 3, H, W].

        Raises:
            UserError: the tower has no image tokens; images of another size.

        Example:
            >>> import torch
            >>> from clipalign.backbone import load
            >>> backbone = load("pocket")
            >>> with torch.no_grad():
            ...     trace = backbone.trace(torch.zeros(2, 3, *backbone.image_size))
            >>> trace.patch_features("dv", layers=[-1]).shape == trace.patches.shape
            True
        """
        self.check_offers(["image tokens"], "an attention map or patch feature")
        self._check_size(images)
        trace = self._vision.trace(self.model.visual, images, self._hooks)
        # [B, M, d] -> [B, d]
        return replace(trace, image=trace.patches.mean(dim=1)) if self.pooling == "patches" else trace

    def configure(self, options: ModelOptions) -> Backbone:
        """Set `names` and `pooling` to those of a run; returns this backbone.

        Raises:
            UserError: the mean of patch features, of a tower without them.
        """
        if options.pooling == "patches":
            self.check_offers(["image tokens"], "--pooling patches")
        self.names, self.pooling = options.names, options.pooling
        return self

    def copy_vision(self) -> Backbone:
        """Return a backbone with a frozen copy of the vision tower, which shares all other tensors with this one."""
        visual = {id(tensor) for tensor in (*self.model.visual.parameters(), *self.model.visual.buffers())}
        tensors = (*self.model.parameters(), *self.model.buffers())
        shared: list[Any] = [self.tokenizer, self.text_cache, *(t for t in tensors if id(t) not in visual)]
        other = copy.deepcopy(self, {id(part): part for part in shared})
        other.model.visual.requires_grad_(False)
        return other

    def image_parameters(self) -> list[nn.Parameter]:
        """Return every parameter of the vision tower, including projection and embeddings."""
        return list(self.model.visual.parameters())

    def train_towers(self) -> None:
        """Make every parameter of both towers and the logit scale trainable.

        CoCa's decoder and SigLIP's bias stay frozen: neither features nor softmax losses depend on them.
        """
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(NOT_OF_FEATURES))

    @property
    def vision_width(self) -> int:
        """Token width of the image tower (ViT only)."""
        return self._vision.width(self.model.visual)

    @property
    def _vision(self) -> VisionModule:
        return vision_module(self.kind)

    def _check_size(self, images: Tensor) -> None:
        if tuple(images.shape[-2:]) != self.image_size:
            actual = " x ".join(str(n) for n in images.shape[-2:])
            expected = " x ".join(str(n) for n in self.image_size)
            raise UserError(f'images of {actual} pixels for backbone "{self.spec}", which takes {expected}')

    # Hooks

    @contextmanager
    def hooks(
        self,
        *,
        vision_input: Callable[[Tensor], Tensor] | None = None,
        vision: BlockHook | None = None,
        text: BlockHook | None = None,
        tap: Tap | None = None,
    ) -> Iterator[None]:
        """Call functions before and after the blocks of the towers, as described in `Hooks`.

        They apply to every call inside the `with` statement; an inner `with` replaces the hooks of an outer one.
        """
        previous, self._hooks = self._hooks, Hooks(vision_input, vision, text, tap)
        try:
            yield
        finally:
            self._hooks = previous

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: blocks store only their input, and run again in the backward pass."""
        self.model.set_grad_checkpointing(enable)
