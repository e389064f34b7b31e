"""`clipalign list`: print the names that options take, with a summary of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.parsing import parse_config
from .options import ListConfig


def run_list(tokens: Sequence[str], prog: str = "clipalign list") -> None:
    """Print the names of one kind."""
    what = parse_config(ListConfig, tokens, prog).what
    # Imported per kind of name: a list of protocols needs neither the methods nor open_clip.
    if what == "backbones":
        from ..backbone import list_backbones

        print("\n".join(list_backbones()))
    elif what == "protocols":
        from ..protocols import list_protocols

        print("\n".join(list_protocols()))
    elif what == "data":
        from ..data.registry import SOURCES

        print_summaries({name: source.summary for name, source in SOURCES.all().items()})
    elif what == "metrics":
        from ..evaluation.metrics import METRICS

        print_summaries({name: first_line(metric) for name, metric in METRICS.all().items()})
    elif what == "exports":
        from ..runs.export import EXPORTS

        print_summaries({name: form.summary for name, form in EXPORTS.all().items()})
    elif what == "trackers":
        from ..engine.writers import WRITERS

        print_summaries({name: first_line(writer) for name, writer in WRITERS.all().items()})
    else:
        print_methods()


def print_summaries(summaries: Mapping[str, str]) -> None:
    """Print names with a summary of each."""
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:{width}}  {summary}")


def first_line(entry: type) -> str:
    """Return the first line of a docstring."""
    return (entry.__doc__ or "").strip().partition("\n")[0]


def print_methods() -> None:
    """Print every method with its summary, the parameters it trains and its source."""
    from ..methods import all_methods

    methods = all_methods()
    width = max(len(method.name) for method in methods)
    for method in methods:
        print(f"{method.name:{width}}  {method.summary}")
        needs = f"needs {' and '.join(method.needs)}" if method.needs else "any backbone"
        print(f"{'':{width}}  trains {method.trains}; {needs}; average {method.average}")
        print(f"{'':{width}}  {method.source}")
