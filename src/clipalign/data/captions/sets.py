"""Published sets of images with captions, read from where users have them; `caption_sets.yaml` declares each."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import yaml

from ...core.errors import UserError
from ..decode import file_size
from ..sources.folder import sorted_files
from ..sources.table import FilesUnder
from .files import SHARE_TEST, json_records
from .table import CaptionRecord, CaptionTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionSet:
    """What is known of a published set; the head of caption_sets.yaml says what each field means."""

    name: str
    title: str
    reader: str
    folder: str
    annotations: str
    licence: str
    obtain: str
    images: list[str] = field(default_factory=list)
    captions: int | None = None
    tests: Literal["long", "short"] | None = None
    variant: str = ""
    counts: list[int] = field(default_factory=list)

    def fail(self, what: str) -> UserError:
        """An error that says where the set comes from."""
        return UserError(
            f"--data {self.name}: {what}. Get it from: {self.obtain} (licence: {self.licence}); docs/retrieval.md "
            "shows how it has to lie below --data-root"
        )


@lru_cache
def caption_sets() -> dict[str, CaptionSet]:
    """All published caption sets by name."""
    content = yaml.safe_load(Path(__file__).with_name("caption_sets.yaml").read_text(encoding="utf-8"))
    return {name: CaptionSet(name, **facts) for name, facts in content.items()}


def open_caption_set(facts: CaptionSet, root: Path, **settings: Any) -> CaptionTable:
    """A published set below `root`; `settings` are those of `ImageTable`.

    Raises:
        UserError: a file that is missing, or not as its makers wrote it.
    """
    base = root / facts.folder
    if not (base / facts.annotations).exists() and (root / facts.annotations).exists():
        base = root
    annotations = base / facts.annotations
    if not annotations.exists():
        raise facts.fail(f"no {annotations}")
    records = read(facts, annotations)
    first = next(records, None)
    if first is None:
        raise facts.fail(f"no images in {annotations}")
    images = images_of(facts, base, first.key)
    # Keys start at the folder of images, so sizes are known now that it is.
    sized = (
        record._replace(size=record.size or file_size(images / record.key))
        for record in chain([first], records)
    )
    table = CaptionTable(
        facts.name, sized, lambda keys: FilesUnder(images, keys), tests=facts.tests, **settings
    )
    tested = table.caption_tests("test")[0]
    found = [len(tested.rows), len(tested.texts)]
    if facts.counts and found != facts.counts:
        logger.warning(
            "%s: %d images with %d captions in the test, %d with %d published; its numbers do not compare with "
            "published ones",
            *(facts.title, *found, *facts.counts),
        )
    return table


def read(facts: CaptionSet, annotations: Path) -> Iterator[CaptionRecord]:
    """What the annotations hold.

    Raises:
        UserError: they are of another form.
    """
    try:
        yield from READERS[facts.reader](facts, annotations)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--data {facts.name}: {annotations} is not as published ({error!r})") from None


def images_of(facts: CaptionSet, base: Path, first: str) -> Path:
    """The folder that holds the images.

    Raises:
        UserError: the first image is in none of the places.
    """
    places = [base / folder for folder in facts.images]
    for place in places:
        if (place / first).is_file():
            return place
    others = f" (nor in {', '.join(map(str, places[1:]))})" if len(places) > 1 else ""
    raise facts.fail(f"no image {places[0] / first}{others}")


def read_coco(facts: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """COCO's JSON; images by id, as torchvision's CocoCaptions has them, captions in the file's order."""
    content = json.loads(path.read_text(encoding="utf-8"))
    captions: dict[int, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(str(annotation["caption"]))
    for image in sorted(content["images"], key=lambda image: int(image["id"])):
        mine = captions.get(image["id"], [])[: facts.captions]
        yield tested(str(image["file_name"]), mine, f"{path}, image {image['id']}")


def read_karpathy(facts: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """Lines of name and caption, cut at the first ".jpg,"."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if number > 1 and line.strip():
                name, cut, caption = line.partition(".jpg,")
                if not cut:
                    raise UserError(f"--data {facts.name}: {path}, line {number}: not `name.jpg,caption`")
                yield tested(f"{name.strip()}.jpg", [caption], f"{path}, line {number}")


def read_tokens(facts: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """Lines of name, number and caption."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                name, cut, caption = line.partition("\t")
                if not cut or "#" not in name:
                    raise UserError(
                        f"--data {facts.name}: {path}, line {number}: not `name.jpg#0`, a tab and a caption"
                    )
                yield tested(name.rpartition("#")[0], [caption], f"{path}, line {number}")


def read_sharegpt4v(facts: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """ShareGPT4V's JSON, or the test entries of it alone."""
    found = json_records(path, path.parent)
    return islice(found, SHARE_TEST) if facts.variant == "test" else found


def read_stems(facts: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """A folder of images and one of text files with the same stems."""
    for folder, name, _ in sorted_files(path.parent / facts.images[0]):
        text = path / folder / f"{os.path.splitext(name)[0]}.txt"
        if not text.is_file():
            raise facts.fail(f"no {text}, the caption of {name}")
        lines = text.read_text(encoding="utf-8").splitlines()
        yield tested(os.path.join(folder, name), lines[:1] or [""], str(text))


def read_dci(facts: CaptionSet, path: Path) -> Iterator[CaptionRecord]:
    """Annotations in the order of splits.json: all of them, or the test split."""
    splits = path.parent / "splits.json"
    if not splits.is_file():
        raise facts.fail(f"no {splits}")
    listed = json.loads(splits.read_text(encoding="utf-8"))
    for name in listed["test"] if facts.variant == "test" else [n for part in listed.values() for n in part]:
        file = path / inside(name if name.endswith(".json") else f"{name}.json")
        if not file.is_file():
            raise facts.fail(f"no {file}, which {splits} names")
        content = json.loads(file.read_text(encoding="utf-8"))
        extra = str(content["extra_caption"] or "")
        caption = extra if facts.variant == "extra" else rejoined(f"{content['short_caption']}\n{extra}")
        if caption.strip() or facts.variant != "extra":
            yield tested(str(content["image"]), [caption], str(file))


def rejoined(text: str) -> str:
    """Sentences cut at line breaks, full stops and end marks, joined with ". " (LoTLIP, FLAIR)."""
    return ". ".join(part for raw in re.split(r"\n|</s>|\.", text) if (part := raw.strip()))


def tested(key: str, captions: list[str], where: str) -> CaptionRecord:
    """An image of the test part."""
    return CaptionRecord(inside(key), captions, where, "test")


def inside(name: str) -> str:
    """A file name of an annotation, which may not lead out of its folder."""
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
