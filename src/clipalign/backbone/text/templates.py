"""Named sets of prompt templates: of the AlignCLIP paper, and CLIP's ensembles."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import UserError
from ...core.types import Source

NAMED = ("paper", "ensemble", "ensemble7")


def choose_templates(given: Sequence[str], source: Source) -> tuple[str, ...]:
    """Resolve --template to templates.

    Args:
        given: templates; or one name: "paper" (those of the AlignCLIP paper's appendix, if they differ from the data
            set's own, which are CoOp's), "ensemble" (the 80 of CLIP's ImageNet evaluation) or "ensemble7" (the 7 that
            give most of its gain); or nothing, for those of the data set.
        source: the data set.

    Raises:
        UserError: a name among several templates.
    """
    if not given:
        return tuple(source.templates)
    if len(given) > 1 and (names := [text for text in given if text in NAMED]):
        raise UserError(f"--template {names[0]} is a set of templates and cannot be combined with others")
    if given[0] == "paper":
        return tuple(getattr(source, "paper_templates", source.templates))
    if given[0] in NAMED:
        # Imported here, since open_clip takes seconds to import and the other branches do not need it.
        from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

        ensemble = OPENAI_IMAGENET_TEMPLATES if given[0] == "ensemble" else SIMPLE_IMAGENET_TEMPLATES
        return tuple(template("{}") for template in ensemble)
    return tuple(given)
