"""`clipalign list`: print the names that options take, with a summary of each."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..core.parsing import parse_config
from .options import ListConfig

Entry = dict[str, str]  # "name" and "summary"; further facts by name


def run_list(tokens: Sequence[str], prog: str = "clipalign list") -> None:
    """Print the names of one kind."""
    config = parse_config(ListConfig, tokens, prog)
    entries = list_entries(config.what)
    if config.json:
        print(json.dumps(entries, indent=1))
        return
    width = max(len(entry["name"]) for entry in entries)
    for entry in entries:
        facts = dict(entry)
        name, summary = facts.pop("name"), facts.pop("summary", "")
        print(f"{name:{width}}  {summary}".rstrip())
        for fact, value in facts.items():
            print(f"{'':{width}}  {fact}: {value}")


def list_entries(what: str) -> list[Entry]:
    """Return the names of one kind with their facts."""
    # Imported per kind of name: a list of protocols needs neither the methods nor open_clip.
    if what == "backbones":
        from ..backbone import list_backbones

        return [{"name": name} for name in list_backbones()]
    if what == "protocols":
        from ..protocols import PROTOCOLS

        return [
            {"name": name, "summary": module_summary(build.__module__)}
            for name, build in PROTOCOLS.all().items()
        ]
    if what == "data":
        return data_entries()
    if what == "metrics":
        from ..evaluation.metrics import METRICS

        return [{"name": name, "summary": first_line(metric)} for name, metric in METRICS.all().items()]
    if what == "exports":
        from ..runs.export import EXPORTS

        return [{"name": name, "summary": form.summary} for name, form in EXPORTS.all().items()]
    if what == "trackers":
        from ..engine.writers import WRITERS

        return [{"name": name, "summary": first_line(writer)} for name, writer in WRITERS.all().items()]
    from ..methods import all_methods

    entries = []
    for method in all_methods():
        needs = f"needs {' and '.join(method.needs)}" if method.needs else "any backbone"
        trains = f"{method.trains}; {needs}; average {method.average}"
        entries.append(
            {"name": method.name, "summary": method.summary, "trains": trains, "source": method.source}
        )
    return entries


def data_entries() -> list[Entry]:
    """Return all data sets; published image sets with their images, folder, licence and where to get them."""
    from ..data.published.declarations import image_sets
    from ..data.registry import SOURCES

    declared = image_sets()
    entries = []
    for name, source in SOURCES.all().items():
        entry = {"name": name, "summary": source.summary, "licence": source.licence}
        if published := declared.get(name):
            images = " or ".join("/".join(map(str, counts)) for counts in published.counts)
            parts = ", ".join(published.domains) or "train, validation, test"
            entry |= {"images": f"{images} ({parts})", "folder": published.folder, "from": published.obtain}
        entries.append(entry)
    return entries


def first_line(entry: type) -> str:
    """Return the first line of a docstring."""
    return (entry.__doc__ or "").strip().partition("\n")[0]


def module_summary(module: str) -> str:
    """Return the first sentence of the docstring of a module."""
    from importlib import import_module

    text = " ".join((import_module(module).__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".")
