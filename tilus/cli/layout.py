"""`tilus layout`: draw a layout, say its sizes, and what it takes to get to another one."""

from __future__ import annotations

import argparse
import re
from typing import Any

from tilus.cli.common import UsageError, columns, console, show_json, write
from tilus.layouts import (
    Conversion,
    ConversionKind,
    Layout,
    LayoutError,
    SharedLayout,
    bank_conflicts,
    classify,
    exchange_tile,
    parse_layout,
    parse_shared_layout,
    svg,
    table,
    vector_width,
)
from tilus.layouts.draw import thread_color
from tilus.layouts.layout import indices

LIMIT = 4096  # elements of a tile that is drawn without being asked twice

DESCRIPTION = """\
Draw a layout and say its sizes.

A register layout is a product of spatial(...), local(...), column_spatial(...), column_local(...)
and replicated(...). Each cell of the table shows which thread holds the element, and in which slot:
t5:1 is slot 1 of thread 5. A shared layout is written shared(SHAPE, strides=STRIDES); its table
shows the offset of each element.
"""

EXAMPLES = """\
examples:
  tilus layout "local(2,1)*spatial(8,4)*local(1,2)"
  tilus layout "spatial(8,4)*local(1,2)" --svg picture.svg
  tilus layout "spatial(4,8)" --against "column_spatial(4,8)"
  tilus layout "spatial(8,4)*local(1,16)" --against "shared((8,64), strides=(64,1))" --dtype f16
"""


def add(commands: Any) -> None:
    """Add the command."""
    p = commands.add_parser(
        "layout", help="draw a layout", description=DESCRIPTION, epilog=EXAMPLES
    )
    p.add_argument("layout", metavar="LAYOUT", help="the text of a layout")
    p.add_argument("--against", metavar="LAYOUT", help="say what the way to this layout takes")
    p.add_argument(
        "--dtype",
        default="f16",
        metavar="TYPE",
        help="type of the elements, for what depends on it with --against (default: f16)",
    )
    p.add_argument("--svg", metavar="FILE", help="write a picture of a register layout")
    p.add_argument("--all", action="store_true", help=f"draw tiles of more than {LIMIT} elements")
    p.add_argument("--json", action="store_true", help="print the facts as JSON, and no table")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    layout = read(args.layout)
    if args.svg is not None:
        picture(layout, args)
    facts = shared_facts(layout) if isinstance(layout, SharedLayout) else register_facts(layout)
    if args.against is not None:
        way = compare(layout, read(args.against), args.dtype)
        if args.json:
            show_json({**facts, "against": way})
        else:
            print(columns((_words(name), _text(fact)) for name, fact in way.items()))
    elif args.json:
        show_json(facts)
    else:
        draw(layout, args.all)
        print()
        print(columns((_words(name), _text(fact)) for name, fact in facts.items()))
    return 0


def _words(name: str) -> str:
    return name.replace("_", " ")


def picture(layout: Layout | SharedLayout, args: argparse.Namespace) -> None:
    """Write the SVG."""
    if isinstance(layout, SharedLayout):
        raise UsageError("--svg draws register layouts; this is a shared layout")
    if layout.size > LIMIT and not args.all:
        raise UsageError(f"the tile has {layout.size} elements; --all draws it all the same")
    write(args.svg, svg(layout))


def read(text: str) -> Layout | SharedLayout:
    """The layout of a text."""
    try:
        if text.lstrip().startswith("shared"):
            return parse_shared_layout(text)
        return parse_layout(text)
    except LayoutError as e:
        raise UsageError(str(e)) from None


def register_facts(layout: Layout) -> dict[str, Any]:
    """The sizes of a register layout, and its two ways to be written."""
    modes, spatial, local = map(_text, (layout.modes, layout.spatial, layout.local))
    return {
        "shape": layout.shape,
        "threads": layout.num_threads,
        "slots": layout.num_slots,
        "replication": layout.replication,
        "canonical_form": str(layout),
        "general_form": f"layout({_text(layout.shape)}, modes={modes}, "
        f"spatial={spatial}, local={local})",
    }


