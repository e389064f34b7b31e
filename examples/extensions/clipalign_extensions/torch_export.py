"""An export format: both towers as programs of torch.export, which run without clipalign and open_clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from clipalign.runs.export import EXPORTS
from clipalign.runs.export.base import ExportedModel, ExportFormat, Features, Probe


class Tower(nn.Module):
    """Encoder of images or texts as a module of its own."""

    def __init__(self, model: nn.Module, encode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, inputs: Tensor) -> Tensor:
        return self.encode(inputs)


@EXPORTS.register("torch-export")
class TorchExport(ExportFormat):
    """image.pt2 and text.pt2, with a free batch size."""

    library = "torch.export"
    summary = "image and text tower as programs of torch.export"

    def write(self, model: ExportedModel, folder: Path) -> None:
        clip = model.backbone.model.eval()
        images = torch.zeros(2, 3, *model.backbone.image_size)  # [2, 3, H, W]
        tokens = model.backbone.tokenize(["a", "a dog"]).ids  # [2, n]
        batch = torch.export.Dim("batch", min=1)
        for name, encode, example in (
            ("image", clip.encode_image, images),
            ("text", clip.encode_text, tokens),
        ):
            program = torch.export.export(Tower(clip, encode), (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, folder / f"{name}.pt2")

    @torch.no_grad()
    def read(self, folder: Path, probe: Probe) -> Features:
        image, text = (torch.export.load(folder / f"{name}.pt2").module() for name in ("image", "text"))
        tokens = open_clip.get_tokenizer("ViT-B-32")(list(probe.texts))  # [m, n]
        return Features.of(image(probe.images), text(tokens))

    def usage(self, folder: Path) -> str:
        return f'import torch\nencode_image = torch.export.load("{folder}/image.pt2").module()'
