"""Class names and templates to prompts, and prompts to one text feature per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.config import NameRule
from ...core.errors import UserError
from ..fingerprint import text_fingerprint
from .tokens import Tokens

if TYPE_CHECKING:
    from ..model import Backbone

DEFAULT_TEMPLATES = ("a photo of a {}.",)
PLACEHOLDER = "{}"


def clean_class_names(names: Sequence[str], rule: NameRule = "paper") -> tuple[str, ...]:
    """Return class names as prompts contain them.

    Args:
        names: class names of the data set.
        rule: "paper": spaces for underscores and hyphens (AlignCLIP, appendix A.2); "plain": spaces for underscores
            only (code of CoOp, CLIPood and AlignCLIP).

    Raises:
        UserError: no names, an empty one, or two that prompts cannot tell apart (see `ambiguous_names`).

    Example:
        >>> clean_class_names(["red_apple", "t-shirt"]), clean_class_names(["red_apple", "t-shirt"], "plain")
        (('red apple', 't shirt'), ('red apple', 't-shirt'))
    """
    if not names:
        raise UserError("class names: none given")
    cleaned = tuple(prompt_name(name, rule) for name in names)
    for i, (name, text) in enumerate(zip(names, cleaned, strict=True)):
        if not text:
            raise UserError(f'class names: number {i} is empty ("{name}")')
    if groups := ambiguous_names(names):
        first, second = groups[0][:2]
        others = sum(len(group) - 1 for group in groups) - 1
        more = f" (and {others} more)" if others else ""
        raise UserError(
            f'class names: "{second}" and "{first}" are the same to the model{more}; rename or remove one'
        )
    return cleaned


def prompt_name(name: str, rule: NameRule = "paper") -> str:
    """Return a class name with single spaces for underscores, whitespace and, unless `rule` is "plain", hyphens."""
    name = name if rule == "plain" else name.replace("-", " ")
    return " ".join(name.replace("_", " ").split())


def ambiguous_names(names: Sequence[str]) -> list[list[str]]:
    """Return groups of class names with the same prompt: case, hyphens and underscores make no difference.

    Example:
        >>> ambiguous_names(["hot_dog", "cat", "Hot-Dog"])
        [['hot_dog', 'Hot-Dog']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(prompt_name(name).lower(), []).append(name)
    return [group for text, group in groups.items() if text and len(group) > 1]


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates as a tuple.

    Raises:
        UserError: no templates, or one without exactly one {}.
    """
    if isinstance(templates, str):
        templates = (templates,)
    if not templates:
        raise UserError('--template: none given; the usual one is "a photo of a {}."')
    for template in templates:
        if template.count(PLACEHOLDER) != 1:
            raise UserError(f'--template "{template}": needs exactly one {{}} for the class name')
    return tuple(templates)


def fill_templates(
    class_names: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES, rule: NameRule = "paper"
) -> list[list[str]]:
    """Return the prompts of each class, one per template; `rule` is that of `clean_class_names`.

    Raises:
        UserError: as `clean_class_names` and `check_templates`.

    Example:
        >>> fill_templates(["cat", "red_apple"], ["a {}.", "one {}."])
        [['a cat.', 'one cat.'], ['a red apple.', 'one red apple.']]
    """
    templates = check_templates(templates)
    return [
        [t.replace(PLACEHOLDER, name) for t in templates] for name in clean_class_names(class_names, rule)
    ]


@torch.no_grad()
def class_text_features(
    backbone: Backbone,
    class_names: Sequence[str],
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    batch_size: int = 256,
) -> Tensor:
    """Return one unit-norm feature per class, the weights T of every text classifier.

    The features of several templates are normalised, averaged, and normalised again, as in CLIP's zero-shot
    evaluation. If `backbone.text_cache` is a dict, features of a frozen text tower are cached in it.

    Args:
        backbone: encodes the prompts; its `names` says whether hyphens in names become spaces.
        class_names: C names.
        templates: K templates with {} for the name.
        batch_size: prompts per forward pass.

    Returns:
        [C, d] float32 on the backbone's device, unit norm, without gradient.

    Raises:
        UserError: duplicate or empty class names, or a template without {}.
    """
    by_class = fill_templates(class_names, templates, backbone.names)
    cache, fingerprint = backbone.text_cache, None
    if cache is not None:
        fingerprint = text_fingerprint(backbone)
    key = (fingerprint, tuple(map(tuple, by_class)), batch_size)
    if cache is not None and fingerprint is not None and key in cache:
        return cache[key].clone()  # a copy, which the caller may change
    features = text_features(backbone, [text for texts in by_class for text in texts], batch_size)  # [CK, d]
    features = features.unflatten(0, (len(by_class), -1)).mean(dim=1)  # [C, K, d] -> [C, d]
    features = F.normalize(features, dim=-1)
    if cache is not None and fingerprint is not None:
        cache[key] = features.clone()
    return features


@torch.no_grad()
def text_features(backbone: Backbone, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """Return one unit-norm feature per text.

    Args:
        backbone: encodes the texts.
        texts: N texts of any length; a warning reports how many are truncated.
        batch_size: texts per forward pass.

    Returns:
        [N, d] float32 on the backbone's device, unit norm, without gradient.
    """
    tokens = backbone.tokenize(texts)
    tokens.warn_if_truncated()
    features = torch.empty(len(tokens.lengths), backbone.embed_dim, device=backbone.device)
    with torch.autocast(backbone.device.type, enabled=False):
        for rows in length_batches(tokens, batch_size):
            encoded = backbone.encode_text(tokens.ids[rows]).float()  # [batch, d]
            features[rows.to(features.device)] = F.normalize(encoded, dim=-1)
    return features


def length_batches(tokens: Tokens, batch_size: int) -> tuple[Tensor, ...]:
    """Return the indices of all texts in batches of similar length, so that little padding is encoded.

    Returns:
        Index tensors [batch_size] int64, the last one possibly shorter.
    """
    return torch.tensor(tokens.lengths).argsort(stable=True).split(batch_size)
