"""HTML of the page: notices, answers as bars, maps side by side. Every text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from ..explain.figures import shorten
from .answers import Answer
from .models import PageModel
from .session import MapRow

THUMBNAIL = 176  # pixels

# Gradio's variables, so that the page follows light and dark themes.
CSS = """
.notice, .problem { border-radius: 8px; padding: 8px 12px; margin: 0; line-height: 1.45; }
.notice { background: #fff4d6; color: #4d3800; }
.problem { background: #fde7e4; color: #8a1c12; }
.hint { color: var(--body-text-color-subdued); margin: 0; }
.answers { display: flex; flex-wrap: wrap; gap: 16px; }
.answer { flex: 1 1 240px; min-width: 0; max-width: 420px; }
.answer h3, .maps th { font-size: 14px; font-weight: 600; margin: 0 0 6px; overflow-wrap: anywhere; }
.bar { position: relative; height: 26px; margin: 3px 0; border-radius: 4px; overflow: hidden;
       background: var(--background-fill-secondary); }
.bar i { position: absolute; inset: 0 auto 0 0; background: #56b4e9; opacity: .55; border-radius: 4px; }
.bar span { position: relative; display: flex; justify-content: space-between; gap: 8px; padding: 0 8px;
            line-height: 26px; font-size: 14px; color: var(--body-text-color); }
.bar span b { font-weight: inherit; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar:first-of-type b { font-weight: 600; }
.bar em { font-style: normal; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.maps { border-collapse: collapse; width: auto; }
.maps, .maps tr, .maps th, .maps td { border: none !important; }
#examples .thumbnail-item { min-width: 0; }
#examples, #examples .grid-wrap, #examples .gallery-container, #examples .wrap { height: auto !important;
       min-height: 0 !important; max-height: none !important; }
.maps th { padding: 4px 8px 4px 0; text-align: left; max-width: 150px; }
.maps td { padding: 3px; }
.maps img { display: block; width: 132px; max-width: none; border-radius: 4px; }
"""


def notice(models: Sequence[PageModel]) -> str:
    """Return a warning if a model knows drawings only, else nothing."""
    if not any(model.drawings_only for model in models):
        return ""
    return (
        '<p class="notice" role="note"><b>The pocket model knows drawings only.</b> It was pre-trained on pictograms '
        "of about 250 things; its answers about photographs mean nothing. For photographs, start the page with an "
        "open_clip backbone, or a run of one: <code>clipalign app ViT-B-16:openai</code>.</p>"
    )


def problem(text: str) -> str:
    """Return a message about invalid input; nothing for an empty text."""
    return f'<p class="problem" role="alert">{escape(text)}</p>' if text else ""


def hint(text: str) -> str:
    """Return a remark in grey; nothing for an empty text."""
    return f'<p class="hint">{escape(text)}</p>' if text else ""


def answer_bars(answers: Iterable[Answer]) -> str:
    """Return one block of bars per answer, side by side."""
    return f'<div class="answers">{"".join(map(_answer, answers))}</div>'


def _answer(answer: Answer) -> str:
    if answer.problem:
        body = hint(f"Cannot score these names: {answer.problem}")
    else:
        body = "".join(map(_bar, answer.names, answer.probabilities))
    return f'<div class="answer"><h3>{escape(answer.title)}</h3>{body}</div>'


def _bar(name: str, probability: float) -> str:
    percent = 100 * probability
    return (
        f'<div class="bar"><i style="width:{percent:.1f}%"></i><span><b title="{escape(name)}">{escape(name)}</b>'
        f"<em>{percent:.1f} %</em></span></div>"
    )


def map_table(texts: Sequence[str], rows: Sequence[MapRow]) -> str:
    """Return a table of maps: a row per model, a column per text."""
    head = "".join(f'<th title="{escape(text)}">{escape(shorten(text, 20))}</th>' for text in texts)
    body = "".join(
        f"<tr><th>{escape(row.title)}</th>{''.join(map(_picture, row.pictures, texts))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table class="maps"><tr><th></th>{head}</tr>{body}</table></div>'


def _picture(pixels: np.ndarray, text: str) -> str:
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<td><img alt="map of {escape(text)}" src="data:image/jpeg;base64,{data}"></td>'
