"""Class prompts as token embeddings, with learned vectors among the words.

A prompt is: start token, m learned vectors, words that all prompts share, class name, full stop, end token. The learned
vectors may also follow the name, or surround it. Prompts are encoded after their common prefix (see
`Backbone.encode_with_prefix`) and in groups of equal length without padding; both are exact.

In shapes, G is sets of learned vectors (one per image or domain), C classes, W the token width and d the embedding
dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...core.errors import UserError
from .features import clean_class_names

if TYPE_CHECKING:
    from ..model import Backbone

Position = Literal["end", "middle", "front"]

PADDING = 1.25  # prompts of several lengths run together while padding costs less than this factor


class ClassPrompts:
    """The prompts of a list of classes, complete except for the learned vectors.

    Args:
        backbone: embeds the names.
        class_names: C names; `backbone.names` says whether hyphens become spaces.
        learned: m, the number of learned vectors per prompt.
        position: of the class name: after the learned vectors ("end"), before them ("front"), or after the first half
            of them ("middle").
        words: embedded words between learned vectors and name, [r, W]; only with position "end".

    Raises:
        UserError: a prompt exceeds the context length, or `clean_class_names` refuses the names.
    """

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        learned: int,
        position: Position = "end",
        words: Tensor | None = None,
    ) -> None:
        self.backbone, self.learned, self.position = backbone, learned, position
        names = clean_class_names(class_names, backbone.names)
        tokens = backbone.tokenize([f"{name}." for name in names])
        longest = tokens.longest + learned + (0 if words is None else len(words))
        if longest > backbone.context_length:
            name = names[tokens.lengths.index(tokens.longest)]
            raise UserError(
                f'--context-tokens {learned}: the prompt of "{name}" would have {longest} tokens, '
                f"but the context length of this backbone is {backbone.context_length}; use fewer"
            )
        with torch.no_grad():
            embeddings, ends = backbone.embed_tokens(tokens.ids)  # [C, 1 + n, W], [C]
        self.start = embeddings[:1, :1]  # [1, 1, W]
        self.rest, self.ends = embeddings[:, 1:], ends - 1  # [C, n, W]: name, full stop, end token, padding
        self.words = embeddings.new_empty(1, 0, embeddings.shape[-1]) if words is None else words.unsqueeze(0)
        if position != "end":
            # As in CoOp's code, the length of a name is that without the full stop after it.
            lengths = torch.tensor(backbone.tokenize(names).lengths, device=embeddings.device) - 2
            lengths = torch.minimum(lengths, self.ends)
            self.order = prompt_order(lengths, self.rest.shape[1], learned, position)  # [C, n + m]
            self.ends = self.ends + learned
        self.groups = group_by_length((self.ends + 1).tolist(), embeddings.device)

    def encode(self, context: Tensor, at_once: int | None = None) -> Tensor:
        """Return unit-norm features of prompts whose learned vectors precede the name and are shared by all classes.

        Args:
            context: one set of learned vectors per group, [G, m, W].
            at_once: number of prompts that run together, which bounds the memory of forward and backward pass; None
                for all.

        Returns:
            [G, C, d] float32.
        """
        groups = len(context)
        prefix = torch.cat(
            [self.start.expand(groups, -1, -1), context, self.words.expand(groups, -1, -1)], dim=1
        )  # [G, 1 + m + r, W]
        return self._encode(prefix, self.rest, at_once)

    def encode_classes(self, context: Tensor) -> Tensor:
        """Return unit-norm features of prompts whose learned vectors are at `position`.

        Args:
            context: learned vectors, [m, W] for all classes, or [C, m, W].

        Returns:
            [C, d] float32.
        """
        vectors = context.expand(len(self.rest), -1, -1)  # [C, m, W]
        if self.position == "end":
            words = self.words.expand(len(vectors), -1, -1)  # [C, r, W]
            rest = torch.cat([vectors, words, self.rest], dim=1)  # [C, m + r + n, W]
            return self._encode(self.start, rest, None, self.learned + self.words.shape[1])[0]
        parts = torch.cat([self.rest, vectors], dim=1)  # [C, n + m, W]
        rest = parts.gather(1, self.order.unsqueeze(-1).expand(-1, -1, parts.shape[-1]))  # [C, n + m, W]
        return self._encode(self.start, rest, None)[0]

    def _encode(self, prefix: Tensor, rest: Tensor, at_once: int | None, shift: int = 0) -> Tensor:
        """Return [G, C, d] for prefixes [G, P, W] and continuations [C, S, W], whose ends are `shift` further on."""

        def run(prefix: Tensor) -> Tensor:
            features = []
            for rows, length in self.groups:
                for some in rows.split(at_once or len(rows)):
                    ends = self.ends[some] + shift
                    features.append(
                        self.backbone.encode_with_prefix(prefix, rest[some, : length + shift], ends)
                    )
            by_group = torch.cat(features, dim=1)  # [G, C, d], classes in the order of the groups
            if len(self.groups) > 1:
                by_group = by_group[:, torch.cat([rows for rows, _ in self.groups]).argsort()]
            return F.normalize(by_group.float(), dim=-1)

        share = len(prefix) if at_once is None else max(1, at_once // len(rest))  # prefixes that run together
        if share >= len(prefix):
            return run(prefix)
        # Recompute activations in the backward pass; else those of all parts would be in memory together.
        recompute = torch.is_grad_enabled() and prefix.requires_grad
        parts = [
            checkpoint(run, part, use_reentrant=False) if recompute else run(part)
            for part in prefix.split(share)
        ]
        return torch.cat(parts)


def prompt_order(lengths: Tensor, tokens: int, learned: int, position: Position) -> Tensor:
    """Return the order in which [tokens of the class, learned vectors] form each prompt after its start token.

    Args:
        lengths: number of tokens of each name, [C].
        tokens: n, tokens of the class: name, full stop, end token and padding.
        learned: m, number of learned vectors.
        position: of the class name.

    Returns:
        [C, n + m] int64; class tokens are numbered from 0, learned vectors from n.

    Example:
        >>> prompt_order(torch.tensor([1, 2]), tokens=4, learned=2, position="middle")  # 4 and 5 are learned
        tensor([[4, 0, 5, 1, 2, 3],
                [4, 0, 1, 5, 2, 3]])
    """
    before = {"end": 0, "middle": learned // 2, "front": 0}[position]  # learned vectors before the name
    words, vectors = list(range(tokens)), list(range(tokens, tokens + learned))
    rows = []
    for length in lengths.tolist():
        length = 0 if position == "end" else length
        rows.append(vectors[:before] + words[:length] + vectors[before:] + words[length:])
    return torch.tensor(rows, device=lengths.device)


def group_by_length(lengths: Sequence[int], device: torch.device) -> list[tuple[Tensor, int]]:
    """Return indices of prompts to run together, and their length: all at once, unless that is mostly padding.

    Example:
        >>> group_by_length([3, 9, 3], torch.device("cpu"))
        [(tensor([0, 2]), 3), (tensor([1]), 9)]
    """
    if max(lengths) * len(lengths) <= PADDING * sum(lengths):
        return [(torch.arange(len(lengths), device=device), max(lengths))]
    return [
        (torch.tensor([i for i, n in enumerate(lengths) if n == length], device=device), length)
        for length in sorted(set(lengths))
    ]
