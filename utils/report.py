"""One HTML page that needs nothing but itself: tables and pictures, no script. Ours."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

STYLE = """
:root { color-scheme: light; --ink: #18181b; --faint: #71717a; --line: #e4e4e7; --soft: #fafafa; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1180px;
  margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.sub, figcaption, td.note { color: var(--faint); } p.sub { margin: .2rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; background: var(--soft); }
th:first-child, td:first-child, table.facts td { text-align: left; white-space: nowrap; }
figure { margin: .8rem 0; } img { max-width: 100%; border: 1px solid var(--line); }
.scroll { overflow-x: auto; } code { background: var(--soft); padding: 0 .25rem; }
"""


def html_page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """The page. `sections` are headings and their HTML, of the functions below."""
    body = "".join(f"<h2>{escape(heading)}</h2>\n{content}\n" for heading, content in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>\n{body}</body></html>\n'
    )


def html_table(rows: Mapping[str, Mapping[str, Any]], *, columns: Sequence[str]) -> str:
    """One line a row, its name first; numbers to four decimals, a dash where there is none."""
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns))
    lines = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{escape(_cell(row.get(column)))}</td>" for column in columns)
        + "</tr>\n"
        for name, row in rows.items()
    )
    return f'<div class="scroll"><table><tr>{head}</tr>\n{lines}</table></div>'


def html_pairs(values: Mapping[str, Any]) -> str:
    """Names and values, two columns."""
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_cell(value))}</td></tr>"
        for name, value in values.items()
    )
    return f'<div class="scroll"><table class="facts">{lines}</table></div>'


def html_picture(
    picture: Image.Image, caption: str = "", *, photo: bool = False, width_px: int | None = None
) -> str:
    """A picture within the page: PNG, or JPEG for a `photo`, which is a tenth of the size.

    `width_px` is the width on the screen; None is that of the picture, or of the page.
    """
    buffer = io.BytesIO()
    picture.save(buffer, **({"format": "JPEG", "quality": 88} if photo else {"format": "PNG"}))
    kind = "jpeg" if photo else "png"
    data = base64.b64encode(buffer.getvalue()).decode()
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = f"data:image/{kind};base64,{data}"
    width = f' width="{width_px}"' if width_px else ""
    return f'<figure><img alt="{escape(caption)}" src="{source}"{width}>{words}</figure>'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
