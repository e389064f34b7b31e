"""Class names and templates to prompts, and prompts to one text feature per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import UserError
from ..fingerprint import text_fingerprint
from .tokens import Tokens

if TYPE_CHECKING:
    from ..model import Backbone

DEFAULT_TEMPLATES = ("a photo of a {}.",)
PLACE = "{}"


def clean_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as prompts use them: underscores and hyphens become blanks.

    Raises:
        UserError: no names, an empty one, or two that differ in case alone, which CLIP's tokenizer ignores.
    """
    if not names:
        raise UserError("class names: none given")
    cleaned = tuple(map(prompt_name, names))
    for i, (name, text) in enumerate(zip(names, cleaned, strict=True)):
        if not text:
            raise UserError(f'class names: number {i} is empty ("{name}")')
    if same := ambiguous_names(names):
        first, second = same[0][:2]
        others = sum(len(group) - 1 for group in same) - 1
        more = f" (and {others} more)" if others else ""
        raise UserError(
            f'class names: "{second}" and "{first}" are the same to the model{more}; rename or remove one'
        )
    return cleaned


def prompt_name(name: str) -> str:
    """A class name with blanks for underscores and hyphens."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def ambiguous_names(names: Sequence[str]) -> list[list[str]]:
    """Groups of class names that are the same to the model: prompts ignore case, hyphens and underscores."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(prompt_name(name).lower(), []).append(name)
    return [group for text, group in groups.items() if text and len(group) > 1]


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Templates that have one place for the class name.

    Raises:
        UserError: no templates, or one without exactly one {}.
    """
    if isinstance(templates, str):
        templates = (templates,)
    if not templates:
        raise UserError('--template: none given; the usual one is "a photo of a {}."')
    for template in templates:
        if template.count(PLACE) != 1:
            raise UserError(f'--template "{template}": needs exactly one {{}} for the class name')
    return tuple(templates)


def fill_templates(
    class_names: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES
) -> list[list[str]]:
    """Every template with every class name: one list per class.

    Raises:
        UserError: as `clean_class_names` and `check_templates`.
    """
    templates = check_templates(templates)
    return [[t.replace(PLACE, name) for t in templates] for name in clean_class_names(class_names)]


@torch.no_grad()
def class_text_features(
    backbone: Backbone,
    class_names: Sequence[str],
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    batch_size: int = 256,
) -> Tensor:
    """One unit vector per class: T in every method with a text classifier.

    With several templates their features are normalised, averaged, and normalised again, as CLIP's own
    zero-shot evaluation does. Where `backbone.text_cache` is there, features of a text tower that is not trained are
    kept in it under the digest of its weights.

    Args:
        backbone: its text tower encodes the prompts.
        class_names: C names; underscores and hyphens count as blanks.
        templates: K templates with {} for the name.
        batch_size: prompts encoded at once.

    Returns:
        [C, d] float32 on the backbone's device, rows of length 1, without gradient.

    Raises:
        UserError: duplicate or empty class names, a template without {}.
    """
    by_class = fill_templates(class_names, templates)
    identity = None if backbone.text_cache is None else text_fingerprint(backbone)
    key = (identity, tuple(map(tuple, by_class)), batch_size)
    if identity is not None and backbone.text_cache is not None and key in backbone.text_cache:
        return backbone.text_cache[key].clone()
    features = text_features(backbone, [text for texts in by_class for text in texts], batch_size)
    features = F.normalize(features.unflatten(0, (len(by_class), -1)).mean(dim=1), dim=-1)
    if identity is not None and backbone.text_cache is not None:
        backbone.text_cache[key] = features.clone()
    return features


@torch.no_grad()
def text_features(backbone: Backbone, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """One unit vector per text.

    Args:
        backbone: its text tower encodes them.
        texts: N texts of any length; a warning says how many were cut.
        batch_size: texts encoded at once.

    Returns:
        [N, d] float32 on the backbone's device, rows of length 1, without gradient.
    """
    tokens = backbone.tokenize(texts)
    tokens.warn_if_truncated()
    features = torch.empty(len(tokens.lengths), backbone.embed_dim, device=backbone.device)
    with torch.autocast(backbone.device.type, enabled=False):
        for rows in length_batches(tokens, batch_size):
            encoded = backbone.encode_text(tokens.ids[rows]).float()
            features[rows.to(features.device)] = F.normalize(encoded, dim=-1)
    return features


def length_batches(tokens: Tokens, batch_size: int) -> tuple[Tensor, ...]:
    """Positions of all texts in batches of like length, so that each is cut to little more than it needs."""
    return torch.tensor(tokens.lengths).argsort(stable=True).split(batch_size)
