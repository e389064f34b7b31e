"""Class prompts as vectors: the embedded words of class names, and learned vectors among them.

A prompt is: start token, m learned vectors, words all prompts share, name, full stop, end token. The learned
vectors may also stand behind the name, or around it. Prompts are encoded behind what they have in common (see
`Backbone.encode_with_prefix`) and in groups of one length, so that no padding runs; both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...core.errors import UserError
from .features import clean_class_names

if TYPE_CHECKING:
    from .. import Backbone

Position = Literal["end", "middle", "front"]

STD = 0.02  # standard deviation of vectors drawn at random, in every published prompt learner
PADDING = 1.25  # run prompts of several lengths together while that costs less than this factor


class ClassPrompts:
    """The prompts of a class list, complete but for the learned vectors.

    Args:
        backbone: embeds the names.
        class_names: C names; underscores and hyphens count as blanks.
        learned: m, learned vectors per prompt.
        position: where the class name stands: behind the learned vectors ("end"), before them ("front"), or
            behind the first half of them ("middle").
        words: [r, W] embedded words between vectors and name; with position "end" only.

    Raises:
        UserError: a prompt is longer than the text window; or names that `clean_class_names` refuses.
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
        names = clean_class_names(class_names)
        tokens = backbone.tokenize([f"{name}." for name in names])
        longest = tokens.longest + learned + (0 if words is None else len(words))
        if longest > backbone.context_length:
            name = names[tokens.lengths.index(tokens.longest)]
            raise UserError(
                f'--context-tokens {learned}: the prompt of "{name}" would have {longest} tokens, '
                f"the text window of this backbone has {backbone.context_length}; take fewer"
            )
        with torch.no_grad():
            rows, ends = backbone.embed_tokens(tokens.ids)
        self.start = rows[:1, :1]
        self.rest, self.ends = rows[:, 1:], ends - 1
        self.words = rows.new_empty(1, 0, rows.shape[-1]) if words is None else words.unsqueeze(0)
        if position != "end":
            # As published, the name is as long as it is without the full stop behind it.
            alone = torch.tensor(backbone.tokenize(names).lengths, device=rows.device) - 2
            before = torch.minimum(alone, self.ends)
            self.order = arrangement(before, self.rest.shape[1], learned, position)
            self.ends = self.ends + learned
        self.groups = by_length((self.ends + 1).tolist(), rows.device)

    def encode(self, context: Tensor, at_once: int | None = None) -> Tensor:
        """Unit features of prompts whose vectors stand before the name and are the same for all classes.

        Args:
            context: [G, m, W] one set of vectors per group (an image, a domain).
            at_once: prompts that run together; memory does not grow beyond what they need, neither forward
                nor backward. Default: all.

        Returns:
            [G, C, d] float32.
        """
        groups = len(context)
        prefix = torch.cat(
            [self.start.expand(groups, -1, -1), context, self.words.expand(groups, -1, -1)], dim=1
        )
        return self._run(prefix, self.rest, at_once)

    def encode_classes(self, context: Tensor) -> Tensor:
        """Unit features of prompts whose vectors stand where `position` says.

        Args:
            context: [m, W] the same for all classes, or [C, m, W].

        Returns:
            [C, d] float32.
        """
        vectors = context.expand(len(self.rest), -1, -1)
        if self.position == "end":
            rest = torch.cat([vectors, self.words.expand(len(vectors), -1, -1), self.rest], dim=1)
            ends = self.learned + self.words.shape[1]
            return self._run(self.start, rest, None, ends)[0]
        pieces = torch.cat([self.rest, vectors], dim=1)
        rest = pieces.gather(1, self.order.unsqueeze(-1).expand(-1, -1, pieces.shape[-1]))
        return self._run(self.start, rest, None)[0]

    def _run(self, prefix: Tensor, rest: Tensor, at_once: int | None, shift: int = 0) -> Tensor:
        """[G, P, W] beginnings and [C, S, W] continuations, whose ends lie `shift` further, to [G, C, d]."""

        def run(part: Tensor) -> Tensor:
            features = []
            for rows, length in self.groups:
                for some in rows.split(at_once or len(rows)):
                    ends = self.ends[some] + shift
                    features.append(
                        self.backbone.encode_with_prefix(part, rest[some, : length + shift], ends)
                    )
            together = torch.cat(features, dim=1)
            if len(self.groups) > 1:
                together = together[:, torch.cat([rows for rows, _ in self.groups]).argsort()]
            return F.normalize(together.float(), dim=-1)

        share = len(prefix) if at_once is None else max(1, at_once // len(rest))
        if share >= len(prefix):
            return run(prefix)
        again = torch.is_grad_enabled() and prefix.requires_grad
        parts = [
            checkpoint(run, part, use_reentrant=False) if again else run(part) for part in prefix.split(share)
        ]
        return torch.cat(parts)


def arrangement(names: Tensor, tokens: int, learned: int, position: Position) -> Tensor:
    """Which rows of [tokens of the class, learned vectors] make up each prompt behind its start token.

    Args:
        names: [C] tokens of each name.
        tokens: n, rows of name, full stop, end token and padding.
        learned: m, learned vectors.
        position: of the class name.

    Returns:
        [C, n + m] int64; class tokens are numbered from 0, learned vectors from n.
    """
    before = {"end": 0, "middle": learned // 2, "front": 0}[position]
    words, vectors = list(range(tokens)), list(range(tokens, tokens + learned))
    rows = []
    for name in names.tolist():
        name = 0 if position == "end" else name
        rows.append(vectors[:before] + words[:name] + vectors[before:] + words[name:])
    return torch.tensor(rows, device=names.device)


def by_length(lengths: Sequence[int], device: torch.device) -> list[tuple[Tensor, int]]:
    """Rows to run together, with the length they run at: all of them, unless that is mostly padding."""
    if max(lengths) * len(lengths) <= PADDING * sum(lengths):
        return [(torch.arange(len(lengths), device=device), max(lengths))]
    return [
        (torch.tensor([i for i, n in enumerate(lengths) if n == length], device=device), length)
        for length in sorted(set(lengths))
    ]


def embed_phrase(backbone: Backbone, phrase: str) -> Tensor:
    """[n, W] token embeddings of a phrase, without start and end token."""
    tokens = backbone.tokenize([phrase])
    if tokens.num_truncated:
        raise UserError(
            f'--context-init "{phrase}": {tokens.longest} tokens, the text window of this backbone has '
            f"{backbone.context_length}"
        )
    with torch.no_grad():
        rows, ends = backbone.embed_tokens(tokens.ids)
    return rows[0, 1 : int(ends[0])].clone()


def initial_context(backbone: Backbone, phrase: str, count: int | None, default: int) -> Tensor:
    """[m, W] vectors to start from, as CoOp does it: the words of a phrase, or normal(0, 0.02) ones.

    Args:
        backbone: embeds the phrase.
        phrase: "" for random vectors.
        count: m; None for as many as the phrase has tokens, or `default` random ones.

    Raises:
        UserError: `count` is not the number of tokens of the phrase, or less than 1.
    """
    check_count(count)
    if not phrase:
        return random_vectors(backbone, count or default)
    words = embed_phrase(backbone, phrase)
    if count is not None and count != len(words):
        raise UserError(
            f'--context-tokens {count}: --context-init "{phrase}" has {len(words)} tokens; '
            'drop one of the two, or give --context-init "" for random vectors'
        )
    return words


def split_context(backbone: Backbone, phrase: str, count: int) -> tuple[Tensor, Tensor | None]:
    """[m, W] vectors to start from and [r, W] words behind them, as MaPLe and PromptSRC do it.

    The first m tokens of the phrase are learned, the others stay. A phrase with fewer than m tokens is not
    used: the vectors are normal(0, 0.02).
    """
    check_count(count)
    words = embed_phrase(backbone, phrase) if phrase else None
    if words is None or len(words) < count:
        return random_vectors(backbone, count), None
    return words[:count].clone(), words[count:] if len(words) > count else None


def check_count(count: int | None, option: str = "--context-tokens") -> None:
    """Raise UserError for less than one vector."""
    if count is not None and count < 1:
        raise UserError(f"{option} must be at least 1, not {count}")


def random_vectors(backbone: Backbone, count: int) -> Tensor:
    """[count, W] of normal(0, 0.02), W the width of the text tower."""
    return STD * torch.randn(count, backbone.text_shape[1], device=backbone.device)


def scaled_depth(option: str, depth: int | None, blocks: int) -> int:
    """Blocks that get prompts: the published 9 of 12 as a share of the tower's, or as told.

    Raises:
        UserError: not between 1 and `blocks`.
    """
    if depth is None:
        return max(1, round(blocks * 9 / 12))
    if not 1 <= depth <= blocks:
        raise UserError(f"{option} {depth}: this backbone allows 1 to {blocks}")
    return depth


def overwrite(tokens: Tensor, vectors: Tensor, at: int) -> Tensor:
    """Tokens [B, N, W] with rows at, at + 1, ... (negative: counted from the end) replaced by [m, W]."""
    at = at % tokens.shape[1]
    new = vectors.to(tokens.dtype).expand(len(tokens), -1, -1)
    return torch.cat([tokens[:, :at], new, tokens[:, at + len(vectors) :]], dim=1)


def append(tokens: Tensor, vectors: Tensor) -> Tensor:
    """Tokens [B, N, W] with [m, W] behind them."""
    return torch.cat([tokens, vectors.to(tokens.dtype).expand(len(tokens), -1, -1)], dim=1)


def deep_hooks(text: Tensor | Sequence[Tensor], vision: Tensor | Sequence[Tensor]) -> dict[str, Any]:
    """Arguments of `Backbone.hooks` that put vectors into the input of each of the first blocks (ViT).

    Vision vectors are appended behind the patches before the first LayerNorm of the tower; before each
    later block the rows are overwritten, so that what earlier blocks made of them is lost. Text vectors of
    block 0 are part of the prompt; from block 1 on, the rows behind the start token are overwritten.

    Args:
        text: [m, W] per block, the first one unused.
        vision: [n, W] per block.
    """

    def text_hook(block: int, tokens: Tensor) -> Tensor:
        return overwrite(tokens, text[block], 1) if 1 <= block < len(text) else tokens

    def vision_hook(block: int, tokens: Tensor) -> Tensor:
        return overwrite(tokens, vision[block], -len(vision[block])) if 1 <= block < len(vision) else tokens

    def vision_input(tokens: Tensor) -> Tensor:
        return append(tokens, vision[0])

    return {"text": text_hook, "vision": vision_hook, "vision_input": vision_input}


def cosine_logits(scale: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """s times the cosines of unit features, in float32 outside autocast.

    Args:
        scale: s.
        image: [B, d].
        text: [C, d], or [B, C, d] where each image has prompts of its own.

    Returns:
        [B, C].
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text = image.float(), text.float()
        cosines = image @ text.T if text.dim() == 2 else (text @ image.unsqueeze(-1)).squeeze(-1)
        return scale.float() * cosines
