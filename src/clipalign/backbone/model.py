"""`Backbone`: a CLIP-like model with features, dense maps and hooks, as the rest of the package uses it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.config import ModelOptions, NameRule, Pooling
from ..core.errors import UserError
from .attention import AttentionOver
from .dense import DenseFeatures, check_options
from .hooks import BlockHook, Hooks, Tap
from .text.prefix import encode_whole, encode_with_prefix, supports_prefix
from .text.tokens import Tokenizer, Tokens, tokenize
from .text.tower import TextTower, text_tower
from .trace import Trace
from .vision import MODULES, Kind, VisionModule, kind_of


class Backbone(nn.Module):
    """An open_clip model with its tokenizer and preprocessing.

    In shapes, B is images, C texts, M patches, W the token width of a tower and d the embedding dimension.

    Attributes:
        model: the open_clip model; its state dict is what checkpoints contain.
        tokenizer: open_clip's tokenizer.
        spec: the name it was loaded by.
        kind: "vit" or "resnet".
        image_size: height and width in pixels.
        mean, std: of image channels in [0, 1].
        interpolation: of image resizing, "bicubic" or "bilinear".
        embed_dim: d.
        num_blocks: attention layers of the vision tower; 1 for a ResNet (its attention pool).
        grid: rows and columns of patches (cells of the feature map for a ResNet); M is their product.
        context_length: token positions of the text tower.
        names: whether hyphens in class names become spaces in prompts; see `text.features.clean_class_names`.
        pooling: image feature: the class token ("class"), or the mean of the patch tokens ("patches").
        text_cache: class text features by fingerprint and prompts, which backbones may share; None for no caching.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, spec: str) -> None:
        """Wrap a model.

        Raises:
            UserError: the vision tower is of an unsupported kind.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.spec = spec
        self.text_cache: dict[Hashable, Tensor] | None = None
        self.names: NameRule = "paper"
        self.pooling: Pooling = "class"
        self._hooks = Hooks()
        self._text_digest: tuple[Hashable, str] | None = None  # see `fingerprint.text_fingerprint`
        self._supports_prefix: bool | None = None  # determined on first use

        visual = model.visual
        self.kind: Kind = kind_of(visual, spec)
        self._vision.check(visual)
        self.num_blocks: int
        self.grid: tuple[int, int]
        self.num_blocks, self.grid = self._vision.layout(visual)
        size = visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.mean: tuple[float, ...] = tuple(visual.image_mean)
        self.std: tuple[float, ...] = tuple(visual.image_std)
        preprocess = getattr(visual, "preprocess_cfg", {})
        self.interpolation: Literal["bicubic", "bilinear"] = (
            "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
        )
        self.embed_dim: int = visual.output_dim
        self.context_length: int = model.context_length

    @property
    def logit_scale(self) -> Tensor:
        """The logit scale s, a scalar; 100 for OpenAI's weights."""
        return self.model.logit_scale.exp().reshape(())  # some checkpoints store it as [1]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.logit_scale.device

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
            UserError: layers that the tower does not have, an unknown structure, or images of another size.

        Example:
            >>> from clipalign.backbone import load
            >>> backbone = load("pocket")
            >>> images = torch.zeros(2, 3, *backbone.image_size)
            >>> dense = backbone.dense(images, attention_layers=[0, -1], guide="dv")
            >>> dense.patches.shape == dense.guide.shape == (2, backbone.grid[0] * backbone.grid[1], backbone.embed_dim)
            True
            >>> dense.cls_attention.shape[:2]  # layers, images
            torch.Size([2, 2])
        """
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
            UserError: images of another size.

        Example:
            >>> from clipalign.backbone import load
            >>> backbone = load("pocket")
            >>> with torch.no_grad():
            ...     trace = backbone.trace(torch.zeros(2, 3, *backbone.image_size))
            >>> trace.patch_features("dv", layers=[-1]).shape == trace.patches.shape
            True
        """
        self._check_size(images)
        trace = self._vision.trace(self.model.visual, images, self._hooks)
        return (
            replace(trace, image=trace.patches.mean(dim=1)) if self.pooling == "patches" else trace
        )  # [B, d]

    def configure(self, options: ModelOptions) -> Backbone:
        """Set `names` and `pooling` to those of a run; returns this backbone."""
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

    @property
    def vision_width(self) -> int:
        """Token width of the vision tower (ViT only)."""
        return int(self.model.visual.class_embedding.shape[-1])

    @property
    def _vision(self) -> VisionModule:
        return MODULES[self.kind]

    def _check_size(self, images: Tensor) -> None:
        if tuple(images.shape[-2:]) != self.image_size:
            actual = " x ".join(str(n) for n in images.shape[-2:])
            expected = " x ".join(str(n) for n in self.image_size)
            raise UserError(f'images of {actual} pixels for backbone "{self.spec}", which takes {expected}')

    # Texts

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenise texts; the result reports which of them exceed the context length."""
        return tokenize(self.tokenizer, texts)

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Return text features, not normalised.

        Causal towers run only up to the last end token, which does not change the result.

        Args:
            texts: C texts (a warning reports truncation), or their token ids [C, n].

        Returns:
            [C, d].
        """
        if isinstance(texts, Tensor):
            ids = texts
        else:
            tokens = self.tokenize(texts)
            tokens.warn_if_truncated()
            ids = tokens.ids
        tower = text_tower(self.model)
        if tower is None:
            if self._hooks.text is not None:
                self._causal_tower()  # raises: open_clip encodes other towers, without hooks
            return self.model.encode_text(ids.to(self.device))
        ids, ends = tower.cut(ids)
        return tower.encode(tower.embed(ids), ends, self._hooks)

    def text_states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return text features, and the final state of every token.

        Args:
            tokens: token ids, [B, n].

        Returns:
            Features [B, d], not normalised, and states [B, L, W] after the final LayerNorm, with L up to the last end
            token of the batch. The states of a text after its end token (see `text_lengths`) are those of padding.

        Raises:
            UserError: the text tower is not causal.
        """
        tower = self._causal_tower()
        ids, ends = tower.cut(tokens)
        return tower.states(tower.embed(ids), ends, self._hooks)

    def text_lengths(self, tokens: Tensor) -> Tensor:
        """Return the number of tokens up to and including the end token: ids [B, n] -> [B], on `device`."""
        return (self._causal_tower().end_positions(tokens) + 1).to(self.device)

    def embed_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return token embeddings, in which prompt learners replace or insert vectors.

        Args:
            tokens: token ids, [C, n].

        Returns:
            Embeddings without positions, [C, L, W], with L up to the last end token, and end positions [C].

        Raises:
            UserError: the text tower is not causal.
        """
        tower = self._causal_tower()
        ids, ends = tower.cut(tokens)
        return tower.embed(ids), ends.to(self.device)

    def encode_with_prefix(self, prefix: Tensor, rest: Tensor, ends: Tensor) -> Tensor:
        """Return features of prompts given as token embeddings: every continuation after every prefix.

        Prefixes run once, not once per continuation, which is several times faster if learned vectors precede class
        names. Text hooks receive the prefixes, and can change nothing else.

        Args:
            prefix: G prefixes, start token first, without positions, [G, P, W].
            rest: C continuations without positions, cut after the last end token, [C, S, W].
            ends: position of each end token in `rest`, [C].

        Returns:
            [G, C, d], not normalised.

        Raises:
            UserError: the text tower is not causal, or P + S exceeds its context length.
        """
        tower = self._causal_tower()
        length = prefix.shape[1] + rest.shape[1]
        if length > self.context_length:
            raise UserError(
                f"prompts of {length} tokens; the context length of this backbone is {self.context_length}"
            )
        if self._supports_prefix is None:
            self._supports_prefix = supports_prefix(tower)
        # Taps expect the output of whole prompts.
        encode = encode_with_prefix if self._supports_prefix and self._hooks.tap is None else encode_whole
        return encode(tower, prefix, rest, ends.to(rest.device), self._hooks)

    @property
    def text_shape(self) -> tuple[int, int]:
        """Number of blocks and token width of the (causal) text tower."""
        tower = self._causal_tower()
        return len(tower.transformer.resblocks), tower.token_embedding.embedding_dim

    @property
    def text_heads(self) -> int:
        """Attention heads per block of the (causal) text tower."""
        return int(self._causal_tower().transformer.resblocks[0].attn.num_heads)

    def _causal_tower(self) -> TextTower:
        if (tower := text_tower(self.model)) is None:
            raise UserError(
                f'backbone "{self.spec}": prompts and text hooks need a causal text tower that reads its end token'
            )
        return tower

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
