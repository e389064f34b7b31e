"""Families of image towers, and what each offers to methods beyond image and text features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["vit", "timm-vit", "pooled-vit", "resnet", "other"]
Capability = Literal["image tokens", "image prompts", "image layers", "text prompts", "text positions"]

CAPABILITIES: Mapping[Capability, str] = {
    "image tokens": "patch tokens, attention over patches and a guide from one pass (`Backbone.dense`)",
    "image prompts": "learned vectors among the image tokens (`Backbone.hooks(vision=..., vision_input=...)`)",
    "image layers": "outputs of the image tower's blocks (`Backbone.hooks(tap=...)`)",
    "text prompts": "learned vectors among the text tokens, and token states, of a causal text tower",
    "text positions": "a text window that can be stretched (`stretch_positions`)",
}


@dataclass(frozen=True)
class Family:
    """A kind of image tower.

    Attributes:
        name: as messages and tables call it.
        examples: architectures of open_clip.
        capabilities: what towers of this kind can offer; a tower with unusual parts may lack some.
    """

    name: str
    examples: str
    capabilities: frozenset[Capability]


FAMILIES: Mapping[Kind, Family] = {
    "vit": Family(
        "ViT with a class token",
        "ViT-B-16, SLIP-ViT-B-16, roberta-ViT-B-32",
        frozenset({"image tokens", "image prompts", "image layers"}),
    ),
    "timm-vit": Family(
        "timm ViT with a class token",
        "MobileCLIP-B, EVA01-g-14, EVA02-B-16 (rotary positions: no prompts)",
        frozenset({"image tokens", "image prompts", "image layers"}),
    ),
    "pooled-vit": Family(
        "ViT with attention pooling",
        "ViT-B-16-SigLIP, PE-Core-B-16, coca_ViT-B-32",
        frozenset({"image tokens", "image layers"}),
    ),
    "resnet": Family(
        "ResNet with attention pooling", "RN50, RN50x4", frozenset({"image tokens", "image layers"})
    ),
    "other": Family(
        "tower that pools by averaging",
        "convnext_base, ViTamin-B, MobileCLIP-S1, ViT-L-14-CLIPA",
        frozenset({"image layers"}),
    ),
}

# Capabilities of text towers depend on the architecture of the text, not on the kind of image tower.
TEXT_TOWERS: Mapping[Capability, str] = {
    "text prompts": "causal text towers that read their end token, such as those of ViT-B-16, EVA02-B-16 and RN50",
    "text positions": "open_clip's own text towers, except those that append a class token (CoCa)",
}


def towers_with(capability: Capability) -> str:
    """Return the towers that offer a capability, as a clause of a message.

    Example:
        >>> towers_with("image prompts")
        'ViT with a class token (ViT-B-16, ...), timm ViT with a class token (MobileCLIP-B, ...)'
    """
    if capability in TEXT_TOWERS:
        return TEXT_TOWERS[capability]
    return ", ".join(
        f"{family.name} ({family.examples.partition(',')[0]}, ...)"
        for family in FAMILIES.values()
        if capability in family.capabilities
    )


def missing(needs: Iterable[Capability], offered: Iterable[Capability]) -> list[Capability]:
    """Return the capabilities that are needed and not offered, in the order of `needs`."""
    return [need for need in needs if need not in set(offered)]
