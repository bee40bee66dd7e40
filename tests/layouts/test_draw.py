"""Pictures: golden tables, and SVG that is well formed and says the same."""

from xml.etree import ElementTree

import pytest

from tests.layouts.strategies import holders
from tilus.layouts import MATRIX, MATRIX_COPY, parse_layout, reduce
from tilus.layouts.draw import svg, table, thread_color

PICTURES = {
    "product": parse_layout("local(2,1)*spatial(2,2)*local(1,2)"),
    "mma_m16n8k16_f16_a": MATRIX["mma.m16n8k16.f16"].a,
    "mma_m16n8k16_f16_b": MATRIX["mma.m16n8k16.f16"].b,
    "mma_m16n8k16_f16_c": MATRIX["mma.m16n8k16.f16"].c,
    "mma_m16n8k32_s8_b": MATRIX["mma.m16n8k32.s8"].b,
    "ldmatrix_x4_rows": MATRIX_COPY["ldmatrix.x4"].rows,
    "vpdpbusd_b": MATRIX["vpdpbusd.m1n16k4"].b,
    "row_sum": reduce(MATRIX["mma.m16n8k16.f16"].c, 1, keepdims=True),
    "replicated": parse_layout("replicated(2)*spatial(4,2)*replicated(3)*local(1,2)"),
    "many_replicas": parse_layout(
        "replicated(2)*spatial(2)*replicated(2)*spatial(2)*replicated(2)"
    ),
    "one_dimension": parse_layout("spatial(12)*local(4)"),
    "three_dimensions": parse_layout("local(2,1,1)*column_spatial(1,3,4)"),
    "single": parse_layout("empty"),
    "general": parse_layout("layout((4,6), modes=((2,2),(3,2)), spatial=(1,2), local=(3,0))"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_tables(name, golden):
    golden(f"layouts/{name}.txt", table(PICTURES[name]) + "\n")


@pytest.mark.parametrize("name", PICTURES)
def test_svg_shows_the_same(name):
    layout = PICTURES[name]
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(svg(layout))
    shown = root.findall(f"{space}g[@class='cells']/{space}text")
    assert len(shown) == layout.size
    slots = [int(text.find(f"{space}tspan").text) for text in shown]
    assert slots == [next(iter(places))[1] for _, places in sorted(holders(layout).items())]
    # As many boxes of a thread's colour as elements it holds (and one in the key).
    fills = [p.get("d").count("M") for p in root.iterfind(f"{space}path") if p.get("fill")]
    if layout.replication <= 4:
        assert fills == [layout.num_slots + 1] * layout.num_threads
    # Nothing is drawn outside.
    width, height = int(root.get("width")), int(root.get("height"))
    for text in root.iter(f"{space}text"):
        assert 0 < int(text.get("x")) < width and 0 < int(text.get("y")) < height


def test_many_threads_have_no_key():
    picture = svg(parse_layout("spatial(16,8)*local(4,8)"))
    assert 'chips">' not in picture and picture.count("<tspan") == 64 * 64


def test_colours_differ():
    for threads in (1, 4, 32, 64, 256):
        assert len({thread_color(t, threads) for t in range(threads)}) == threads
