"""Read icon sets published on npm in Iconify's JSON format and render their icons.

Used by development tools only; the package ships rendered sprites.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

# Licences that permit training on the art and shipping it with attribution. Share-alike, non-commercial and GPL sets
# are excluded.
PERMISSIVE = frozenset(
    {
        "MIT",
        "Apache-2.0",
        "CC-BY-4.0",
        "CC-BY-3.0",
        "CC0-1.0",
        "ISC",
        "OFL-1.1",
        "MPL-2.0",
        "BSD-3-Clause",
        "Unlicense",
    }
)


@dataclass(frozen=True)
class IconSet:
    """One icon set.

    Attributes:
        prefix: identifier of the set.
        icons: name -> SVG body without the outer element.
        aliases: alternative name -> name.
        box: name -> (left, top, width, height) of its view box.
        characters: Unicode code points as "1f34e" or "1f468-200d-1f33e" -> name; empty if not published.
        info: metadata: licence, author, version, palette.
    """

    prefix: str
    icons: dict[str, str]
    aliases: dict[str, str]
    box: dict[str, tuple[float, float, float, float]]
    characters: dict[str, str]
    info: dict

    @property
    def colour(self) -> bool:
        """Whether the drawings are coloured rather than monochrome."""
        return bool(self.info.get("palette"))

    @property
    def licence(self) -> str:
        """SPDX identifier."""
        return str(self.info["license"].get("spdx", "unknown"))


def npm_pack(package: str, folder: Path) -> Path:
    """Download and unpack a package with npm unless it is already there; return its folder."""
    target = folder / package.replace("@", "").replace("/", "-")
    if not (target / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
        )
        with tarfile.open(folder / done.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(target, filter="data")
        inner = target / "package"
        for path in list(inner.iterdir()):
            path.rename(target / path.name)
        inner.rmdir()
    return target


def read_set(path: Path, info: dict, characters: Path | None = None) -> IconSet:
    """Read the JSON of one set, without hidden icons (withdrawn by their authors)."""
    data = json.loads(path.read_text())
    width, height = data.get("width", 16), data.get("height", 16)
    icons, box = {}, {}
    for name, icon in data["icons"].items():
        if icon.get("hidden"):
            continue
        icons[name] = icon["body"]
        box[name] = (
            icon.get("left", data.get("left", 0)),
            icon.get("top", data.get("top", 0)),
            icon.get("width", width),
            icon.get("height", height),
        )
    aliases = {
        name: alias["parent"]
        for name, alias in data.get("aliases", {}).items()
        if alias["parent"] in icons and not (alias.keys() & {"rotate", "hFlip", "vFlip"})
    }
    table = json.loads(characters.read_text()) if characters and characters.exists() else {}
    return IconSet(data["prefix"], icons, aliases, box, table, info)


def read_package(folder: Path) -> IconSet:
    """Read a package that holds a single set (`@iconify-json/<prefix>`)."""
    info = json.loads((folder / "info.json").read_text())
    info["version"] = json.loads((folder / "package.json").read_text())["version"]
    return read_set(folder / "icons.json", info, folder / "chars.json")


def draw(icons: IconSet, name: str, size: int) -> np.ndarray:
    """Render one icon centred in a square: [size, size, 4] uint8, straight alpha. Monochrome art is black."""
    left, top, width, height = icons.box[name]
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    body = re.sub("currentColor", "#000000", icons.icons[name], flags=re.IGNORECASE)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'color="#000000" width="{size}" height="{size}" viewBox="{box}">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
