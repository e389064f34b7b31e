"""From a name to a model: "pocket", "ViT-B-16:openai", "hf-hub:org/name", "ViT-B-16:/path/to/file"."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

import open_clip

from ..errors import UserError
from . import pocket
from .model import Backbone


def load(
    spec: str,
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
    *,
    pretrained: bool = True,
    seed: int = 0,
) -> Backbone:
    """Build a backbone, in float32, in evaluation mode.

    Args:
        spec: "pocket", or "pocket:random" for seeded random weights.
        device: where the weights go.
        cache_dir: folder of downloaded weights.
        pretrained: False gives random weights, as ":random" does.
        seed: of random weights.

    Raises:
        UserError: unknown name, missing weights.
    """
    name, _, source = spec.partition(":")
    if name != "pocket" or source not in ("", "random"):
        raise UserError(f'--backbone: unknown "{spec}"')
    pocket.register()
    random = source == "random" or not pretrained
    if not random and not pocket.WEIGHTS.is_file():
        raise UserError(f"the weights file of the pocket backbone is missing: {pocket.WEIGHTS}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(pocket.ARCHITECTURE, pretrained_text=False)
    if not random:
        model.load_state_dict({k: v.float() for k, v in load_file(pocket.WEIGHTS).items()})
    model.eval()
    return Backbone(model, open_clip.get_tokenizer(pocket.ARCHITECTURE), spec).to(device)
