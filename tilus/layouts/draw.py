"""Pictures of register layouts: who holds which element, for the terminal and as SVG.

Each cell of the tile names its threads and the slot in them, ``t5:0``; an element that several
threads hold names them all.  One dimension is wrapped into rows of 16, three and more are drawn as
a series of slices.  The text is stable, so that pictures can be kept as golden files::

    >>> from tilus.layouts import *
    >>> print(table(local(2, 1) * spatial(2, 2) * local(1, 2)))
    local(2,1)*spatial(2,2)*local(1,2)
    shape (4, 4), 4 threads, 4 slots each
    <BLANKLINE>
          0     1     2     3
    0  t0:0  t0:1  t1:0  t1:1
    1  t2:0  t2:1  t3:0  t3:1
    2  t0:2  t0:3  t1:2  t1:3
    3  t2:2  t2:3  t3:2  t3:3

Law: the cell at index i shows exactly ``threads(i)`` and ``slot(i)`` (many threads as a range).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from colorsys import hls_to_rgb
from itertools import pairwise
from typing import NamedTuple

from tilus.layouts.layout import Layout, indices

WRAP = 16  # columns in which a tile of one dimension is drawn


class _Panel(NamedTuple):
    """One grid of a picture: the indices of its cells with what to write beside them."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[int, ...]]]]


def _panels(layout: Layout) -> Iterator[_Panel]:
    shape = layout.shape
    if layout.rank <= 1:
        extent = layout.size
        rows: list[tuple[str, list[tuple[int, ...]]]] = []
        for start in range(0, extent, WRAP):
            stop = min(extent, start + WRAP)
            cells: list[tuple[int, ...]] = [(i,) if layout.rank else () for i in range(start, stop)]
            rows.append((str(start), cells))
        yield _Panel("", [str(j) for j in range(min(extent, WRAP))], rows)
        return
    for outer in indices(shape[:-2]):
        yield _Panel(
            f"[{', '.join([*map(str, outer), ':', ':'])}]" if outer else "",
            [str(j) for j in range(shape[-1])],
            [(str(i), [(*outer, i, j) for j in range(shape[-1])]) for i in range(shape[-2])],
        )


def threads_text(threads: Sequence[int]) -> str:
    """The threads in few letters: a progression, up to four threads or ranges, or the ends.

    >>> [threads_text(t) for t in ((5,), (5, 37), (0, 1, 2), (0, 4, 8, 12), (0, 1, 4, 5))]
    ['t5', 't5,t37', 't0..t2', 't0,t4..t12', 't0,t1,t4,t5']
    >>> threads_text((0, 1, 2, 24, 25, 26)), threads_text((0, 1, 4, 5, 8, 9))
    ('t0..t2,t24..t26', 't0,t1,...,t9')
    """
    steps = {b - a for a, b in pairwise(threads)}
    if len(threads) > 2 and len(steps) == 1 and steps != {1}:
        return f"t{threads[0]},t{threads[1]}..t{threads[-1]}"
    runs: list[list[int]] = []
    for thread in threads:
        if runs and thread == runs[-1][-1] + 1:
            runs[-1].append(thread)
        else:
            runs.append([thread])
    parts: list[str] = []
    for run in runs:
        parts += [f"t{run[0]}..t{run[-1]}"] if len(run) > 2 else [f"t{thread}" for thread in run]
    if len(parts) > 4:
        parts[2:-1] = ["..."]
    return ",".join(parts)


def legend(layout: Layout) -> str:
    """The sizes of a layout in one line.

    >>> from tilus.layouts import *
    >>> legend(spatial(4) * replicated(2))
    'shape (4,), 8 threads, 1 slot each, each element held by 2 threads'
    """
    threads, slots = layout.num_threads, layout.num_slots
    text = f"shape {layout.shape}, {_count(threads, 'thread')}, {_count(slots, 'slot')} each"
    if layout.is_replicated:
        text += f", each element held by {layout.replication} threads"
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# -- terminal ----------------------------------------------------------------------------------


def table(layout: Layout) -> str:
    """The layout as a table of ``thread:slot`` cells, under its text and its sizes."""
    parts = [f"{layout}\n{legend(layout)}"]
    for panel in _panels(layout):
        cells = [["", *panel.columns]]
        for label, row in panel.rows:
            cells.append([label, *(_cell(layout, index) for index in row)])
        edge = max(len(line[0]) for line in cells)
        width = max(len(cell) for line in cells for cell in line[1:])
        lines = [
            "  ".join([line[0].rjust(edge), *(cell.rjust(width) for cell in line[1:])])
            for line in cells
        ]
        parts.append("\n".join([panel.title, *lines] if panel.title else lines))
    return "\n\n".join(parts)


def _cell(layout: Layout, index: tuple[int, ...]) -> str:
    return f"{threads_text(layout.threads(index))}:{layout.slot(index)}"


# -- SVG ---------------------------------------------------------------------------------------

_HEIGHT = 34  # of a cell
_LETTER = 7.4  # the width of a letter of a cell
_MARGIN = 24
_STRIPES = 4  # at most so many owners show their colours in one cell
_CHIPS = 64  # at most so many threads have a chip in the key
_LINE = 1400  # panels stand side by side up to this width

_STYLE = """
  text { font-family: 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #20242c; }
  .title { font-size: 16px; font-weight: bold; }
  .note, .panel { font-size: 12px; fill: #5b6270; }
  .cells, .chips { font-size: 12px; text-anchor: middle; }
  .slot { font-size: 10px; fill: #4a505c; }
  .rows { font-size: 11px; text-anchor: end; fill: #8a909c; }
  .columns { font-size: 11px; text-anchor: middle; fill: #8a909c; }
  .grid { stroke: #ffffff; stroke-width: 1; fill: none; }
"""


