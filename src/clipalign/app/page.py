"""The layout of the page in Gradio, and what each control updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ..core.errors import UserError
from . import html
from .alpha import ALPHAS, curve_figure
from .answers import top
from .examples import Example
from .inputs import split_captions, split_names
from .looks import PUBLISHED
from .session import COLUMNS, PHOTO, TOP, MapView, Session

TITLE = "clipalign"
START = "Drop a photo, or pick an example."


def photo_input() -> gr.Image:
    """Return an image component that hands over the uploaded file, which `inputs.read_photo` decodes.

    Gradio would decode it first, without limits, and show no more than "Error" for a damaged file.
    """
    photo = gr.Image(
        label="Photo",
        sources=["upload", "clipboard"],
        type="filepath",
        height=300,
        buttons=[],
        elem_id="photo",
    )
    # Not a subclass: Gradio writes a stub file next to the source of every subclass.
    photo.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return photo


def theme() -> gr.themes.Base:
    """Return a theme whose fonts are the system's, so that none is downloaded."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Helvetica", "Arial", "sans-serif")
    mono = ("ui-monospace", "Consolas", "monospace")
    return gr.themes.Default(primary_hue="sky", neutral_hue="slate", font=fonts, font_mono=mono)


def make_page(session: Session, examples: Sequence[Example]) -> gr.Blocks:
    """Return the page.

    Args:
        session: models.
        examples: pictures to pick; the first one is shown at the start.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(
            "# clipalign\nWhat models answer about a picture, where they look, and how fine-tuning moved it."
        )
        if warning := html.notice(session.models):
            gr.HTML(warning)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                photo = photo_input()
                names = gr.Textbox(
                    label="Class names, separated by commas or lines",
                    lines=2,
                    max_lines=6,
                    elem_id="names",
                )
                ask = gr.Button("Classify", variant="primary", elem_id="ask")
            with gr.Column(scale=5, min_width=320):
                answers = gr.HTML(html.hint(START), elem_id="answers")
                gr.HTML(html.hint("Examples"))
                gallery = gr.Gallery(
                    [str(example.file) for example in examples],
                    show_label=False,
                    container=False,
                    columns=len(examples),
                    rows=1,
                    height=150,
                    allow_preview=False,
                    object_fit="cover",
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
        with gr.Tabs():
            with gr.Tab("Where it looks"):
                look_inputs, look_outputs = _looks(session)
            with gr.Tab("Between zero-shot and fine-tuned"):
                alpha_inputs, alpha_outputs = _alpha(session)
            with gr.Tab("Dimensions a caption opens"):
                captions, show_masks = _masks(session)

        text, *controls = look_inputs
        steps = Steps(session)
        classify = ([photo, names, text], [answers, text])
        look = ([photo, names, text, *controls], look_outputs)
        along = ([photo, names, *alpha_inputs], alpha_outputs)

        def refresh(event: Any) -> None:
            """Answer, then draw the maps, then the curve."""
            done = event.then(steps.classify, *classify, **QUIET)
            done = done.then(steps.look, *look, **QUIET)
            if alpha_inputs:
                done.then(steps.along, *along, **QUIET)

        def pick(event: gr.SelectData) -> tuple[str, str, str]:
            return example_values(examples[event.index])

        starts = gr.on([photo.input, names.submit, ask.click], lambda: None, **QUIET)
        refresh(starts)
        chosen = [photo, names, captions]
        refresh(gallery.select(pick, None, chosen, **QUIET))
        first = page.load(lambda: example_values(examples[0]), None, chosen, **QUIET) if examples else None
        if first is not None:
            refresh(first)
        for control in (text, *controls):
            control.input(steps.look, *look, **QUIET)
        for control in alpha_inputs:
            control.input(steps.along, *along, trigger_mode="always_last", **QUIET)
        show_masks(steps)
    return page


# One call at a time, no entry in an API page, and no spinner that hides the last result.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "models"}


def example_values(example: Example) -> tuple[str, str, str]:
    """Return what an example puts into the photo, the class names and the captions."""
    return str(example.file), ", ".join(example.names), "\n".join(example.captions)


class Steps:
    """Functions behind the controls. They return values for components; invalid input gives a message or nothing."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def classify(self, path: str | None, text: str, chosen: str | None) -> tuple[str, Any]:
        """Return the answers, or a message about invalid input, and the choice among the texts to draw maps of."""
        try:
            if path is None:
                return html.hint(START), gr.update(choices=[], value=None)
            self.session.photo(path)
            names = split_names(text)
            answers = self.session.answers(path, names)
            remarks = self._remarks(path, names)
        except UserError as error:
            return html.problem(str(error)), gr.update(choices=[], value=None)
        best = next((answer.names[0] for answer in answers if answer.names), names[0])
        choice = chosen if chosen in names else best
        return html.answer_bars(answers) + remarks, gr.update(choices=list(names), value=choice)

    def _remarks(self, path: str, names: tuple[str, ...]) -> str:
        remarks = []
        if len(names) == 1:
            remarks.append("One name has no competitors, so its probability is 100 %. Type more names.")
        if self.session.photo(path).cropped:
            remarks.append("The models see the centre of this photo, as large as their input's shape allows.")
        if cut := self.session.cut(names):
            remarks.append(f"{cut} of the names exceed a model's text window; only their beginning was read.")
        return "".join(map(html.hint, remarks))

    def look(
        self,
        path: str | None,
        text: str,
        chosen: str | None,
        structure: str,
        layer: str,
        distinct: bool,
        left: str,
        right: str,
    ) -> tuple[Any, str]:
        """Return the pair of pictures of the slider, and the table of maps."""
        try:
            if path is None:
                return None, ""
            self.session.photo(path)
            names = split_names(text)
        except UserError:  # `classify` has shown the message
            return None, ""
        chosen = chosen if chosen in names else names[0]
        view = MapView(structure, layer, distinct)
        try:
            pair = tuple(self.session.picture(path, side, names, chosen, view) for side in (left, right))
            shown = self._shown(path, names, chosen)
            rows = self.session.map_rows(path, names, shown, view)
        except UserError as error:  # a model without image tokens
            return None, html.problem(str(error))
        return pair, html.map_table(shown, rows)

    def _shown(self, path: str, names: tuple[str, ...], chosen: str) -> list[str]:
        """Return the texts of the table: the chosen one, then the best answers of all models by rank."""
        answers = self.session.answers(path, names)
        ranked = [a.names[rank] for rank in range(TOP) for a in answers if rank < len(a.names)]
        return list(dict.fromkeys((chosen, *ranked, *names)))[:COLUMNS]

    def along(self, path: str | None, text: str, title: str, alpha: float) -> tuple[str, Any]:
        """Return the answers at one alpha, and the curve over all."""
        try:
            if path is None:
                return "", None
            names = split_names(text)
            probabilities = self.session.along(path, title, names)  # [A, C]
        except UserError:
            return "", None
        at = min(range(len(ALPHAS)), key=lambda i: abs(ALPHAS[i] - alpha))
        answer = top(f"{title}, alpha {ALPHAS[at]:.1f}", names, probabilities[at], TOP)
        return html.answer_bars([answer]), curve_figure(names, probabilities, ALPHAS[at])

    def masks(self, title: str, text: str) -> tuple[str, Any]:
        """Return a message, and the figure of the masks of captions."""
        try:
            return "", self.session.masks(title, split_captions(text))
        except UserError as error:
            return html.problem(str(error)), None


