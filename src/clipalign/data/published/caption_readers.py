"""Annotation formats of published caption sets: each reader yields the images with their captions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ...core.errors import UserError
from ...core.reading import read_json
from ..captions.files import SHARE_TEST, json_records
from ..captions.table import CaptionRecord
from ..sources.folder import sorted_files
from .declarations import CaptionSet


def read_annotations(declared: CaptionSet, annotations: Path) -> Iterator[CaptionRecord]:
    """Yield the records of a set's annotations.

    Raises:
        UserError: they are not in their published form.
    """
    try:
        yield from READERS[declared.reader](declared, annotations)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--data {declared.name}: {annotations} is not as published ({error!r})") from None


def find_images(declared: CaptionSet, base: Path, first: str) -> Path:
    """Return the folder that holds the first image.

    Raises:
        UserError: none of the declared folders does.
    """
    folders = [base / folder for folder in declared.images]
    for folder in folders:
        if (folder / first).is_file():
            return folder
    others = f" (nor in {', '.join(map(str, folders[1:]))})" if len(folders) > 1 else ""
    raise declared.error(f"no image {folders[0] / first}{others}")


def read_coco(declared: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """COCO: JSON; images by id as in torchvision's CocoCaptions, captions in the order of the file."""
    content = read_json(path)
    captions: dict[int, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(str(annotation["caption"]))
    for image in sorted(content["images"], key=lambda image: int(image["id"])):
        used = captions.get(image["id"], [])[: declared.captions]
        yield record_of_test(str(image["file_name"]), used, f"{path}, image {image['id']}")


def read_karpathy(declared: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """CLIP_benchmark's Flickr30k list: a header, then lines of `name.jpg,caption`, split at the first ".jpg,"."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if number > 1 and line.strip():
                name, separator, caption = line.partition(".jpg,")
                if not separator:
                    raise UserError(f"--data {declared.name}: {path}, line {number}: not `name.jpg,caption`")
                yield record_of_test(f"{name.strip()}.jpg", [caption], f"{path}, line {number}")


def read_tokens(declared: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """Flickr30k's own list: lines of `name.jpg#number`, a tab, and the caption."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                name, separator, caption = line.partition("\t")
                if not separator or "#" not in name:
                    raise UserError(
                        f"--data {declared.name}: {path}, line {number}: not `name.jpg#0`, a tab and a caption"
                    )
                yield record_of_test(name.rpartition("#")[0], [caption], f"{path}, line {number}")


def read_sharegpt4v(declared: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """ShareGPT4V: JSON, see `json_records`; the variant "test" has the test entries only."""
    records = json_records(path, path.parent)
    return islice(records, SHARE_TEST) if declared.variant == "test" else records


def read_stems(declared: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """Urban1k: a folder of images and a folder of text files with the same stems; the first line counts."""
    for folder, name, _ in sorted_files(path.parent / declared.images[0]):
        text = path / folder / f"{os.path.splitext(name)[0]}.txt"
        if not text.is_file():
            raise declared.error(f"no {text}, the caption of {name}")
        lines = text.read_text(encoding="utf-8").splitlines()
        yield record_of_test(os.path.join(folder, name), lines[:1] or [""], str(text))


def read_dci(declared: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """DCI: one JSON file per image, in the order of splits.json; the variant "test" has the test split only."""
    splits = path.parent / "splits.json"
    if not splits.is_file():
        raise declared.error(f"no {splits}")
    listed = read_json(splits)
    test_only = declared.variant == "test"
    for name in listed["test"] if test_only else [n for part in listed.values() for n in part]:
        file = path / safe_path(name if name.endswith(".json") else f"{name}.json")
        if not file.is_file():
            raise declared.error(f"no {file}, which {splits} lists")
        content = read_json(file)
        extra = str(content["extra_caption"] or "")
        joined = rejoin_sentences(f"{content['short_caption']}\n{extra}")
        caption = extra if declared.variant == "extra" else joined
        if caption.strip() or declared.variant != "extra":
            yield record_of_test(str(content["image"]), [caption], str(file))


def rejoin_sentences(text: str) -> str:
    """Split at line breaks, full stops and end marks, and join with ". " (LoTLIP, FLAIR)."""
    return ". ".join(part for raw in re.split(r"\n|</s>|\.", text) if (part := raw.strip()))


def record_of_test(key: str, captions: list[str], where: str) -> CaptionRecord:
    """Return the record of a test image."""
    return CaptionRecord(safe_path(key), captions, where, "test")


def safe_path(name: str) -> str:
    """Normalise a relative path of an annotation.

    Raises:
        ValueError: the path leaves its folder.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name} leads out of the folder")
    return os.path.normpath(name)


READERS = {
    "coco": read_coco,
    "karpathy": read_karpathy,
    "tokens": read_tokens,
    "sharegpt4v": read_sharegpt4v,
    "stems": read_stems,
    "dci": read_dci,
}