def svg(layout: Layout) -> str:
    """The layout as an SVG picture: a colour for each thread, its number above the slot's.

    >>> from tilus.layouts import *
    >>> svg(spatial(8, 4) * local(1, 2)).splitlines()[-1]
    '</svg>'
    """
    owners = {index: layout.threads(index) for index in layout.indices()}
    longest = max(len(threads_text(threads)) for threads in owners.values())
    width = max(38, round(longest * _LETTER) + 10)
    body: list[str] = []
    boxes: dict[int, list[str]] = defaultdict(list)
    x, y, bottom, right = _MARGIN, 70, 70, 360
    for panel in _panels(layout):
        across, down = len(panel.columns) * width + 40, len(panel.rows) * _HEIGHT + 44
        if x > _MARGIN and x + across > _LINE:
            x, y = _MARGIN, bottom
        body += _draw_panel(layout, panel, x + 28, y + 30, width, owners, boxes)
        x += across + 12
        bottom, right = max(bottom, y + down), max(right, x)
    key, key_right, bottom = _draw_key(layout, bottom + 8, boxes)
    colors = [
        f'<path fill="{thread_color(thread, layout.num_threads)}" d="{"".join(d)}"/>'
        for thread, d in sorted(boxes.items())
    ]
    title, sizes = str(layout), legend(layout)
    right = max(right, key_right, round(_MARGIN * 2 + max(len(title) * 9.8, len(sizes) * _LETTER)))
    bottom += _MARGIN - 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{right}" height="{bottom}" '
            f'viewBox="0 0 {right} {bottom}">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            f'<text class="title" x="{_MARGIN}" y="36">{title}</text>',
            f'<text class="note" x="{_MARGIN}" y="58">{sizes}</text>',
            *colors,
            *body,
            *key,
            "</svg>",
        ]
    )


def _draw_panel(
    layout: Layout,
    panel: _Panel,
    left: int,
    top: int,
    width: int,
    owners: dict[tuple[int, ...], tuple[int, ...]],
    boxes: dict[int, list[str]],
) -> list[str]:
    """The texts of one grid; its coloured boxes are added to ``boxes``."""
    texts: list[str] = []
    if panel.title:
        texts.append(f'<text class="panel" x="{left}" y="{top - 22}">{panel.title}</text>')
    across, down = len(panel.columns) * width, len(panel.rows) * _HEIGHT
    lines = [f"M{left} {top + i * _HEIGHT}h{across}" for i in range(len(panel.rows) + 1)]
    lines += [f"M{left + j * width} {top}v{down}" for j in range(len(panel.columns) + 1)]
    texts.append(f'<path class="grid" d="{"".join(lines)}"/>')
    texts.append('<g class="columns">')
    for j, column in enumerate(panel.columns):
        texts.append(f'<text x="{left + j * width + width // 2}" y="{top - 6}">{column}</text>')
    texts.append('</g><g class="rows">')
    for i, (label, _) in enumerate(panel.rows):
        texts.append(f'<text x="{left - 7}" y="{top + i * _HEIGHT + 21}">{label}</text>')
    texts.append('</g><g class="cells">')
    for i, (_, row) in enumerate(panel.rows):
        y = top + i * _HEIGHT
        for j, index in enumerate(row):
            x, threads = left + j * width, owners[index]
            shown = threads[:_STRIPES]
            for k, thread in enumerate(shown):
                start, stop = k * width // len(shown), (k + 1) * width // len(shown)
                boxes[thread].append(f"M{x + start} {y}h{stop - start}v{_HEIGHT}h{start - stop}z")
            middle = x + width // 2
            texts.append(
                f'<text x="{middle}" y="{y + 15}">{threads_text(threads)}'
                f'<tspan class="slot" x="{middle}" dy="13">{layout.slot(index)}</tspan></text>'
            )
    texts.append("</g>")
    return texts


def _draw_key(layout: Layout, top: int, boxes: dict[int, list[str]]) -> tuple[list[str], int, int]:
    """What the signs mean, a chip for each thread where they are few; its right and lower edges."""
    meaning = "in a cell: t = thread, below it the slot"
    texts = [f'<text class="note" x="{_MARGIN}" y="{top + 12}">{meaning}</text>']
    top += 24
    if layout.num_threads > _CHIPS:
        return texts, 0, top
    texts.append('<g class="chips">')
    for thread in range(layout.num_threads):
        x, y = _MARGIN + thread % WRAP * 38, top + thread // WRAP * 24
        boxes[thread].append(f"M{x} {y}h36v22h-36z")
        texts.append(f'<text x="{x + 18}" y="{y + 15}">t{thread}</text>')
    texts.append("</g>")
    right = 2 * _MARGIN + min(layout.num_threads, WRAP) * 38
    return texts, right, top + -(-layout.num_threads // WRAP) * 24


def thread_color(thread: int, num_threads: int) -> str:
    """A light colour: one hue for four neighbours, which differ in lightness.

    Neighbouring groups lie an eighth of the circle apart; later rounds fall between earlier ones.

    >>> thread_color(0, 32), thread_color(31, 32)
    ('#f6c8c8', '#dd83c6')
    """
    group, member = divmod(thread, 4)
    rounds = -(-num_threads // 32)
    hue = (group % 8 + group // 8 / rounds) / 8
    rgb = hls_to_rgb(hue, (0.875, 0.81, 0.745, 0.69)[member], (0.72, 0.68, 0.62, 0.57)[member])
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)
