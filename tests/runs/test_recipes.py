"""Recipes: a file per method, valid options, and the layers that a run gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipalign.core.errors import UserError
from clipalign.data.published.declarations import caption_sets, image_sets
from clipalign.methods import Method, all_methods, get_method
from clipalign.protocols import list_protocols
from clipalign.runs.options import train_options, train_parser
from clipalign.runs.recipes import read_recipe, recipe_file

ROOT = Path(__file__).parents[2] / "configs" / "recipes"
METHODS = [method for method in all_methods() if method.__module__.startswith("clipalign.")]
NAMES = {
    "methods": {method.name for method in METHODS},
    "backbones": {"pocket"},
    "shots": {"1", "2", "4", "8", "16", "all"},
    "datasets": {*image_sets(), *caption_sets()},
    "variants": {"released"},
    "protocols": set(list_protocols()),
}


def option_sets(
    section: dict[str, Any], of: str | None = None
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield (method, options) of a section and those below it; the method is None if they are of several."""
    yield of, section.get("defaults", {})
    for key, names in NAMES.items():
        for name, below in section.get(key, {}).items():
            assert name in names, (key, name)
            if key in ("variants", "protocols"):
                yield from option_sets(below, of)
            else:
                yield (name if key == "methods" else of), below


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_published_recipe_has_options_of_the_method_only(method: type[Method[Any]]) -> None:
    path = recipe_file("published", method.name)
    assert path == ROOT / "published" / f"{method.name}.yaml"
    parser = train_parser(method)
    for _, options in option_sets(read_recipe(path)):
        parser.convert(options, f"{path}: ")
        assert not {"method", "out", "recipe", "data", "protocol", "target", "shots"} & set(options)
    assert path.read_text().startswith("# "), "the head of the file names the source"


def test_every_published_recipe_belongs_to_a_method() -> None:
    assert {path.stem for path in (ROOT / "published").iterdir()} == {method.name for method in METHODS}


def test_common_recipe_has_options_of_every_method() -> None:
    for name, options in option_sets(read_recipe(ROOT / "common.yaml")):
        for method in METHODS if name is None else [get_method(name)]:
            train_parser(method).convert(options)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_common_recipe_gives_all_methods_the_same_training_options_but_the_rate_of_new_parameters(
    method: type[Method[Any]],
) -> None:
    options = train_options(
        ["--method", method.name, "--recipe", "common", "--protocol", "in-the-wild", "--out", "x"]
    )
    config = options.config
    assert (config.schedule.steps, config.schedule.schedule, config.schedule.warmup_steps) == (
        150,
        "cosine",
        0,
    )
    o = config.optimiser
    # Prompts and adapters are new parameters, which do not learn at a rate made for pre-trained weights.
    new = method.name in ("clip-adapter", "cocoop", "coop", "dpl", "maple", "promptsrc", "tip-adapter-f")
    assert (o.optimizer, o.weight_decay, o.batch_size) == ("adamw", 0.1, 36)
    assert o.lr == (1e-3 if new else 3e-4)
    assert (config.recipe.augment, config.recipe.select, config.data.interpolation) == (
        "clip-crop",
        "last",
        "bicubic",
    )
    assert options.origins["steps"] == "common, pocket" and options.origins["batch_size"] == "common"
    assert options.recipe_changes == ()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("clipood --data office-home", {"lr": 1e-5, "steps": 5000, "bma_beta": 0.5, "batch_size": 36}),
        ("clipood --data OfficeHome --protocol in-the-wild", {"lr": 3e-6, "margin": 0.1, "bma_beta": 0.1}),
        ("clipood --data domain-net", {"lr": 1e-5, "steps": 10000, "batch_size": 60}),
        ("clipood --data ucf101 --protocol base-to-new", {"lr": 5e-6, "steps": 1000, "bma_beta": 0.1}),
        ("alignclip --data pacs", {"lr": 5e-6, "batch_size": 36, "bma_beta": 0.5}),
        ("alignclip --data pacs --variant released", {"batch_size": 108}),
        (
            "alignclip --data domain-net --variant released",
            {"batch_size": 180, "margin": 0.1, "steps": 10000},
        ),
        ("alignclip --data dtd --protocol base-to-new --variant released", {"batch_size": 36, "steps": 500}),
        ("swad --data vlcs", {"swad_ratio": 0.2, "validate_every": 50, "optimizer": "adam", "lr": 5e-5}),
        (
            "swad --data domain-net",
            {"swad_ratio": 0.3, "validate_every": 500, "steps": 15000, "batch_size": 160},
        ),
        ("miro --data pacs", {"validate_every": 200, "select": "best", "augment": "domainbed"}),
        ("coral --data domain-net", {"batch_size": 160, "select": "best"}),
        ("dpl --data pacs", {"augment": "none", "select": "best", "interpolation": "bicubic"}),
        ("tip-adapter-f --data eurosat --protocol few-shot", {"epochs": 100, "augment": "tip-adapter"}),
        ("tip-adapter-f --data dtd --protocol few-shot", {"epochs": 20, "cache_beta_scale": 13}),
        ("coop --data dtd --protocol few-shot --shots 1", {"epochs": 50, "augment": "coop"}),
        ("coop --data dtd --protocol few-shot --shots 16", {"epochs": 200, "context_init": None}),
        ("coop --data dtd --protocol base-to-new", {"epochs": 200, "context_init": "a photo of a"}),
        ("zeroshot --data dtd", {"interpolation": "bicubic"}),
        ("zeroshot --data pacs", {"interpolation": "bilinear"}),
        *(
            (f"{method} --data fgvc-aircraft --protocol base-to-new", {"names": "plain"})
            for method in ("zeroshot", "coop", "cocoop", "maple", "promptsrc", "clip-adapter", "tip-adapter")
        ),
        *(
            (f"{method} --data imagenet", {"names": "plain"})
            for method in ("tip-adapter-f", "wise-ft", "flyp")
        ),
        ("dpl --data vlcs", {"names": "plain"}),
        *((f"{method} --data vlcs", {"names": "paper"}) for method in ("erm", "clipood", "alignclip")),
        ("coop --recipe common --data fgvc-aircraft", {"names": "paper"}),
        ("zeroshot --recipe common --data fgvc-aircraft", {"names": "paper"}),
        ("zeroshot --data fgvc-aircraft --names paper", {"names": "paper"}),
        ("smartclip", {"augment": "none", "batch_size": 1024}),
        ("coop --recipe common --data dtd", {"lr": 1e-3, "steps": 5000, "optimizer": "adamw"}),
        ("erm --recipe common --data dtd", {"lr": 5e-6, "steps": 5000}),
    ],
)
def test_recipe_depends_on_data_set_protocol_and_variant(arguments: str, expected: dict[str, Any]) -> None:
    options = train_options(["--method", *arguments.split(), "--backbone", "ViT-B-16:openai", "--out", "x"])
    values = options.flat()
    assert {name: values[name] for name in expected} == expected
    recipe = "common" if "common" in arguments else "published"
    assert options.config.recipe.recipe == recipe
    given = {token.removeprefix("--") for token in arguments.split()}
    assert all(
        options.origins[name].split(",")[0] == recipe
        for name in expected
        if name in options.origins and name not in given
    )


