"""A tiny member of every family of open_clip architectures, as folders that `load` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from clipalign.backbone import load

TEXT_WORDS = (
    "a an the photo of cat dog red blue green yellow square grey kite snow old boat rust tea it is number"
)
WORDS = TEXT_WORDS.split(" ") + [str(n) for n in range(100)] + [".", ","]

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}


def tower(name: str, build: Callable[..., nn.Module], **settings: Any) -> str:
    """Register an image tower with timm, and return its name."""

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        options = {k: v for k, v in options.items() if k in ("num_classes", "global_pool")}
        model: Any = build(**{**options, **settings})
        model.default_cfg = model.pretrained_cfg = {}
        return model

    create.__name__, create.__module__ = f"clipalign_tiny_{name}", __name__
    globals()[create.__name__] = create  # timm looks it up in its module
    register_model(create)
    return create.__name__


rope = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
VISION: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
    "eva01": {"timm_model_name": tower("eva01", Eva, **VIT, qkv_bias=True), "timm_pool": "token"},
    "eva02": {
        "timm_model_name": tower("eva02", Eva, **VIT, **rope, qkv_fused=False, swiglu_mlp=True, scale_mlp=True,
                                 scale_attn_inner=True),
        "timm_pool": "token",
    },
    "eva02-e": {"timm_model_name": tower("eva02_e", Eva, **VIT, use_post_norm=True), "timm_pool": "token"},
    "mobileclip": {
        "timm_model_name": tower("mobileclip", VisionTransformer, **VIT, init_values=0.5, qk_norm=True),
        "timm_pool": "token",
    },
    "siglip": {
        "timm_model_name": tower("siglip", VisionTransformer, **VIT, class_token=False, global_pool="map"),
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "pe": {
        "timm_model_name": tower("pe", Eva, **VIT, **rope, attn_type="rope", global_pool="map", init_values=0.1,
                                 use_pre_transformer_norm=True),
        "timm_pool": "map",
    },
    "pe-bigg": {
        "timm_model_name": tower("pe_bigg", Eva, **VIT, **rope, attn_type="rope", global_pool="map",
                                 class_token=False),
        "timm_pool": "map",
    },
    "convnext": {
        "timm_model_name": tower("convnext", ConvNeXt, depths=(1, 1, 1, 1), dims=(8, 8, 16, 32)),
        "timm_pool": "",
    },
    "mobileclip-s": {
        "timm_model_name": tower("fastvit", FastVit, layers=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32),
                                 token_mixers=("repmixer",) * 4),
        "timm_pool": "avg",
    },
    "vitamin": {
        "timm_model_name": tower("vitamin", VisionTransformer, **VIT, class_token=False, global_pool="avg"),
        "timm_pool": "avg",
    },
}  # fmt: skip
VISION["clipa"] = {**VISION["vit"], "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
VISION["coca"] = {**VISION["vit"], "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5,
                  "output_tokens": True}  # fmt: skip
VISION["hf-text"] = VISION["vit"]
VISION["resnet"] = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8}

CAUSAL = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1}
SIGLIP = {
    "context_length": 16,
    "vocab_size": len(WORDS) + 2,
    "width": 24,
    "heads": 2,
    "layers": 1,
    "hf_tokenizer_name": "local",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}
TEXT: Mapping[str, dict[str, Any]] = {
    "siglip": SIGLIP,
    "clipa": {k: v for k, v in SIGLIP.items() if k not in ("proj_bias", "norm_kwargs", "tokenizer_kwargs")},
    "mobileclip-s": {**CAUSAL, "no_causal_mask": True},
    "coca": {**CAUSAL, "context_length": 20, "embed_cls": True, "output_tokens": True},
    "pe": {**CAUSAL, "context_length": 32},
    "hf-text": {
        "hf_tokenizer_name": "local",
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": 20,
    },
}
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
KINDS = {
    "vit": "vit",
    "hf-text": "vit",
    "eva01": "timm-vit",
    "eva02": "timm-vit",
    "eva02-e": "timm-vit",
    "mobileclip": "timm-vit",
    "siglip": "pooled-vit",
    "pe": "pooled-vit",
    "pe-bigg": "pooled-vit",
    "coca": "pooled-vit",
    "resnet": "resnet",
    "convnext": "other",
    "mobileclip-s": "other",
    "vitamin": "other",
    "clipa": "other",
}


def write_family(name: str, folder: Path) -> str:
    """Write a tiny member of a family with noise in every parameter; return its `--backbone local-dir:...`."""
    folder.mkdir()
    text = dict(TEXT.get(name, CAUSAL))
    vision = {"image_size": 32, "timm_proj": "linear", **VISION[name]}
    if "timm_model_name" not in vision:
        del vision["timm_proj"]
    if name == "hf-text":
        text["hf_model_name"] = str(write_text_config(folder / "roberta"))
    if "hf_tokenizer_name" in text:
        write_tokenizer(folder)
    # SigLIP's towers have no projection, so the joint space is as wide as the image tower.
    config: dict[str, Any] = {
        "embed_dim": 32 if name == "siglip" else 24,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    if name not in ("vit", "clipa", "resnet", "convnext"):
        config["custom_text"] = True
    if name == "siglip":
        config["init_logit_bias"] = -10
    if name == "coca":
        decoder = {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1}
        config["multimodal_cfg"] = {**decoder, "attn_pooler_heads": 2}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS})
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = load(f"local-dir:{folder}", pretrained=False).model
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    state = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def write_text_config(folder: Path) -> Path:
    """Write the configuration of a tiny RoBERTa."""
    from transformers import RobertaConfig

    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    RobertaConfig(
        vocab_size=len(WORDS) + 2, max_position_embeddings=40, pad_token_id=1, **size
    ).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of transformers whose padding is its end token, as in SigLIP's first version."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(["<unk>", "</s>", *WORDS])}, "<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>", sep_token="</s>"
    ).save_pretrained(folder)
