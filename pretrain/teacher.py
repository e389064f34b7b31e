"""A small convolutional network that learns to recognise drawings, and then teaches the vision transformer.

A transformer without pre-training needs many more images than a convolutional network to learn what a drawing shows.
The network here learns in minutes, on the same scenes; its dense predictions are a target for every patch token of the
transformer (`python -m pretrain --teacher FILE`), which speeds up the transformer's training. It is not shipped.

Train it with `python -m pretrain.teacher --art art/pretraining --out art/teacher-run`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipalign.core.checkpoint import load_state, save_state, save_weights

from .atlas import Atlas
from .batches import Batch, Batches
from .checks import kept_out_singles
from .config import PretrainConfig
from .log import write_row

WIDTHS = (32, 64, 192)
MEAN, SPREAD = 0.5, 0.28  # of pixel values
SMALLEST_REGION = 0.5  # patches


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.shortcut(x) + self.bn2(self.conv2(hidden)))


class Teacher(nn.Module):
    """Residual network with a feature for each 8 x 8 patch and a linear classifier of concepts.

    Args:
        concepts: Number of concepts.
    """

    def __init__(self, concepts: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.trunk = nn.Sequential(
            nn.Conv2d(3, first, 4, 4),
            ResidualBlock(first, second),
            ResidualBlock(second, second),
            ResidualBlock(second, third, 2),
            ResidualBlock(third, third),
            ResidualBlock(third, third),
        )
        self.head = nn.Linear(third, concepts)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, M, third] of the patches of images [B, 3, S, S] in [0, 1]."""
        pixels = ((images - MEAN) / SPREAD).contiguous(memory_format=torch.channels_last)
        return self.trunk(pixels).flatten(2).transpose(1, 2).float()  # [B, M, third]


def load_teacher(path: Path) -> Teacher:
    """Return a trained teacher in evaluation mode, without gradients."""
    weights = load_file(path)
    teacher = Teacher(len(weights["head.weight"]))
    teacher.load_state_dict(weights)
    return teacher.eval().requires_grad_(False)


def teacher_loss(teacher: Teacher, batch: Batch, bf16: bool) -> Tensor:
    """Return the cross-entropy of concepts over regions, each pooled over its visible patches."""
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bf16):
        patches = teacher(batch.images)  # [B, M, C]
    used = (batch.region_mask.sum(1) > SMALLEST_REGION) & (batch.region_concept >= 0)
    mask = batch.region_mask[used]  # [R, M]
    pooled = torch.einsum(
        "rm,rmc->rc", mask / mask.sum(1, keepdim=True), patches[batch.region_image[used]]
    )  # [R, C]
    return F.cross_entropy(teacher.head(pooled), batch.region_concept[used], label_smoothing=0.1)


@torch.no_grad()
def kept_out_accuracy(teacher: Teacher, atlas: Atlas) -> float:
    """Return the accuracy on single kept-out drawings, pooled over each drawing."""
    teacher.eval()
    right = []
    for images, masks, truth in kept_out_singles(atlas):
        pooled = torch.einsum("bm,bmc->bc", masks, teacher(images))  # [B, C]
        labels = torch.tensor([atlas.concept_index[key] for key in truth])
        right.append((teacher.head(pooled / masks.sum(1, keepdim=True)).argmax(1) == labels).float())
    teacher.train()
    return float(torch.cat(right).mean())


def _no_tokens(texts: list[str]) -> Tensor:
    """Stand in for a tokenizer: the teacher reads no captions."""
    return torch.ones(len(texts), 1, dtype=torch.long)


def main(config: PretrainConfig) -> None:
    """Train the teacher for `--steps` with a cosine learning rate, resuming a run in `--out`."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    atlas = Atlas.load(config.art)
    teacher = Teacher(len(atlas.concepts))
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps, pct_start=0.1)
    state_file, first = config.out / "teacher-state.safetensors", 0
    if state_file.exists():
        state = load_state(state_file)
        teacher.load_state_dict(state["teacher"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    batches = Batches(atlas, config, _no_tokens)
    loader = DataLoader(
        batches, batch_size=None, sampler=range(first, config.steps), num_workers=config.workers
    )
    started = saved = time.monotonic()
    losses: list[float] = []
    for done, batch in enumerate(loader, start=first + 1):
        loss = teacher_loss(teacher, batch, config.bf16)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        last = done == config.steps
        if done % 50 == 0 or last:
            row = {
                "step": done,
                "loss": round(sum(losses) / len(losses), 4),
                "seconds": round(time.monotonic() - started),
            }
            if done % 200 == 0 or last:
                row["kept_out_top1"] = kept_out_accuracy(teacher, atlas)
            losses = []
            write_row(config.out, row)
        if last or time.monotonic() - saved > config.save_every:
            saved = time.monotonic()
            save_weights(
                config.out / "teacher.safetensors",
                {k: v.contiguous() for k, v in teacher.state_dict().items()},
            )
            save_state(
                state_file,
                {
                    "teacher": teacher.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": done,
                },
            )


if __name__ == "__main__":
    main(tyro.cli(PretrainConfig))