def shared_facts(layout: SharedLayout) -> dict[str, Any]:
    """The sizes of a shared layout."""
    return {
        "shape": layout.shape,
        "elements": layout.size,
        "cosize": layout.cosize,
        "alignment": layout.alignment,
        "injective": layout.is_injective,
        "canonical_form": str(layout),
    }


def _text(fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return re.sub(r"\s", "", str(fact)) if isinstance(fact, tuple) else str(fact)


def draw(layout: Layout | SharedLayout, large: bool) -> None:
    """Print the table; on a terminal each thread has its colour."""
    if layout.size > LIMIT and not large:
        print(f"{layout}\n\n(no table: the tile has {layout.size} elements; --all draws it)")
        return
    out = console()
    text = offsets(layout) if isinstance(layout, SharedLayout) else table(layout)
    if isinstance(layout, SharedLayout) or not out.is_terminal:
        print(text)
        return
    from rich.text import Text

    head, _, body = text.partition("\n\n")
    styled = Text(body)
    for cell in re.finditer(r"\bt(\d+)[t\d,.]*:\d+", body):
        color = thread_color(int(cell[1]), layout.num_threads)
        styled.stylize(f"#20242c on {color}", *cell.span())
    out.print(head + "\n")
    out.print(styled)


def offsets(layout: SharedLayout) -> str:
    """A table of the offset of each element; the columns are the last dimension."""
    rows = [["", *map(str, range(layout.shape[-1] if layout.shape else 1))]]
    for outer in indices(layout.shape[:-1]):
        inner = [(*outer, i) for i in range(layout.shape[-1])] if layout.shape else [()]
        rows.append([",".join(map(str, outer)), *(str(layout.offset(index)) for index in inner)])
    edge = max(len(row[0]) for row in rows)
    width = max(len(cell) for row in rows for cell in row[1:])
    lines = ["  ".join([row[0].rjust(edge), *(c.rjust(width) for c in row[1:])]) for row in rows]
    return f"{layout}\n\n" + "\n".join(lines)


def compare(
    layout: Layout | SharedLayout, other: Layout | SharedLayout, dtype: str
) -> dict[str, Any]:
    """What it takes to bring a tile from one layout to another, or to and from shared memory."""
    from tilus.dtypes import dtype as find_dtype

    try:
        bits = find_dtype(dtype).bits
        if isinstance(layout, Layout) and isinstance(other, Layout):
            return _conversion(classify(layout, other), bits)
        if isinstance(layout, Layout) and isinstance(other, SharedLayout):
            return _access(layout, other, bits)
        if isinstance(layout, SharedLayout) and isinstance(other, Layout):
            return _access(other, layout, bits)
    except ValueError as e:  # also a LayoutError
        raise UsageError(str(e)) from None
    raise UsageError("two shared layouts cannot be compared; one of the two must be in registers")


def _conversion(c: Conversion, bits: int) -> dict[str, Any]:
    found: dict[str, Any] = {"from": str(c.src), "to": str(c.dst), "conversion": c.kind.value}
    match c.kind:
        case ConversionKind.RENAME:
            order = ", ".join(map(str, c.slots))
            found["meaning"] = "free: every thread already holds what it needs"
            found["source_slots"] = order
        case ConversionKind.SHUFFLE:
            found["meaning"] = "elements move between the threads of a warp"
            if not c.crosses_lanes:
                found["meaning"] = "each thread selects among its own slots"
            found["shuffles"] = c.num_shuffles
        case ConversionKind.SHARED:
            tile = exchange_tile(c.src, c.dst, bits)
            found["meaning"] = "elements cross warps, so the tile goes through shared memory"
            found["shared_tile"] = str(tile)
            found["rounds_writing"] = bank_conflicts(c.src, tile, bits)
            found["rounds_reading"] = bank_conflicts(c.dst, tile, bits)
    return found


def _access(layout: Layout, shared: SharedLayout, bits: int) -> dict[str, Any]:
    width = vector_width(layout, shared, bits)
    degree = bank_conflicts(layout, shared, bits)
    return {
        "registers": str(layout),
        "shared": str(shared),
        "elements_an_access": width,
        "bits_an_access": width * bits,
        "rounds_an_access": degree,
        "meaning": "no bank conflicts"
        if degree == 1
        else f"bank conflicts: the worst access takes {degree} rounds",
    }
