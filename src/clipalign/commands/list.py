"""`clipalign list`: print the names that options take, with a summary of each."""

from __future__ import annotations

from collections.abc import Sequence

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

        width = max(map(len, SOURCES.names()))
        for name, source in SOURCES.all().items():
            print(f"{name:{width}}  {source.summary}")
    else:
        print_methods()


def print_methods() -> None:
    """Print every method with its summary, the parameters it trains and its source."""
    from ..methods import all_methods

    methods = all_methods()
    width = max(len(method.name) for method in methods)
    for method in methods:
        print(f"{method.name:{width}}  {method.summary}")
        towers = " and ".join(method.towers)
        print(f"{'':{width}}  trains {method.trains}; {towers} towers; average {method.average}")
        print(f"{'':{width}}  {method.source}")
