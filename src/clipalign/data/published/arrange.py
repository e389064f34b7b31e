"""Archives whose layout differs from the one in use: ImageNet's nested tars, TerraIncognita's selection of images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ...core.errors import UserError
from ...core.reading import read_json

# DomainBed's selection from Caltech Camera Traps.
LOCATIONS = ("38", "46", "100", "43")
CATEGORIES = (
    *("bird", "bobcat", "cat", "coyote", "dog"),
    *("empty", "opossum", "rabbit", "raccoon", "squirrel"),
)
VALIDATION_CLASS = re.compile(r"(ILSVRC2012_val_\d{8})(?:\.JPEG)?\W+(n\d{8})")
Unpack = Callable[[Path, Path], None]


def arrange(name: str, folder: Path, others: Sequence[Path], unpack: Unpack) -> None:
    """Bring an unpacked archive of ImageNet or TerraIncognita into its usual layout; leave other sets unchanged.

    Args:
        name: of the set.
        folder: the unpacked files.
        others: files given to `prepare` that are not archives.
        unpack: writes the files of an archive below a folder.

    Raises:
        UserError: the file that assigns images to classes is missing or unreadable.
    """
    if name == "imagenet":
        arrange_imagenet(folder, others, unpack)
    elif name == "terra-incognita":
        arrange_terra(folder, others)


def arrange_imagenet(folder: Path, others: Sequence[Path], unpack: Unpack) -> None:
    """Sort ImageNet's images by WordNet id.

    ILSVRC2012_img_train.tar has one tar per class: to images/train/WNID. ILSVRC2012_img_val.tar has all images in one
    folder: to images/val/WNID, by a file with an image and a WordNet id per line, such as the usual `valprep.sh` or
    Kaggle's `LOC_val_solution.csv`.
    """
    for inner in sorted(folder.rglob("n????????.tar")):
        destination = folder / "images" / "train" / inner.stem
        destination.mkdir(parents=True)
        unpack(inner, destination)
        inner.unlink()
    unsorted = [
        path for path in folder.rglob("ILSVRC2012_val_*.JPEG") if not re.match(r"n\d{8}", path.parent.name)
    ]
    if not unsorted:
        return
    classes: dict[str, str] = {}
    for path in others:
        text = path.read_text(encoding="utf-8", errors="replace")
        classes |= dict(VALIDATION_CLASS.findall(text))
    for path in sorted(unsorted):
        if path.stem not in classes:
            raise UserError(
                f"--archive: the class of {path.name} is unknown; add valprep.sh or LOC_val_solution.csv"
            )
        move(path, folder / "images" / "val" / classes[path.stem] / path.name)


def arrange_terra(folder: Path, others: Sequence[Path]) -> None:
    """Sort Caltech Camera Traps into location_L/CATEGORY by its COCO annotations; delete the other images.

    The selection is that of DomainBed's download script.
    """
    if any(path.is_dir() for location in LOCATIONS for path in folder.rglob(f"location_{location}")):
        return
    annotations = next((path for path in others if path.suffix == ".json"), None)
    if annotations is None:
        raise UserError(
            "--archive: these images are not sorted by location; add the annotations "
            "(caltech_images_20210113.json of LILA BC)"
        )
    try:
        content = read_json(annotations)
        category = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        images = {
            entry["id"]: (str(entry["location"]), Path(str(entry["file_name"])).name)
            for entry in content["images"]
        }
        labelled = [(entry["image_id"], category[entry["category_id"]]) for entry in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--archive: {annotations} is not a file of images, annotations and categories ({error!r})"
        ) from None
    files = {path.name: path for path in folder.rglob("*.jpg")}
    for image, name in labelled:
        location, file = images.get(image, ("", ""))
        if location in LOCATIONS and name in CATEGORIES and file in files:
            destination = folder / "arranged" / f"location_{location}" / name / file
            destination.parent.mkdir(parents=True, exist_ok=True)
            if not destination.exists():
                # A link, since an image with two animals belongs to two classes, as in the script.
                os.link(files[file], destination)
    for path in files.values():
        path.unlink()


def move(path: Path, destination: Path) -> None:
    """Move a file, creating parent folders."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, destination)
