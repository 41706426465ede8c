"""The HTML of the page: attention over words, over a sentence, over a picture, a piano roll.

Text of users and models is always escaped, and no picture comes from elsewhere: all are in the page.
"""

import base64
import html
import io
import urllib.parse
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from apps.image_captioning.pictures import darkened
from apps.music_generation.sound import Note

LIGHT, DARK = (255, 255, 255), (37, 99, 235)


def cell_style(weight: float) -> str:
    """The style of a cell: the darker the more weight, the text always readable."""
    colour = [round(a + (b - a) * min(1.0, max(0.0, weight))) for a, b in zip(LIGHT, DARK)]
    return f"background:rgb({colour[0]},{colour[1]},{colour[2]});color:{'#fff' if weight > 0.45 else '#111'}"


def highlighted_words(pairs: Sequence[tuple[str, float]], unknown: Collection[str] = ()) -> str:
    """The words of a text, each on a background as dark as its relative attention; unknown ones are struck out."""
    largest = max([weight for _, weight in pairs], default=0.0) or 1.0
    words = []
    for word, weight in pairs:
        style = cell_style(weight / largest) + (";text-decoration:line-through" if word in unknown else "")
        title = "unknown to the model" if word in unknown else f"attention {weight:.3f}"
        words.append(f'<span class="word" style="{style}" title="{title}">{html.escape(word)}</span>')
    note = "<p>Words that are struck out are unknown to the model.</p>" if set(unknown) & {word for word, _ in pairs} else ""
    legend = "<p>The darker a word, the more attention it gets.</p>" if words else ""
    return f'{legend}<p class="words">{" ".join(words)}</p>{note}'


MOST_BITS = 14.0  # that a colour tells apart


def surprising_words(pairs: Sequence[tuple[str, float]]) -> str:
    """The tokens of a text, each on a background as dark as its information in bits: how little it was expected."""
    words = [
        f'<span class="word" style="{cell_style(bits / MOST_BITS)}" title="{bits:.1f} bits">{html.escape(word)}</span>'
        for word, bits in pairs
    ]
    if not words:
        return ""
    mean = sum(bits for _, bits in pairs) / len(pairs)
    legend = (
        f"The darker a word, the less it was expected; on average {mean:.1f} bits, as many as {2**mean:,.0f} equal choices take."
    )
    return f'<p>{legend}</p><p class="words">{" ".join(words)}</p>'


def unknown_words(words: Sequence[str]) -> str:
    """A list of unknown words."""
    listed = ", ".join(f"<s>{html.escape(word)}</s>" for word in words)
    return f"<p>Unknown to the model: {listed}</p>" if words else ""


def attention_table(source: Sequence[str], target: Sequence[str], weights: np.ndarray) -> str:
    """A row for each target token, a column for each source token, darker where more attention is."""
    head = "".join(f'<th scope="col"><span>{_token(token)}</span></th>' for token in source)
    rows = []
    for token, row in zip(target, weights):
        cells = [
            f'<td style="{cell_style(weight)}" title="{_token(token)} attends to {_token(other)}: {weight:.2f}"></td>'
            for other, weight in zip(source, row)
        ]
        rows.append(f'<tr><th scope="row">{_token(token)}</th>{"".join(cells)}</tr>')
    caption = "Each row is a token of the translation; the darker, the more attention to that token of the source."
    lines = f"<caption>{caption}</caption><tr><td></td>{head}</tr>{''.join(rows)}"
    return f'<div class="scroll" tabindex="0"><table class="attention">{lines}</table></div>'


def _token(token: str) -> str:
    return html.escape(token.strip() or "␣")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["<tr>" + "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header) + "</tr>"]
    for row in rows:
        cells = [f"{cell:.2f}" if isinstance(cell, float) else html.escape(str(cell)) for cell in row]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="scroll" tabindex="0"><table class="plain">{"".join(lines)}</table></div>'


def attention_maps(image: Any, words: Sequence[str], attention: np.ndarray) -> str:
    """The picture, and for each word what it attended to.

    Args:
        image: of Pillow.
        words: of the caption.
        attention: (words, rows, columns).
    """
    from PIL import Image

    figures = [_figure(image, "")]
    for word, weights in zip(words, attention):
        figures.append(_figure(Image.fromarray(darkened(image, weights)), word.replace("▁", " ").strip()))
    return f'<div class="attention-maps">{"".join(figures)}</div>'


def preview(path: str | None) -> str:
    """An uploaded picture, as the browser shows it."""
    source = f"gradio_api/file={urllib.parse.quote(path or '')}"
    return f'<img class="preview" src="{html.escape(source)}" alt="the picture, if your browser can show it">' if path else ""


def _figure(image: Any, word: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    alternative = html.escape(f"attention of {word!r}" if word else "the picture")
    picture = f'<img src="{_data(file.getvalue(), "image/jpeg")}" alt="{alternative}">'
    return f"<figure>{picture}<figcaption>{html.escape(word) or 'the picture'}</figcaption></figure>"


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def audio_player(wav: bytes) -> str:
    return f'<audio controls autoplay src="{_data(wav, "audio/wav")}" aria-label="the tune"></audio>'


def sheet_music(pages: Sequence[str]) -> str:
    """SVG as a picture: what is in it can't act on the page."""
    return "".join(
        f'<img class="sheet" src="{_data(page.encode(), "image/svg+xml")}" alt="sheet music, page {number}">'
        for number, page in enumerate(pages, start=1)
    )


def download(content: bytes, kind: str, name: str) -> str:
    return f'<a class="download" download="{name}" href="{_data(content, kind)}">{name}</a>'


def piano_roll(notes: Sequence[Note]) -> str:
    """Time to the right, pitch upwards, a line at each C."""
    if not notes:
        return ""
    low, high = min(n.pitch for n in notes) - 2, max(n.pitch for n in notes) + 2
    end = max(n.start_seconds + n.seconds for n in notes)
    width, row = 900.0, 7
    height = (high - low + 1) * row
    lines = [
        f'<line x1="0" x2="{width}" y1="{(high - c + 0.5) * row}" y2="{(high - c + 0.5) * row}" stroke="#bbb"/>'
        f'<text x="2" y="{(high - c) * row}" font-size="9" fill="#555">C{c // 12 - 1}</text>'
        for c in range(low, high + 1)
        if c % 12 == 0
    ]
    for start, seconds, pitch in notes:
        lines.append(
            f'<rect x="{start / end * width:.1f}" y="{(high - pitch) * row}" width="{max(1.5, seconds / end * width - 0.5):.1f}" '
            f'height="{row}" rx="1.5" fill="#2563eb"/>'
        )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}">{"".join(lines)}</svg>'
    picture = _data(svg.encode(), "image/svg+xml")
    return f'<img class="roll" src="{picture}" alt="piano roll: {len(notes)} notes in {end:.0f} seconds">'
