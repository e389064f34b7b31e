"""Recipes: training options by method, data set and protocol, in `configs/recipes/`.

`published/METHOD.yaml` holds the options that a method was published with, `common.yaml` one set for all methods. A
recipe is a section of these keys, all optional; later ones win:

    defaults: {lr: 5e-6}                    # options
    backbones: {pocket: {steps: 600}}       # options by backbone
    methods: {coop: {lr: 1e-3}}             # by method
    shots: {"1": {epochs: 50}}              # by --shots; "all" if a protocol trains on all images
    datasets: {office-home: {lr: 1e-5}}     # by data set
    variants: {released: SECTION}           # a section by --variant of alignclip
    protocols: {in-the-wild: SECTION}       # a section by protocol
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.yaml_files import read_yaml

COMMON, PUBLISHED = "common", "published"
Options = dict[str, Any]
Layer = tuple[str, Options]  # origin, options by name

# Keys that map names to options, and keys that map names to sections.
OPTIONS_BY = ("backbones", "methods", "shots", "datasets")
SECTIONS_BY = ("variants", "protocols")


@dataclass(frozen=True)
class RunFacts:
    """The options of a run that its recipe depends on.

    Attributes:
        method: name of the method.
        backbone: name of the backbone; "pocket" for all forms of the shipped one.
        shots: images per class, or "all".
        data: name of the data set, of published image sets as `clipalign data list` prints it.
        variant: --variant of alignclip.
        protocol: name of the protocol.
    """

    method: str
    backbone: str
    shots: str
    data: str
    variant: str
    protocol: str

    def name(self, key: str) -> str:
        """Return the name to look up under a key of a section."""
        return {
            "methods": self.method,
            "backbones": self.backbone,
            "shots": self.shots,
            "datasets": self.data,
            "variants": self.variant,
            "protocols": self.protocol,
        }[key]


def recipe_layers(recipe: str, facts: RunFacts, published: Mapping[str, Any]) -> list[Layer]:
    """Return the options of a recipe for a run, as layers with their origin; later ones win.

    An origin begins with the name of the recipe, followed by the keys that applied: "published, office-home".

    Args:
        recipe: "published" or "common".
        facts: of the run.
        published: options of a method of another package, which has no file.

    Raises:
        UserError: the file is not a recipe.
    """
    path = recipe_file(recipe, facts.method)
    if path is None:
        return [(recipe, dict(published))] if published and recipe == PUBLISHED else []
    return list(_layers(read_recipe(path), facts, recipe))


def _layers(section: Mapping[str, Any], facts: RunFacts, origin: str) -> Iterator[Layer]:
    yield origin, section.get("defaults", {})
    for key in OPTIONS_BY:
        name = facts.name(key)
        if options := section.get(key, {}).get(name):
            yield f"{origin}, {f'{name} shots' if key == 'shots' else name}", options
    for key in SECTIONS_BY:
        name = facts.name(key)
        if below := section.get(key, {}).get(name):
            yield from _layers(below, facts, f"{origin}, {name}")


def read_recipe(path: Path) -> dict[str, Any]:
    """Read and check a recipe.

    Raises:
        UserError: a key that no section has, or a value that is not a mapping.
    """
    content = read_yaml(path)
    _check(content, str(path))
    return content


def _check(section: object, where: str) -> None:
    for key, value in _mapping(section, where).items():
        if key not in ("defaults", *OPTIONS_BY, *SECTIONS_BY):
            raise UserError(f"{where}: unknown key {key}")
        members = _mapping(value, f"{where}: {key}")
        if key in SECTIONS_BY:
            for name, below in members.items():
                _check(below, f"{where}: {key}: {name}")
        elif key in OPTIONS_BY:
            for name, options in members.items():
                _mapping(options, f"{where}: {key}: {name}")


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: must hold key: value lines, each key a string")
    return value


def recipe_file(recipe: str, method: str) -> Path | None:
    """Return the file of a recipe; None for methods of other packages."""
    return shipped_file("recipes", f"{COMMON}.yaml" if recipe == COMMON else f"{recipe}/{method}.yaml")


def shipped_file(folder: str, name: str) -> Path | None:
    """Return a file of a folder of `configs/`; None if there is none."""
    path = shipped_folder(folder) / name
    return path if path.is_file() else None


def shipped_folder(name: str) -> Path:
    """Return a folder of `configs/`, in an installed package or a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "assets" / "configs"
    return (installed if installed.is_dir() else package.parents[1] / "configs") / name
