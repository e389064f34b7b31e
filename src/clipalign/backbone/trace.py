"""`Trace`: everything that one pass through a vision tower needs for maps of any structure, layers and heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .attention import AttentionOver, check_structure, class_attention_row, class_scores, rollout
from .dense import check_indices

# structure, layers, heads, whether to apply MLPs -> [B, M, d]
SecondPath = Callable[[str, Sequence[int], "Sequence[int] | None", bool], Tensor]


@dataclass(frozen=True)
class Trace:
    """Features, queries, keys and values of one pass. In shapes, B is images, M patches, H heads and W the width.

    Layers and heads are counted from 0, negative ones from the end.

    Attributes:
        image: image features, [B, d], not normalised, equal to those of `Backbone.encode_image`.
        patches: patch tokens of the ordinary path after the last LayerNorm and projection, [B, M, d].
        projected: queries, keys and values per layer, each [B, H, N, W/H]: the class token, the patches, any prompts.
            An attention pool has one query, [B, H, 1, W/H].
        second_path: computes `patch_features` for valid arguments.
        first: position of the first patch; 0 without a class token.
    """

    image: Tensor
    patches: Tensor
    projected: tuple[tuple[Tensor, Tensor, Tensor], ...]
    second_path: SecondPath
    first: int = 1

    @property
    def num_layers(self) -> int:
        """Attention layers of the tower."""
        return len(self.projected)

    @property
    def num_heads(self) -> int:
        """Attention heads per layer."""
        return int(self.projected[0][0].shape[1])

    def class_attention(
        self,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        over: AttentionOver = "patches",
    ) -> Tensor:
        """Return the class token's attention over the patches, averaged over heads and layers: [B, M], sum 1.

        Args:
            layers: layers; None for all.
            heads: heads of each layer; None for all.
            over: see `attention.class_attention_row`.

        Raises:
            UserError: a layer or head that the tower does not have.
        """
        layers, heads = self._layers(layers), self._heads(heads)
        total = self.image.new_zeros(())
        for i in layers:
            q, k, _ = self.projected[i]
            scores = class_scores(q, k)[:, heads, : self._tokens]  # [B, heads, first + M], without prompts
            total = total + class_attention_row(scores, over, self.first)  # [B, M]
        return total / len(layers)

    def rollout(self, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> Tensor:
        """Return the attention rollout from the class token to the patches: [B, M], sum 1.

        Learned prompts are left out of the softmax, since methods may replace them between layers.

        Args:
            layers: layers that are multiplied, in ascending order whatever their order here; None for all.
            heads: heads whose attention is averaged; None for all.

        Raises:
            UserError: a layer or head that the tower does not have.
        """
        layers, heads = sorted(set(self._layers(layers))), self._heads(heads)
        if self.projected[0][0].shape[2] == 1:  # the query of a pool, which is none of the tokens
            return self.class_attention(layers, heads, "tokens")
        matrices = []
        for i in layers:
            # [B, heads, 1 + M, W/H]
            q, k, _ = (part[:, heads, : self._tokens].float() for part in self.projected[i])
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # [B, heads, 1 + M, 1 + M]
            matrices.append(scores.softmax(dim=-1).mean(dim=1))  # [B, 1 + M, 1 + M]
        return rollout(matrices)

    def patch_features(
        self,
        structure: str,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        *,
        keep_mlp: bool = False,
    ) -> Tensor:
        """Return patch tokens of a second path in the joint space, [B, M, d], not normalised.

        The path starts with the tokens that enter the first of the layers. Each of the layers adds the output of an
        attention of another structure, computed from the queries, keys and values of the ordinary path; layers between
        them that are not listed add nothing. The last LayerNorm and projection follow.

        Args:
            structure: a name in `attention.STRUCTURES` or another combination; case and hyphens do not matter.
            layers: layers of the second path; None for the last half, as AlignCLIP.
            heads: heads that contribute, in each of the layers; None for all.
            keep_mlp: apply the MLPs of the layers too.

        Raises:
            UserError: an unknown structure; a layer or head that the tower does not have.
        """
        name = check_structure(structure)
        if layers is None:
            layers = range(self.num_layers - max(1, self.num_layers // 2), self.num_layers)
        chosen = sorted(set(self._layers(layers)))
        return self.second_path(name, chosen, None if heads is None else self._heads(heads), keep_mlp)

    @property
    def _tokens(self) -> int:
        return self.first + self.patches.shape[1]

    def _layers(self, layers: Sequence[int] | None) -> list[int]:
        found = check_indices("layers", range(self.num_layers) if layers is None else layers, self.num_layers)
        return list(found) or list(range(self.num_layers))

    def _heads(self, heads: Sequence[int] | None) -> list[int]:
        found = check_indices("heads", range(self.num_heads) if heads is None else heads, self.num_heads)
        return list(found) or list(range(self.num_heads))
