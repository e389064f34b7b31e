"""A Hugging Face folder of the text tower alone, for text-to-image pipelines.

`CLIPTextModel.from_pretrained(FOLDER)` and `CLIPTextModelWithProjection.from_pretrained(FOLDER)` load the same
files: the projection is in them, and the first class leaves it aside. A tower whose positions were stretched keeps
its length, and the tokenizer cuts there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...backbone import Backbone
from ...backbone.positions import CLIP_LENGTH
from ...methods import Method
from .model import Exported, Features, Probe
from .to_hf import check_text, fill, hf_state, text_config, transformers_or_raise, write_tokenizer

LIBRARY = "transformers"
CARD = "README.md"


def write(model: Exported, folder: Path) -> None:
    """Write the text tower with its projection, and the tokenizer.

    Raises:
        UserError: transformers is not installed, or has no class for this tower.
    """
    hf = transformers_or_raise()
    backbone = model.backbone
    text = check_text(backbone)
    target = hf.CLIPTextModelWithProjection(hf.CLIPTextConfig(**text_config(text, backbone.embed_dim))).eval()
    tensors = backbone.model.state_dict()
    fill(target, hf_state({name: tensor for name, tensor in tensors.items() if _of_text(name)}))
    target.save_pretrained(folder)
    write_tokenizer(backbone.tokenizer, backbone.context_length, folder)
    # Loaded and saved once, so that every version of transformers finds the files that it looks for.
    hf.CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)


def _of_text(name: str) -> bool:
    return not name.startswith("visual.") and name != "logit_scale"


@torch.no_grad()
def ask(backbone: Backbone, probe: Probe) -> Features:
    """Features and hidden states of the model that is exported."""
    tokens = backbone.tokenize(probe.texts).ids
    blocks: list[Tensor] = []

    def keep(tower: str, block: int, x: Tensor) -> None:
        if tower == "text":
            blocks.append(x)

    with backbone.hooks(tap=keep):
        features, last = backbone.text_states(tokens)
    inside = _inside(backbone.text_lengths(tokens), last.shape[1])
    return Features.of(None, features, torch.stack([*blocks, last])[:, inside])


@torch.no_grad()
def read(folder: Path, probe: Probe) -> Features:
    """The same as transformers computes it from the folder, texts through its own tokenizer.

    Both classes are loaded: hidden states are those of `CLIPTextModel`, features of the other.
    """
    hf = transformers_or_raise()
    tokenizer = hf.CLIPTokenizer.from_pretrained(folder)
    # Padded to the whole window, as pipelines do.
    tokens = tokenizer(list(probe.texts), padding="max_length", truncation=True, return_tensors="pt")
    ids = tokens["input_ids"]
    plain = hf.CLIPTextModel.from_pretrained(folder).eval()(ids, output_hidden_states=True)
    features = hf.CLIPTextModelWithProjection.from_pretrained(folder).eval()(ids).text_embeds
    inside = _inside(tokens["attention_mask"].sum(dim=1), ids.shape[1])
    states = torch.stack([*plain.hidden_states[1:], plain.last_hidden_state])
    return Features.of(None, features, states[:, inside])


def _inside(lengths: Tensor, window: int) -> Tensor:
    """[T, window] bool: start token, words and end token; what stands behind is padding of either library."""
    return torch.arange(window) < lengths.cpu().unsqueeze(1)


def note(method: Method) -> str:
    """What the folder does not hold."""
    dropped = _dropped(method)
    return f"the text tower alone: no image tower, no classifier{dropped and f', {dropped}'}"


def _dropped(method: Method) -> str:
    if type(method).caption_masks is not Method.caption_masks:
        return "and no mask network, which is for training: texts are encoded without it"
    return "and none of the method's own tensors" if len(method.extra) else ""


def write_card(method: Method, folder: Path) -> None:
    """Say in README.md what was written, below the card of the run where there is one."""
    card = folder / CARD
    above = card.read_text(encoding="utf-8").rstrip() + "\n\n" if card.is_file() else ""
    window = method.backbone.context_length
    lines = [
        "## The text tower alone",
        "",
        f"This folder holds the text tower of {method.backbone.spec} after {method.name}, with its projection and "
        f"tokenizer, as `CLIPTextModel` and `CLIPTextModelWithProjection` of transformers load it. It reads {window} "
        "tokens; longer texts are cut by the tokenizer.",
    ]
    if type(method).caption_masks is not Method.caption_masks:
        lines += [
            "",
            "The mask network is dropped: it chooses dimensions in training alone, and at inference texts are encoded "
            "as by any CLIP text tower.",
        ]
    if window != CLIP_LENGTH:
        lines += [
            "",
            f"Pipelines that ask their tokenizer for its length pass {window} tokens on; ones that cut at "
            f"{CLIP_LENGTH} have to be told.",
        ]
    card.write_text(above + "\n".join(lines) + "\n", encoding="utf-8")


def usage(folder: Path) -> str:
    """How to load it."""
    return (
        "from transformers import CLIPTextModel, CLIPTokenizer  # or CLIPTextModelWithProjection\n"
        f'text_encoder = CLIPTextModel.from_pretrained("{folder}")\n'
        f'tokenizer = CLIPTokenizer.from_pretrained("{folder}")'
    )
