"""The layout algebra: who holds which element of a tile, and where it lies in memory."""

if __name__ != "tilus.layouts":
    raise ImportError(f"import this package as tilus.layouts, not as {__name__}")

from tilus.layouts.access import Memory, MultipleOf, contiguous_run, vector_width
from tilus.layouts.algebra import (
    broadcast,
    concat,
    divide_left,
    divide_right,
    expand,
    join,
    owns,
    permute,
    reduce,
    reshape,
    slice_,
    squeeze,
    unsqueeze,
)
from tilus.layouts.atoms import MATRIX, MATRIX_COPY, MatrixCopy, MatrixLayouts, wgmma_a, wgmma_c
from tilus.layouts.banks import bank_conflicts, find_swizzle
from tilus.layouts.conversion import Conversion, ConversionKind, Term, classify
from tilus.layouts.draw import svg, table
from tilus.layouts.exchange import exchange_tile
from tilus.layouts.layout import (
    Layout,
    LayoutError,
    column_local,
    column_spatial,
    empty,
    local,
    replicated,
    spatial,
)
from tilus.layouts.linear import (
    BitMatrix,
    LinearLayout,
    from_linear,
    is_linear,
    shared_to_linear,
    to_linear,
)
from tilus.layouts.swizzle import SharedLayout, Swizzle
from tilus.layouts.text import LayoutSyntaxError, parse_layout, parse_shared_layout

__all__ = [
    "MATRIX",
    "MATRIX_COPY",
    "BitMatrix",
    "Conversion",
    "ConversionKind",
    "Layout",
    "LayoutError",
    "LayoutSyntaxError",
    "LinearLayout",
    "MatrixCopy",
    "MatrixLayouts",
    "Memory",
    "MultipleOf",
    "SharedLayout",
    "Swizzle",
    "Term",
    "bank_conflicts",
    "broadcast",
    "classify",
    "column_local",
    "column_spatial",
    "concat",
    "contiguous_run",
    "divide_left",
    "divide_right",
    "empty",
    "exchange_tile",
    "expand",
    "find_swizzle",
    "from_linear",
    "is_linear",
    "join",
    "local",
    "owns",
    "parse_layout",
    "parse_shared_layout",
    "permute",
    "reduce",
    "replicated",
    "reshape",
    "shared_to_linear",
    "slice_",
    "spatial",
    "squeeze",
    "svg",
    "table",
    "to_linear",
    "unsqueeze",
    "vector_width",
    "wgmma_a",
    "wgmma_c",
]
