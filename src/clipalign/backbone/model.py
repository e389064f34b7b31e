"""A CLIP-like model as the rest of the package sees it: features, dense maps, hooks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..core.errors import UserError
from . import resnet, vit
from .attention import AttentionOver
from .dense import DenseFeatures, check_request
from .hooks import BlockHook, Hooks, Tap
from .text.prefix import encode_with_prefix, splits
from .text.tokens import Tokens, tokenize
from .text.tower import TextTower, text_tower


class Backbone(nn.Module):
    """An open_clip model with its tokenizer and its preprocessing.

    Attributes:
        model: the open_clip model; its state dict is what checkpoints hold.
        spec: the name it was loaded by.
        kind: "vit" or "resnet".
        image_size: height and width in pixels.
        mean, std: of image channels in [0, 1].
        interpolation: how images are resized for it, "bicubic" or "bilinear".
        embed_dim: d, size of the joint space.
        num_blocks: attention layers of the vision tower; 1 for a ResNet (its attention pool).
        grid: rows and columns of patches (cells of a ResNet); M is their product.
        context_length: token positions of the text tower.
        text_cache: class text features by weights, names and templates, shared with other backbones; None to keep none.
    """

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], Tensor], spec: str) -> None:
        """Wrap a model.

        Raises:
            UserError: the vision tower is of a kind whose dense features are not known.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.spec = spec
        self._hooks = Hooks()
        self.text_cache: dict[Hashable, Tensor] | None = None
        self._text_digest: tuple[Hashable, str] | None = None  # of `text_fingerprint`
        self._splits: bool | None = (
            None  # whether `encode_with_prefix` may walk the text blocks; found on first use
        )

        visual = model.visual
        self.kind: Literal["vit", "resnet"]
        if isinstance(visual, VisionTransformer):
            vit.check(visual)
            self.kind = "vit"
            self.num_blocks: int = len(visual.transformer.resblocks)
            self.grid: tuple[int, int] = tuple(visual.grid_size)
        elif isinstance(visual, ModifiedResNet):
            resnet.check(visual)
            self.kind = "resnet"
            self.num_blocks = 1
            side = round((visual.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
            self.grid = (side, side)
        else:
            raise UserError(
                f'backbone "{spec}": its vision tower ({type(visual).__name__}) is not supported; '
                "clipalign needs open_clip's VisionTransformer or ModifiedResNet"
            )
        size = visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.mean: tuple[float, ...] = tuple(visual.image_mean)
        self.std: tuple[float, ...] = tuple(visual.image_std)
        preprocess = getattr(visual, "preprocess_cfg", {})
        self.interpolation: Literal["bicubic", "bilinear"] = (
            "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
        )
        self.embed_dim: int = visual.output_dim
        self.context_length: int = self.model.context_length

    # Scale

    @property
    def logit_scale(self) -> Tensor:
        """s, a scalar: 100 for OpenAI's weights."""
        return self.model.logit_scale.exp().reshape(())

    @property
    def temperature(self) -> Tensor:
        """tau = 1 / s."""
        return 1 / self.logit_scale

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale.device

    # Images

    def encode_image(self, images: Tensor) -> Tensor:
        """Image features, not normalised: [B, 3, H, W] -> [B, d]."""
        self._check_size(images)
        tower = vit if self.kind == "vit" else resnet
        return tower.encode(self.model.visual, images, self._hooks)

    def forward(self, images: Tensor) -> Tensor:
        """`encode_image`, so that wrappers which call the module (DDP, compile, summaries) work."""
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
        """Image feature, patch tokens, class-token attention and guide tokens in one pass.

        Args:
            images: [B, 3, H, W].
            attention_layers: which layers' class-token attention to return, counted from 0 (negative from
                the end), in this order.
            guide: structure of the second path's attention: "dv" (identity), "vvv", "qqv", "kkv" or any
                other combination of queries, keys and values; None for no second path.
            dual_blocks: in how many of the last blocks the second path runs; None for half of them.
            attention_over: softmax over the "patches" (AlignCLIP, equation 3) or over all "tokens", then
                without the class token and L1-normalised (its released code).
            detach_guide: the second path gives and takes no gradient.
            keep_mlp: give the second path the blocks' MLPs too.

        Raises:
            UserError: layers the tower does not have, an unknown structure, images of another size.
        """
        self._check_size(images)
        request = check_request(
            self.num_blocks, attention_layers, attention_over, guide, dual_blocks, detach_guide, keep_mlp
        )
        tower = vit if self.kind == "vit" else resnet
        return tower.dense(self.model.visual, images, request, self._hooks)

    def image_parameters(self) -> list[nn.Parameter]:
        """Every parameter of the vision tower, projection and embeddings included."""
        return list(self.model.visual.parameters())

    @property
    def vision_width(self) -> int:
        """W of the vision tower's tokens (ViT only)."""
        return int(self.model.visual.class_embedding.shape[-1])

    def _check_size(self, images: Tensor) -> None:
        if tuple(images.shape[-2:]) != self.image_size:
            got = " x ".join(str(n) for n in images.shape[-2:])
            want = " x ".join(str(n) for n in self.image_size)
            raise UserError(f'images of {got} pixels for backbone "{self.spec}", which takes {want}')

    # Texts

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids, with a report of what did not fit into the context length."""
        return tokenize(self.tokenizer, texts)

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Text features, not normalised.

        Causal towers run only up to the last end token, with the same result: what follows cannot matter.

        Args:
            texts: C texts (a warning says if some were too long), or their tokens [C, n].

        Returns:
            [C, d].
        """
        if isinstance(texts, Tensor):
            tokens = texts
        else:
            report = self.tokenize(texts)
            report.warn_if_truncated()
            tokens = report.ids
        tower = text_tower(self.model)
        if tower is None:
            if self._hooks.text is not None:
                self._causal_tower()
            return self.model.encode_text(tokens.to(self.device))
        ends = tower.end_positions(tokens)
        tokens = tokens[:, : int(ends.max()) + 1].to(self.device)
        return tower.encode(tower.embed(tokens), ends, self._hooks)

    def text_states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Text features, and what the text tower knows of each token.

        Args:
            tokens: [B, n] token ids.

        Returns:
            Features [B, d], not normalised, and states [B, L, W] after the final layer norm, L up to the last end
            token of all. Of a text that ends earlier (`text_lengths`) the states behind its end are of padding.

        Raises:
            UserError: the text tower is not causal.
        """
        tower = self._causal_tower()
        ends = tower.end_positions(tokens)
        tokens = tokens[:, : int(ends.max()) + 1].to(self.device)
        return tower.states(tower.embed(tokens), ends, self._hooks)

    def text_lengths(self, tokens: Tensor) -> Tensor:
        """[B, n] token ids -> [B] tokens up to the end token, both ends included, on the backbone's device."""
        return (self._causal_tower().end_positions(tokens) + 1).to(self.device)

    def embed_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode_prompt_embeddings` takes: [C, n] token ids -> [C, L, W] without positions, [C] ends.

        L is the longest prompt's length. Prompt learners replace or insert rows.
        """
        tower = self._causal_tower()
        ends = tower.end_positions(tokens)
        return tower.embed(tokens[:, : int(ends.max()) + 1].to(self.device)), ends.to(self.device)

    def encode_prompt_embeddings(self, x: Tensor, eos: Tensor) -> Tensor:
        """Text features of prompts given as vectors, through the same path as `encode_text`.

        Args:
            x: [C, L, W] token embeddings and learned vectors, without positions. All L positions are run:
                cut behind the last end token, as `embed_tokens` does.
            eos: [C] position of each prompt's end token, where the feature is read.

        Returns:
            [C, d], not normalised.

        Raises:
            UserError: the text tower is not causal, or L exceeds its context length.
        """
        if x.shape[1] > self.context_length:
            raise UserError(f"prompts of {x.shape[1]} positions; this text tower has {self.context_length}")
        return self._causal_tower().encode(x, eos, self._hooks)

    def encode_with_prefix(self, prefix: Tensor, rest: Tensor, ends: Tensor) -> Tensor:
        """Features of every continuation behind every beginning, the same as of the prompts put together.

        What prompts have in common runs once: several times cheaper where learned vectors stand before class
        names. Text hooks see the beginnings, and rows of theirs are all that they may change.

        Args:
            prefix: [G, P, W] beginnings, start token first, without positions.
            rest: [C, S, W] continuations, without positions, cut behind the last end token.
            ends: [C] position of each end token in `rest`.

        Returns:
            [G, C, d], not normalised.

        Raises:
            UserError: the text tower is not causal, or P + S exceeds its context length.
        """
        tower = self._causal_tower()
        length = prefix.shape[1] + rest.shape[1]
        if length > self.context_length:
            raise UserError(f"prompts of {length} positions; this text tower has {self.context_length}")
        if self._splits is None:
            self._splits = splits(tower)
        if self._splits and self._hooks.tap is None:
            return encode_with_prefix(tower, prefix, rest, ends.to(rest.device), self._hooks)
        together = torch.cat(
            [
                prefix.unsqueeze(1).expand(-1, len(rest), -1, -1),
                rest.unsqueeze(0).expand(len(prefix), -1, -1, -1),
            ],
            dim=2,
        )
        at = (ends + prefix.shape[1]).repeat(len(prefix))
        return tower.encode(together.flatten(0, 1), at, self._hooks).unflatten(0, (len(prefix), -1))

    @property
    def text_shape(self) -> tuple[int, int]:
        """Blocks and width W of the (causal) text tower."""
        tower = self._causal_tower()
        return len(tower.transformer.resblocks), tower.token_embedding.embedding_dim

    @property
    def text_heads(self) -> int:
        """Attention heads of a block of the (causal) text tower."""
        return int(self._causal_tower().transformer.resblocks[0].attn.num_heads)

    def _causal_tower(self) -> TextTower:
        tower = text_tower(self.model)
        if tower is None:
            raise UserError(
                f'backbone "{self.spec}": prompts and text hooks need a causal text tower '
                "that reads its end token"
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
        """Run the towers with functions before and after their blocks, as `Hooks` describes.

        Inside the `with`, every encode and dense call uses them; an inner `with` replaces an outer one.
        """
        previous, self._hooks = self._hooks, Hooks(vision_input, vision, text, tap)
        try:
            yield
        finally:
            self._hooks = previous

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: blocks keep only their input and run again in the backward pass."""
        self.model.set_grad_checkpointing(enable)
