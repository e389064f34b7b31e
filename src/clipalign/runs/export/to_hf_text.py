"""A Hugging Face folder with only the text tower, for text-to-image pipelines.

`CLIPTextModel.from_pretrained(FOLDER)` and `CLIPTextModelWithProjection.from_pretrained(FOLDER)` load the same files;
the former ignores the projection. A text tower with stretched positions keeps its length, and the tokenizer truncates
to it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...backbone import Backbone
from ...backbone.positions import CLIP_LENGTH
from ...methods import Method
from .base import ExportedModel, ExportFormat, Features, Probe
from .to_hf import clip_text_tower, hf_state, import_transformers, load_into, text_config, write_tokenizer

CARD = "README.md"


class HuggingFaceText(ExportFormat):
    """CLIPTextModelWithProjection and tokenizer."""

    library = "transformers"
    summary = "only the text tower, as CLIPTextModel with tokenizer, for text-to-image pipelines (extra [hf])"
    text_only = True

    def write(self, model: ExportedModel, folder: Path) -> None:
        hf = import_transformers()
        backbone = model.backbone
        config = hf.CLIPTextConfig(**text_config(clip_text_tower(backbone), backbone.embed_dim))
        target = hf.CLIPTextModelWithProjection(config).eval()
        tensors = backbone.model.state_dict()
        load_into(target, hf_state({name: tensor for name, tensor in tensors.items() if _is_text(name)}))
        target.save_pretrained(folder)
        write_tokenizer(backbone.tokenizer, backbone.context_length, folder)
        # Loading and saving writes the files that each version of transformers looks for.
        hf.CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)

    @torch.no_grad()
    def features(self, backbone: Backbone, probe: Probe) -> Features:
        """Return text features and hidden states."""
        tokens = backbone.tokenize(probe.texts).ids
        blocks: list[Tensor] = []

        def keep(tower: str, block: int, x: Tensor) -> None:
            if tower == "text":
                blocks.append(x)

        with backbone.hooks(tap=keep):
            features, last = backbone.text_states(tokens)  # [T, d], [T, n, W]
        words = _word_positions(backbone.text_lengths(tokens), last.shape[1])  # [T, n]
        return Features.of(None, features, torch.stack([*blocks, last])[:, words])  # states [L + 1, words, W]

    @torch.no_grad()
    def read(self, folder: Path, probe: Probe) -> Features:
        """Return hidden states of `CLIPTextModel` and features of `CLIPTextModelWithProjection`."""
        hf = import_transformers()
        tokenizer = hf.CLIPTokenizer.from_pretrained(folder)
        # Pipelines pad to the whole window too.
        tokens = tokenizer(list(probe.texts), padding="max_length", truncation=True, return_tensors="pt")
        ids = tokens["input_ids"]  # [T, n]
        plain = hf.CLIPTextModel.from_pretrained(folder).eval()(ids, output_hidden_states=True)
        features = hf.CLIPTextModelWithProjection.from_pretrained(folder).eval()(ids).text_embeds  # [T, d]
        words = _word_positions(tokens["attention_mask"].sum(dim=1), ids.shape[1])  # [T, n]
        states = torch.stack([*plain.hidden_states[1:], plain.last_hidden_state])  # [L + 1, T, n, W]
        return Features.of(None, features, states[:, words])  # states [L + 1, words, W]

    def usage(self, folder: Path) -> str:
        return (
            "from transformers import CLIPTextModel, CLIPTokenizer  # or CLIPTextModelWithProjection\n"
            f'text_encoder = CLIPTextModel.from_pretrained("{folder}")\n'
            f'tokenizer = CLIPTokenizer.from_pretrained("{folder}")'
        )

    def notes(self, method: Method) -> list[str]:
        note = "text tower only: no image tower, no classifier"
        if _has_masks(method):
            note += ", and no mask network, which is used in training only"
        elif len(method.extra):
            note += ", and none of the method's own tensors"
        return [note]

    def write_card(self, method: Method, folder: Path) -> None:
        card = folder / CARD
        above = card.read_text(encoding="utf-8").rstrip() + "\n\n" if card.is_file() else ""
        window = method.backbone.context_length
        paragraphs = [
            "## Text tower only",
            f"This folder holds the text tower of {method.backbone.spec} after {method.name}, with its projection and "
            "tokenizer, for `CLIPTextModel` and `CLIPTextModelWithProjection` of transformers. It reads "
            f"{window} tokens; the tokenizer truncates longer texts.",
        ]
        if _has_masks(method):
            paragraphs.append(
                "The mask network is left out: it selects dimensions during training only, and inference encodes "
                "texts as any CLIP text tower does."
            )
        if window != CLIP_LENGTH:
            paragraphs.append(
                f"Pipelines that read the length from the tokenizer pass on {window} tokens; pipelines that truncate "
                f"at {CLIP_LENGTH} need their limit raised."
            )
        card.write_text(above + "\n\n".join(paragraphs) + "\n", encoding="utf-8")


def _is_text(name: str) -> bool:
    return not name.startswith("visual.") and name != "logit_scale"


def _has_masks(method: Method) -> bool:
    return type(method).caption_masks is not Method.caption_masks


def _word_positions(lengths: Tensor, window: int) -> Tensor:
    """Return a mask [T, window] of start token, words and end token; padding differs between the libraries."""
    return torch.arange(window) < lengths.cpu().unsqueeze(1)  # [T, window]
