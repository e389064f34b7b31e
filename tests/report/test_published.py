"""Published numbers: each one can appear, and appears only next to a comparable measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import pytest

from clipalign.backbone import slip
from clipalign.core.fields import options_of
from clipalign.data.published.declarations import SHIFT, SHIFT_MEMBERS, caption_sets, image_sets
from clipalign.evaluation.results import ResultRow
from clipalign.methods import get_method, list_methods
from clipalign.protocols import list_protocols
from clipalign.report.document import Grid
from clipalign.report.measurements import MEANS_OVER_DATA, measurements
from clipalign.report.published import (
    PublishedNumber,
    architecture,
    differences,
    published_numbers,
    published_sections,
)
from clipalign.report.rows import ReportRow

B16 = "ViT-B-16:openai"
TESTS = {
    "in-the-wild": {"all", "base", "new"},
    "base-to-new": {"base", "new", ""},
    "domain-shift": {"in", "out"},
}


def make_row(
    value: float = 0.5, *, settings: dict[str, Any] | None = None, folder: str = "run", **fields: Any
) -> ReportRow:
    """Return a row of AlignCLIP on VLCS with changes."""
    known: dict[str, Any] = {
        "method": "alignclip",
        "backbone": B16,
        "data": "vlcs",
        "protocol": "domain-shift",
        "target": "SUN09",
        "test": "out",
        "seed": 0,
        "steps": 5000,
        "n": 656,
        "accuracy": value,
        "template": "a photo of a {}.",
    }
    return ReportRow(ResultRow(**{**known, **fields}), folder, settings or {"lr": 5e-6})


def listed(rows: Sequence[ReportRow]) -> list[dict[str, str]]:
    """Return the lines of the published numbers as mappings."""
    grids = [part for part in published_sections(rows) if isinstance(part, Grid)]
    return [dict(zip(grid.heads, line, strict=True)) for grid in grids for line in grid.lines]


def own_template(data: str) -> str:
    return image_sets()[data].template if data in image_sets() else "a photo of a {}."


def rows_for(number: PublishedNumber) -> list[ReportRow]:
    """Return rows from which a number can be measured: every target, test and data set that it averages."""
    members = MEANS_OVER_DATA.get(number.protocol, {}).get(number.data, (number.data,))
    rows = []
    for data in members:
        targets = image_sets()[data].domains if number.target == "mean" else [number.target or None]
        tests = [number.test]
        if number.test == "mean-of-variants":
            tests = list(SHIFT_MEMBERS[1:])
        elif number.metric.startswith("h"):
            tests = ["base", "new"]
        for target in targets:
            for test in tests:
                settings = {"lr": 1e-5, **number.values}
                if number.shots not in ("", "all"):
                    settings["shots"] = int(number.shots)
                recall = number.protocol == "retrieval"
                rows.append(
                    make_row(
                        settings=settings,
                        method=number.method,
                        backbone=number.backbone.replace("RN50:imagenet", "RN50:openai").replace(
                            ":FILE", ":weights/a.pth.tar"
                        ),
                        data=data,
                        protocol=number.protocol,
                        target=target,
                        test=test,
                        accuracy=None if recall else 0.5,
                        h=0.5 if "new" in tests else None,
                        template=own_template(data),
                        extra={number.metric: 0.5} if recall else {},
                    )
                )
    return rows


@pytest.mark.parametrize(
    "number", published_numbers(), ids=lambda n: "-".join((n.table, n.data, n.target, n.method, n.options))
)
def test_every_published_number_appears_for_some_configuration(number: PublishedNumber) -> None:
    assert 0 < float(number.percent) <= 100 and number.source and number.table
    assert number.protocol in list_protocols() and number.method in list_methods()
    method = get_method(number.method)
    own = {name: value for name, value in number.values.items() if name != "pooling"}
    assert own.keys() <= options_of(method.Config).keys() and method.Config(**own)
    assert number.values.get("pooling") in (None, "patches")
    members = MEANS_OVER_DATA.get(number.protocol, {}).get(number.data, (number.data,))
    for data in members:
        if number.protocol == "retrieval":
            assert caption_sets()[data].test in (number.test, None)
        elif data == SHIFT:
            assert number.test in (*SHIFT_MEMBERS, "mean-of-variants") and not number.target
        else:
            assert number.test in TESTS[number.protocol]
            assert number.target in ("mean", "", *image_sets()[data].domains)
    name, _, tag = number.backbone.partition(":")
    slip.register()
    assert name in open_clip.list_models()
    assert (name, tag) in open_clip.list_pretrained() or number.backbone in (
        "RN50:imagenet",
        *(f"{of_file}:FILE" for of_file in slip.NAMES),
    )
    expected = "backbone RN50:openai instead of RN50:imagenet" if tag == "imagenet" else ""
    lines = listed(rows_for(number))
    assert (number.origin, str(number), expected) in {
        (line["source"], line["published"], line["difference"]) for line in lines
    }


def test_published_numbers_are_distinct() -> None:
    numbers = published_numbers()
    keys = [(n.source, n.table, *vars(n).values()) for n in numbers]
    assert len(set(keys)) == len(keys) == 548
    table = [n.percent for n in numbers if n.table == "table 4" and n.method == "alignclip"]
    assert table == ["83.5", "70.1", "91.0", "91.2", "75.7", "55.7", "71.1", "19.2", "84.6", "70.0"]


def test_published_number_of_the_out_split_appears_beside_the_out_split() -> None:
    def table_6(*rows: ReportRow) -> list[tuple[str, str, str]]:
        lines = [line for line in listed(rows) if line["source"].startswith("AlignCLIP, table 6")]
        return [(line["test"], line["published"], line["difference"]) for line in lines]

    assert table_6(make_row()) == [("out", "80.9", "")]
    assert table_6(make_row(test="all")) == [("all", "80.9", "target split all instead of out")]
    assert table_6(make_row(test="all"), make_row()) == [("out", "80.9", "")]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"backbone": "ViT-B-16:laion2b_s34b_b88k"}, f"backbone ViT-B-16:laion2b_s34b_b88k instead of {B16}"),
        ({"template": "{} texture."}, "template {} texture. instead of default"),
        ({"settings": {"lr": 5e-6, "recipe": "common"}}, "recipe common instead of published"),
        ({"recipe": "common"}, "recipe common instead of published"),
        ({"recipe": "common", "recipe_changes": "lr"}, "recipe common instead of published"),
        ({"recipe": "published", "recipe_changes": "lr, steps"}, "recipe published except lr, steps"),
        ({"recipe": "published"}, ""),
        ({"settings": {"recipe": "published"}, "backbone": "ViT-B-16-quickgelu:openai"}, ""),
    ],
)
def test_single_difference_is_named(change: dict[str, Any], difference: str) -> None:
    lines = listed([make_row(**change)])
    assert {line["difference"] for line in lines} == {difference}


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "pocket"},
        {"backbone": "ViT-B-32:openai"},
        {"test": "all", "template": "{}"},
        {"test": "all", "recipe": "common"},
        {"template": "{} texture.", "recipe": "published", "recipe_changes": "steps"},
        {"target": "elsewhere"},
        {"protocol": "in-the-wild", "test": "all"},
        {"settings": {"aal_weight": 0.5}},
    ],
)
def test_number_with_another_architecture_or_two_differences_is_not_listed(change: dict[str, Any]) -> None:
    assert listed([make_row(**change)]) == []


def test_shots_distinguish_numbers_of_one_method() -> None:
    row = make_row(data="dtd", protocol="base-to-new", target=None, test="base", template="{} texture.")
    for settings, difference in (
        ({"shots": None}, ""),
        ({"shots": 16}, "shots 16 instead of all"),
        ({}, "shots unknown instead of all"),
    ):
        lines = listed([ReportRow(row.result, "run", settings)])
        assert {line["difference"] for line in lines} == {difference}


def test_means_appear_only_if_all_targets_are_there() -> None:
    domains = image_sets()["vlcs"].domains
    rows = [make_row(0.6 + 0.1 * i, target=domain) for i, domain in enumerate(domains)]
    means = [m for m in measurements(rows) if m.target == "mean"]
    assert [m.values for m in means] == [{0: pytest.approx(0.75)}]
    lines = [line for line in listed(rows) if line["source"] == "AlignCLIP, table 1"]
    assert [(line["task"], line["measured"], line["published"]) for line in lines] == [
        ("vlcs, domain-shift, mean", "75.0", "85.1 ± 0.2")
    ]
    assert not [m for m in measurements(rows[:3]) if m.target == "mean"]


@pytest.mark.parametrize(
    ("of_one", "of_others", "expected"),
    [
        ({"recipe": "common"}, {"recipe": "common"}, "recipe common instead of published"),
        ({"recipe_changes": "lr"}, {"recipe_changes": "lr"}, "recipe published except lr"),
        ({"recipe_changes": "lr"}, {}, "recipe published except several values"),
        ({}, {}, ""),
    ],
)
def test_mean_over_targets_names_the_recipe_of_its_members(
    of_one: dict[str, str], of_others: dict[str, str], expected: str
) -> None:
    published = {"recipe": "published"}
    domains = image_sets()["vlcs"].domains
    rows = [make_row(target=domains[0], **{**published, **of_one})]
    rows += [make_row(target=domain, **{**published, **of_others}) for domain in domains[1:]]
    means = [line for line in listed(rows) if line["source"] == "AlignCLIP, table 1"]
    assert [(line["task"], line["difference"]) for line in means] == [("vlcs, domain-shift, mean", expected)]


def test_zero_shot_row_under_another_recipe_names_it() -> None:
    for fields, expected in (
        ({"recipe": "published"}, ""),
        ({"recipe": "common"}, "recipe common instead of published"),
        ({"recipe": "published", "recipe_changes": "names"}, "recipe published except names"),
    ):
        rows = [make_row(method="zeroshot", steps=0, settings={}, **fields)]
        assert {line["difference"] for line in listed(rows)} == {expected}


def test_mean_counts_seeds_that_have_all_targets() -> None:
    domains = image_sets()["vlcs"].domains
    rows = [make_row(0.5 + 0.1 * seed, target=domain, seed=seed) for domain in domains for seed in (0, 1, 2)]
    (mean,) = (m for m in measurements(rows[:-1]) if m.target == "mean")
    assert mean.values == {0: pytest.approx(0.5), 1: pytest.approx(0.6)}


def test_mean_over_data_sets_has_both_rules_for_h() -> None:
    rows = []
    for i, data in enumerate(MEANS_OVER_DATA["base-to-new"]["mean-of-11"]):
        base, new = 0.5 + 0.04 * i, 0.9 - 0.05 * i
        h = 2 * base * new / (base + new)
        for test, value in (("base", base), ("new", new)):
            fields = {"data": data, "protocol": "base-to-new", "target": None, "test": test, "h": h}
            rows.append(make_row(value, template=own_template(data), method="zeroshot", steps=0, **fields))
    found = {(m.test, m.metric): m.values[0] for m in measurements(rows) if m.data == "mean-of-11"}
    assert found["base", "accuracy"] == pytest.approx(0.7) and found["new", "accuracy"] == pytest.approx(0.65)
    assert found["", "h_of_means"] == pytest.approx(2 * 0.7 * 0.65 / 1.35)
    assert found["", "h"] < found["", "h_of_means"]
    lines = [line for line in listed(rows) if line["task"].startswith("mean-of-11")]
    assert [line["metric"] for line in lines] == ["accuracy", "accuracy", "h of the means"]


def test_ablation_is_not_listed_beside_the_whole_method() -> None:
    ablated = make_row(settings={"lr": 5e-6, "guide": "vvv"})
    assert {(line["source"], line["published"]) for line in listed([ablated])} == {
        ("AlignCLIP, table 10", "81.1 ± 0.1")
    }
    assert "81.1 ± 0.1" not in {line["published"] for line in listed([make_row()])}


def test_pooling_distinguishes_numbers_of_one_method() -> None:
    for pooling, expected in (("class", "80.3 ± 0.2"), ("patches", "77.3 ± 0.2")):
        (line,) = listed([make_row(method="erm", settings={"pooling": pooling})])
        assert (line["source"], line["published"]) == ("AlignCLIP, table 9", expected)
    assert listed([make_row(settings={"pooling": "patches"})]) == []


def test_checkpoint_file_of_slip_is_taken_for_the_published_one() -> None:
    def figure_5(backbone: str) -> list[tuple[str, str]]:
        fields = {"data": "office-home", "protocol": "in-the-wild", "test": "all", "backbone": backbone}
        rows = [make_row(target=domain, **fields) for domain in image_sets()["office-home"].domains]
        lines = [line for line in listed(rows) if line["source"].startswith("AlignCLIP, figure 5")]
        return [(line["published"], line["difference"]) for line in lines]

    assert figure_5("SLIP-ViT-B-32:/data/slip.pt") == [("49.5", "")]
    for other in ("SLIP-ViT-B-32:random", "SLIP-ViT-B-32:/data/slip.pt@336"):
        (line,) = figure_5(other)
        assert line[0] == "49.5" and line[1].startswith("backbone SLIP-ViT-B-32:")
    assert figure_5("SLIP-ViT-B-16:/data/slip.pt") == []
    assert figure_5("DeCLIP-ViT-B-32-yfcc15m:declip.pth.tar") == [("54", "")]


def test_backbone_is_named_by_its_architecture() -> None:
    number = next(n for n in published_numbers() if n.backbone == "RN50:imagenet")
    assert architecture(number.backbone) == "RN50"
    (measured,) = measurements([make_row(data="dtd")])
    assert differences(number, measured) is None
