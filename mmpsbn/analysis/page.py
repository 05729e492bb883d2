"""A view as one self-contained HTML page."""

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from .style import svg_of
from .view import Chart, View

_TEMPLATE = Path(__file__).with_name('page.html')
_WORD_JOINER, _NO_BREAK = '\u2060', '\u00a0'


def render_page(view: View) -> str:
    """The HTML; every string in it is escaped. A section without anything to show is left out."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= dict(prose=_prose, head=_head, breakable=_breakable, svg=_svg)
    return environment.from_string(_TEMPLATE.read_text(encoding='utf-8')).render(view=view)


def _svg(chart: Chart) -> Markup:
    # drawn by us, with what came from outside escaped by matplotlib
    return Markup(svg_of(chart.figure, chart.name))


def _head(label: str) -> str:
    """Broken before a relation and not within, so that columns of small numbers stay narrow."""
    return re.sub(r' ([<=]) ', rf' \1{_NO_BREAK}', label).replace(' %', f'{_NO_BREAK}%')


def _breakable(name: str) -> Markup:
    """The name of a layer or a file, which may be broken between its parts."""
    return Markup(re.sub(r'([./_])', r'\1<wbr>', str(escape(name))))


def _prose(words: str) -> Markup:
    """Sentences with what stands between backticks as code, and without line breaks within |γ| and
    between a number and its unit."""
    words = words.replace('|γ|', f'|{_WORD_JOINER}γ{_WORD_JOINER}|')
    words = words.replace(' M ', f'{_NO_BREAK}M ').replace(' %', f'{_NO_BREAK}%')
    parts = [escape(part) for part in words.split('`')]
    parts[1::2] = [Markup('<code>{}</code>').format(part) for part in parts[1::2]]
    return Markup('').join(parts)