def test_origin_names_the_parts_of_the_recipe_that_applied() -> None:
    arguments = ["--method", "clipood", "--data", "office-home", "--protocol", "in-the-wild"]
    origins = train_options([*arguments, "--backbone", "ViT-B-16:openai", "--out", "x"]).origins
    assert origins["lr"] == "published, in-the-wild, office-home" and origins["weight_decay"] == "published"


def test_measured_values_of_the_pocket_model_override_the_published_recipe_only() -> None:
    published = train_options(["--method", "erm", "--out", "x"])
    assert published.origins["lr"] == "configs/pocket/erm.yaml"
    assert published.recipe_changes == ("lr", "steps")
    common = train_options(["--method", "erm", "--recipe", "common", "--out", "x"])
    assert common.origins["lr"] == "common, pocket" and common.config.optimiser.lr == 3e-4


def test_command_line_and_config_file_override_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("recipe: common\nlr: 1e-2\n")
    options = train_options(["--config", str(path), "--method", "erm", "--steps", "7", "--out", "x"])
    assert (options.config.optimiser.lr, options.config.schedule.steps) == (1e-2, 7)
    assert options.recipe_changes == ("lr", "steps")
    row = options.row_fields((), "")
    assert row["recipe"] == "common" and row["recipe_changes"] == "lr, steps"


@pytest.mark.parametrize("method", ["zeroshot", "tip-adapter", "coop"])
def test_names_and_interpolation_that_do_not_follow_the_recipe_are_changes(method: str) -> None:
    assert train_options(["--method", method, "--out", "x"]).recipe_changes == ()
    changed = train_options(
        ["--method", method, "--names", "paper", "--interpolation", "bilinear", "--out", "x"]
    )
    assert changed.recipe_changes == ("interpolation", "names")
    assert changed.row_fields((), "")["recipe_changes"] == "interpolation, names"


def test_newer_layer_decides_between_epochs_and_steps() -> None:
    arguments = ["--method", "coop", "--data", "dtd", "--protocol", "few-shot", "--out", "x"]
    assert train_options(arguments).config.schedule.epochs == 200
    steps = train_options([*arguments, "--steps", "9"]).config.schedule
    assert (steps.epochs, steps.steps) == (None, 9)
    epochs = train_options(["--method", "erm", "--epochs", "2", "--out", "x"]).config.schedule
    assert epochs.epochs == 2
    with pytest.raises(UserError, match="--epochs and --steps exclude each other"):
        train_options([*arguments, "--steps", "9", "--epochs", "2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dafaults: {lr: 1}", "unknown key dafaults"),
        ("datasets: [pacs]", "datasets: must hold"),
        ("datasets: {pacs: 3}", "datasets: pacs: must hold"),
        ("protocols: {few-shot: {lr: 1}}", "protocols: few-shot: unknown key lr"),
        ("shots: {1: {lr: 1}}", "each key a string"),
    ],
)
def test_malformed_recipe_is_an_error_that_names_the_place(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_recipe(path)


def test_unknown_recipe_is_an_error() -> None:
    with pytest.raises(UserError, match="--recipe must be one of published, common, not best"):
        train_options(["--recipe", "best", "--out", "x"])
