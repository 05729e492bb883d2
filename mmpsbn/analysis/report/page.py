"""The page: from numbers and figures to one self-contained HTML file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from .numbers import collapsed_column
from .snapshot import Settings
from .style import svg_of

_TEMPLATE = Path(__file__).with_name('page.html')
_WORST = 12


@dataclass(frozen=True)
class Picture:
    """A figure with what it is called and what it shows. ``name`` is that of a file."""

    name: str
    title: str
    caption: str
    figure: Figure

    @property
    def svg(self) -> Markup:
        # drawn by us, with what came from outside escaped by matplotlib
        return Markup(svg_of(self.figure, self.name))


@dataclass(frozen=True)
class Head:
    """A column: what stands above it, what that means, and whether it holds text."""

    label: str
    meaning: str = ''
    text: bool = False


@dataclass(frozen=True)
class Row:
    """Cells as they are shown; ``bad`` rows are in red."""

    cells: tuple[str, ...]
    bad: bool = False


@dataclass(frozen=True)
class Table:
    head: tuple[Head, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page after the layers. ``label`` is that of the table, which may be long."""

    title: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    table: Table | None = None
    label: str = ''


def render_page(
    *,
    title: str,
    subtitle: str,
    pictures: Sequence[Picture],
    sections: Sequence[Section],
    summary: Sequence[tuple[str, str]] = (),
    tiles: Sequence[tuple[str, str]] = (),
    layers: Table | None = None,
    worst: Table | None = None,
    glossary: Sequence[tuple[str, str]] = (),
) -> str:
    """The HTML; every string in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_TEMPLATE.read_text(encoding='utf-8')).render(
        title=title,
        subtitle=subtitle,
        pictures=pictures,
        sections=sections,
        summary=summary,
        tiles=tiles,
        layers=layers,
        worst=worst,
        glossary=glossary,
    )


def shown(value: Any) -> str:
    """A number for people: '' for None, thousands for counts, three digits for the others."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ''
    if isinstance(value, str):
        return value
    return f'{value:,}' if isinstance(value, int) else f'{value:.3g}'


def layer_table(rows: Sequence[Mapping[str, Any]], settings: Settings) -> Table:
    """All layers, numbered as in the pictures."""
    columns = _columns(rows, settings)
    return Table(
        (Head('#'), *(head for _, head, _ in columns)),
        tuple(
            Row(
                (str(number), *(show(row[key]) for key, _, show in columns)),
                bad=bool(row['note']),
            )
            for number, row in enumerate(rows, start=1)
        ),
    )


def worst_table(rows: Sequence[Mapping[str, Any]], table: Table, settings: Settings) -> Table:
    """The rows of a table of layers with most idle channels, the worst first."""
    first = collapsed_column(settings.thresholds[0])

    def idle(number: int) -> float:
        row = rows[number]
        return max(row['dead'] or 0, row[first] or 0) / max(row['channels'] or 1, 1)

    order = sorted((n for n in range(len(rows)) if idle(n)), key=idle, reverse=True)[:_WORST]
    return Table(table.head, tuple(table.rows[n] for n in order))


def _columns(rows: Sequence[Mapping[str, Any]], settings: Settings) -> list[tuple]:
    """(key, head, how it is shown) of the columns that hold anything."""
    columns = [('layer', Head('layer', text=True), shown), ('channels', Head('channels'), shown)]
    for threshold in settings.thresholds:
        head = Head(f'collapsed, |γ| < {threshold:g}', 'without those that have not grown')
        columns.append((collapsed_column(threshold), head, shown))
    columns += [
        ('not_grown', Head('not grown', 'below the first threshold since γ began at 0'), shown),
        (
            'perhaps_not_grown',
            Head('perhaps not grown', 'of the collapsed, those that perhaps never grew'),
            shown,
        ),
        ('dead', Head('dead', '0 on all samples'), shown),
        ('mostly_zero', Head('mostly 0', '0 on more than 99 % of what was looked at'), shown),
        (
            'hardly_active',
            Head('Φ < 1 %', 'would pass a ReLU right behind on less than 1 % of normal inputs'),
            shown,
        ),
        ('median_gamma', Head('median |γ|'), shown),
        ('median_bias', Head('median b', 'effective bias'), shown),
        ('median_l1', Head('median ‖w‖₁'), shown),
        ('mean_zero_share', Head('Pr[a = 0]', 'mean over channels'), _percent),
        ('mean_universality', Head('universality', 'mean over channels'), _percent),
        ('macs', Head('MACs, M', 'of the convolution or linear layer'), _millions),
        ('macs_at_stake', Head('at stake, M', 'MACs that idle channels take'), _millions),
        ('note', Head('note', text=True), shown),
    ]
    return [c for c in columns if any(row[c[0]] not in (None, '') for row in rows)]


def _percent(value: float | None) -> str:
    return '' if value is None else f'{100 * value:.1f} %'


def _millions(value: float | None) -> str:
    return '' if value is None else f'{value / 1e6:,.3g}'


def glossary(settings: Settings, macs_of_dead: bool) -> list[tuple[str, str]]:
    return [
        ('γ, b', 'scale and effective bias of a normalisation layer; b is β, with α in psBN.'),
        (
            'collapsed',
            f'|γ| < {settings.thresholds[0]:g}: the filter is scaled to nothing (psBN paper, '
            'section 3.1). Where γ begins at 0, a filter that was never ten times as large has not '
            'grown yet, and not collapsed.',
        ),
        (
            'dead',
            f'max |a| ≤ {settings.eps:g} over all positions of all samples, of what the next '
            'convolution or linear layer reads: after the activation, and in a residual stream '
            'after the addition.',
        ),
        ('mostly 0', 'Pr[a = 0] > 99 % (Frankle et al., section 5).'),
        (
            'universality',
            'share of samples whose largest |a| exceeds a thousandth of the channel’s largest; '
            'selectivity is the rest (Mehta et al., section 3).',
        ),
        (
            'non-trainable region',
            'Φ(b/|γ|) < 1 %: a ReLU right behind passes less than 1 % of a normally distributed '
            'input, so hardly any gradient comes back. Where an addition stands between, as in '
            'the last norm of a residual block, it says less.',
        ),
        (
            'at stake',
            'multiply-accumulates in which '
            + ('dead' if macs_of_dead else 'collapsed')
            + ' channels take part, as inputs and as outputs.',
        ),
    ]
