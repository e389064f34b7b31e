"""Random transformations of training views, by the name that `--augment` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms import functional as TF

from ..core.types import Augment


@dataclass(frozen=True)
class Augmentation:
    """A crop of random area, mirrored with probability 0.5, and optional changes of colour.

    Attributes:
        area: smallest and largest share of the image that a crop keeps.
        jitter: brightness, contrast and saturation are scaled by factors in [1 - jitter, 1 + jitter], and the hue is
            shifted by up to +-jitter turns, in random order.
        greyscale: probability of dropping the colours.
    """

    area: tuple[float, float]
    jitter: float = 0.0
    greyscale: float = 0.0

    def change_colours(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply jitter and greyscale; draws nothing from `rng` if there are none."""
        if self.jitter:
            low, high = 1 - self.jitter, 1 + self.jitter
            brightness, contrast, saturation = rng.uniform(low, high, 3).tolist()
            hue = float(rng.uniform(-self.jitter, self.jitter))
            for change in rng.permutation(4).tolist():
                if change == 0:
                    image = TF.adjust_brightness(image, brightness)
                elif change == 1:
                    image = TF.adjust_contrast(image, contrast)
                elif change == 2:
                    image = TF.adjust_saturation(image, saturation)
                else:
                    image = TF.adjust_hue(image, hue)
        if self.greyscale and rng.random() < self.greyscale:
            image = ImageOps.grayscale(image).convert("RGB")
        return image


# None: no augmentation.
AUGMENTATIONS: Mapping[Augment, Augmentation | None] = {
    "clip-crop": Augmentation((0.7, 1.0)),  # CLIPood, AlignCLIP
    "coop": Augmentation((0.08, 1.0)),  # CoOp's trainer: CoCoOp, MaPLe, PromptSRC, CLIP-Adapter
    "tip-adapter": Augmentation((0.5, 1.0)),
    "domainbed": Augmentation((0.7, 1.0), jitter=0.3, greyscale=0.1),  # ERM, CORAL, MIRO, SWAD
    "none": None,  # DPL, Long-CLIP, SmartCLIP
}
