"""Export of a fine-tuned model to the formats of other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.registry import Registry

if TYPE_CHECKING:
    from .base import ExportFormat

EXPORTS: Registry[type[ExportFormat]] = Registry(
    "export format",
    "clipalign.exports",
    {
        "open_clip": f"{__name__}.to_open_clip:OpenClip",
        "hf": f"{__name__}.to_hf:HuggingFace",
        "hf-text": f"{__name__}.to_hf_text:HuggingFaceText",
        "safetensors": f"{__name__}.to_safetensors:Safetensors",
        "onnx": f"{__name__}.to_onnx:Onnx",
    },
    flag="--to",
)
