"""Self-contained HTML pages out of the templates beside this file."""

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from .style import svg_of

_WORD_JOINER, _NO_BREAK = '\u2060', '\u00a0'


def render_page(template: str, **content) -> str:
    """The HTML of a template; every string in the content is escaped. ``figures`` are the pictures
    by name, None where there is none; the same picture of the same name is the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(prose=_prose, head=_head, breakable=_breakable, svg=_svg)
    return environment.get_template(template).render(content)


def _svg(figure: Figure, name: str) -> Markup:
    # drawn by us, with what came from outside escaped by matplotlib
    return Markup(svg_of(figure, name))


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
