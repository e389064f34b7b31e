"""Archives that are not laid out as their set is used: ImageNet's tar of tars, TerraIncognita's choice of images."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ...core.errors import UserError

# DomainBed's choice among Caltech Camera Traps.
LOCATIONS = ("38", "46", "100", "43")
CATEGORIES = (
    *("bird", "bobcat", "cat", "coyote", "dog"),
    *("empty", "opossum", "rabbit", "raccoon", "squirrel"),
)
VALIDATION = re.compile(r"(ILSVRC2012_val_\d{8})(?:\.JPEG)?\W+(n\d{8})")
Unpack = Callable[[Path, Path], None]


def arrange(name: str, folder: Path, beside: Sequence[Path], unpack: Unpack) -> None:
    """Bring an unpacked archive of these two sets into the layout that is read; leave others as they are.

    Args:
        name: of the set.
        folder: what was unpacked.
        beside: the files given that are no archives.
        unpack: writes an archive's files below a folder.

    Raises:
        UserError: the file that says where images belong is missing or of another kind.
    """
    if name == "imagenet":
        arrange_imagenet(folder, beside, unpack)
    elif name == "terra-incognita":
        arrange_terra(folder, beside)


def arrange_imagenet(folder: Path, beside: Sequence[Path], unpack: Unpack) -> None:
    """ILSVRC2012_img_train.tar: one tar per class -> images/train/WNID. ILSVRC2012_img_val.tar: images in one
    heap -> images/val/WNID, by a file that has a name and a WordNet id on each line: the usual `valprep.sh`, or
    Kaggle's `LOC_val_solution.csv`."""
    for inner in sorted(folder.rglob("n????????.tar")):
        goal = folder / "images" / "train" / inner.stem
        goal.mkdir(parents=True)
        unpack(inner, goal)
        inner.unlink()
    heap = [
        path for path in folder.rglob("ILSVRC2012_val_*.JPEG") if not re.match(r"n\d{8}", path.parent.name)
    ]
    if not heap:
        return
    classes: dict[str, str] = {}
    for path in beside:
        classes |= dict(VALIDATION.findall(path.read_text(encoding="utf-8", errors="replace")))
    for path in sorted(heap):
        if path.stem not in classes:
            raise UserError(
                f"--archive: nothing says which class {path.name} is of; give valprep.sh or LOC_val_solution.csv too"
            )
        move(path, folder / "images" / "val" / classes[path.stem] / path.name)


def arrange_terra(folder: Path, beside: Sequence[Path]) -> None:
    """Images of Caltech Camera Traps in one heap -> location_L/CATEGORY, by their annotations (COCO's form), as
    DomainBed's download script chooses them; the others are left out."""
    if any(path.is_dir() for location in LOCATIONS for path in folder.rglob(f"location_{location}")):
        return
    annotations = next((path for path in beside if path.suffix == ".json"), None)
    if annotations is None:
        raise UserError(
            "--archive: these images are not sorted by location; give the annotations too "
            "(caltech_images_20210113.json of LILA BC)"
        )
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        category = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        places = {
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
        location, file = places.get(image, ("", ""))
        if location in LOCATIONS and name in CATEGORIES and file in files:
            goal = folder / "arranged" / f"location_{location}" / name / file
            goal.parent.mkdir(parents=True, exist_ok=True)
            if not goal.exists():
                os.link(
                    files[file], goal
                )  # an image with two animals stands in two classes, as in the script
    for path in files.values():
        path.unlink()


def move(path: Path, goal: Path) -> None:
    """Move a file, with the folders it needs."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, goal)
