"""Text that is not a layout, and where the caret stands."""

import pytest

from tilus.layouts import (
    Layout,
    LayoutSyntaxError,
    SharedLayout,
    Swizzle,
    empty,
    local,
    parse_layout,
    parse_shared_layout,
    spatial,
)


def bad(text_and_caret):
    """Split ``"text\\n    ^"`` into the text and the caret's place."""
    text, caret = text_and_caret.split("\n")
    return text, caret.index("^")


LAYOUTS = [
    ("\n^", "expected one of spatial, local,"),
    ("spatial\n       ^", "expected '(' but found the end"),
    ("spatial(4\n         ^", "expected ',' or ')' but found the end"),
    ("spatial(4,)\n          ^", "expected a number but found ')'"),
    ("spatial(4)*\n           ^", "expected one of"),
    ("spatial(4) local(2)\n           ^", "expected the end but found 'local'"),
    ("spatial(4)*lokal(2)\n           ^", "but found 'lokal'"),
    ("spatial(4)*2\n           ^", "but found '2'"),
    ("spatial(4.5)\n         ^", "unknown character '.'"),
    ("spatial(0)\n^", "must be >= 1"),
    ("spatial(2)*spatial(-2)\n           ^", "must be >= 1"),
    ("replicated(2,2)\n^", "replicated takes one number"),
    ("replicated(0)\n^", "a tile is held at least once"),
    ("empty()\n     ^", "expected the end but found '('"),
    ("(spatial(4))\n^", "expected one of"),
    ("layout((4), modes=((4,),), spatial=(0,), local=())\n         ^", "one element: '(n,)'"),
    ("layout((4,), mode=((4,),), spatial=(0,), local=())\n             ^", "expected 'modes'"),
    ("layout((4,), modes=((4,),), spatial=(), local=())\n^", "stands in neither list"),
    ("layout((4,), modes=(4,), spatial=(0,), local=())\n                    ^", "expected '('"),
]

SHARED = [
    ("spatial(4)\n^", "expected 'shared' but found 'spatial'"),
    ("shared((4,), strides=(1))\n                       ^", "one element"),
    ("shared((4,), strides=(1,1))\n^", "need as many strides"),
    ("shared((4,4), strides=(4,1), swizzle=(1,0))\n                             ^", "(bits,base,"),
    ("shared((4,4), strides=(4,1), swizzle=(1,0,0))\n^", "shift >= 1"),
    ("shared((4,4), strides=(4,1)) x\n                             ^", "expected the end"),
]


@pytest.mark.parametrize(("case", "message"), LAYOUTS)
def test_layout_errors_point_at_their_place(case, message):
    check(parse_layout, *bad(case), message)


@pytest.mark.parametrize(("case", "message"), SHARED)
def test_shared_errors_point_at_their_place(case, message):
    check(parse_shared_layout, *bad(case), message)


def check(parse, text, position, message):
    with pytest.raises(LayoutSyntaxError) as error:
        parse(text)
    assert message in str(error.value)
    assert (error.value.text, error.value.position) == (text, position)
    *_, shown, caret = str(error.value).split("\n")
    assert shown == f"  {text}" and caret.index("^") == 2 + position


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (empty, "empty"),
        (local(1, 1), "local(1,1)"),
        (spatial(4), "spatial(4)"),
        (Layout((1, 1), ((), ()), (-2,), ()), "replicated(2)*local(1,1)"),
        (
            Layout((16, 8), ((2, 8), (4, 2)), (1, 2), (3, 0)),
            "layout((16,8), modes=((2,8),(4,2)), spatial=(1,2), local=(3,0))",
        ),
    ],
)
def test_text_of_layouts(layout, text):
    assert str(layout) == repr(layout) == text and parse_layout(text) == layout


@pytest.mark.parametrize(
    ("shared", "text"),
    [
        (SharedLayout.row_major(16, 64), "shared((16,64), strides=(64,1))"),
        (
            SharedLayout.row_major(16, 64).with_swizzle(Swizzle(3, 3, 3)),
            "shared((16,64), strides=(64,1), swizzle=(3,3,3))",
        ),
        (SharedLayout.column_major(1, 4), "shared((1,4), strides=(0,1))"),
        (
            SharedLayout((16, 64), ((16,), (2, 32)), (32, 512, 1)),
            "shared((16,64), modes=((16,),(2,32)), strides=(32,512,1))",
        ),
        (SharedLayout.row_major(), "shared((), strides=())"),
    ],
)
def test_text_of_shared_layouts(shared, text):
    assert str(shared) == repr(shared) == text and parse_shared_layout(text) == shared


def test_white_space_is_free():
    assert parse_layout("\n local ( 2 , 1 )\t* spatial(8,4)\n") == local(2, 1) * spatial(8, 4)
    with pytest.raises(LayoutSyntaxError) as error:
        parse_layout("local(2)\n*\tx")
    assert str(error.value).split("\n")[1:] == ["  local(2) * x", "             ^"]