def _looks(session: Session) -> tuple[list[Any], list[Any]]:
    """Lay out the maps; returns inputs (the text first) and outputs."""
    titles = [model.title for model in session.models]
    structures = session.structures
    left, right = (titles[0], titles[-1]) if len(titles) > 1 else (PHOTO, titles[0])
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            text = gr.Dropdown([], label="Text", elem_id="text")
            structure = gr.Dropdown(
                [(label, key) for key, label in structures.items()],
                value="dv" if "dv" in structures else next(iter(structures)),
                label="Attention structure",
                elem_id="structure",
            )
            layer = gr.Dropdown(session.layers, value=PUBLISHED, label="Layer", elem_id="layer")
            distinct = gr.Checkbox(label="Subtract what all texts share", elem_id="distinct")
            with gr.Row():
                sides = [
                    gr.Dropdown([PHOTO, *titles], value=value, label=label, min_width=120)
                    for label, value in (("Left of the slider", left), ("Right of the slider", right))
                ]
            gr.HTML(
                html.hint(
                    "Bright is high; each map is scaled to its own range. D-V, V-V-V and others compare the text with "
                    "patch tokens of a second path through the chosen layer; subtracting is that of CLIP Surgery."
                )
            )
        with gr.Column(scale=3, min_width=320):
            slider = gr.ImageSlider(
                label="Left | right",
                interactive=False,
                buttons=["fullscreen"],
                max_height=420,
                elem_id="slider",
            )
    table = gr.HTML(elem_id="maps")
    return [text, structure, layer, distinct, *sides], [slider, table]


def _alpha(session: Session) -> tuple[list[Any], list[Any]]:
    """Lay out the interpolated weights; returns inputs and outputs, both empty if no model has such weights."""
    if not session.paths:
        reasons = "; ".join(f"{title}: {reason}" for title, reason in session.reasons.items())
        gr.HTML(
            html.hint(
                f"No weights to interpolate ({reasons}). Open a fine-tuned run, for example clipalign app runs/mine."
            )
        )
        return [], []
    gr.HTML(
        html.hint(
            "WiSE-FT: the weights of the model are (1 - alpha) zero-shot + alpha fine-tuned. The curve shows at which "
            "alpha the answer changes."
        )
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            run = gr.Dropdown(
                session.paths, value=session.paths[0], label="Run", visible=len(session.paths) > 1
            )
            alpha = gr.Slider(0, 1, 0.5, step=ALPHAS[1], label="alpha", elem_id="alpha", buttons=[])
            bars = gr.HTML(elem_id="along")
        with gr.Column(scale=3, min_width=320):
            curve = gr.Plot(show_label=False, format="png", elem_id="curve")
    return [run, alpha], [bars, curve]


def _masks(session: Session) -> tuple[Any, Callable[[Steps], None]]:
    """Lay out the masks; returns the box of captions, and a function that connects the controls."""
    titles = [model.title for model in session.mask_models]
    captions = gr.Textbox(
        label="Captions, one per line", lines=3, max_lines=8, elem_id="captions", visible=bool(titles)
    )
    if not titles:
        gr.HTML(
            html.hint(
                "None of these models gives a text a mask. Train one with clipalign train --method smartclip --data "
                "pictoscenes, and open its run."
            )
        )
        return captions, lambda steps: None
    with gr.Row():
        model = gr.Dropdown(titles, value=titles[0], label="Model", visible=len(titles) > 1)
        button = gr.Button("Show masks", variant="primary", elem_id="show-masks")
    message = gr.HTML(elem_id="mask-message")
    figure = gr.Plot(show_label=False, format="png", elem_id="masks")

    def connect(steps: Steps) -> None:
        gr.on(
            [button.click, captions.submit, captions.change, model.input],
            steps.masks,
            [model, captions],
            [message, figure],
            trigger_mode="always_last",
            **QUIET,
        )

    return captions, connect
