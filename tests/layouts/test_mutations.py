"""Mistakes, put in one at a time, that the laws must catch.

Each line replaces a piece of one function's source by something slightly wrong and names the law
that must then fail.
"""

import importlib
import inspect
import sys
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.layouts.laws import LAWS

MUTATIONS = [
    # layout.py
    ("layout.merge", "digit.size == 1", "False", "equal_mappings_are_equal"),
    ("layout.merge", "(digit.dim, digit.stride * digit.size)", "()", "equal_mappings_are_equal"),
    ("layout.merge", "digit.dim, digit.stride", "digit.dim, 1", "meaning_is_the_definition"),
    ("layout.cut", "inner % digits[at - 1].size == 0", "inner > 1", "division_undoes_the_product"),
    ("layout.cut", "or digits[at - 1].size % inner", "", "division_finds_products_only"),
    ("layout.cut", "if inner == 1", "if inner <= 2", "division_undoes_the_product"),
    ("layout.Layout.index", "value * stride", "value", "meaning_is_the_definition"),
    ("layout.Layout.index", "reversed(digits)", "digits", "meaning_is_the_definition"),
    ("layout.Layout.threads", "if dim == REPLICA", "if dim < -1", "meaning_is_the_definition"),
    ("layout.Layout.slot", "% size", "", "meaning_is_the_definition"),
    ("layout.Layout.__mul__", "a * b", "b * a if a > 1 else a", "product_is_the_formula"),
    (
        "layout.Layout.__mul__",
        "scale(f.spatial_digits, g.shape) + g.spatial_digits",
        "g.spatial_digits + scale(f.spatial_digits, g.shape)",
        "product_is_the_formula",
    ),
    (
        "layout.Layout.__mul__",
        "scale(f.local_digits, g.shape) + g.local_digits",
        "g.local_digits + scale(f.local_digits, g.shape)",
        "product_is_the_formula",
    ),
    (
        "layout.pad",
        "(1,) * extra + layout.shape",
        "layout.shape + (1,) * extra",
        "product_is_the_formula",
    ),
    # algebra.py
    ("algebra.divide_right", "or locals_[1] != g.local_digits", "", "division_is_sound"),
    ("algebra.divide_right", "spatial[1] != g.spatial_digits or", "", "division_is_sound"),
    (
        "algebra.divide_left",
        "scale(f.local_digits, shape)",
        "f.local_digits",
        "division_undoes_the_product",
    ),
    ("algebra.permute", "{old: new for new", "{new: old for new", "permute_moves_dimensions"),
    (
        "algebra.unsqueeze",
        "dict(enumerate(old))",
        "dict(enumerate(sorted(old)[::-1]))",
        "squeeze_undoes_unsqueeze",
    ),
    (
        "algebra.squeeze",
        "if dim not in dropped",
        "if layout.shape[dim] != 1",
        "squeeze_undoes_unsqueeze",
    ),
    ("algebra.reshape", "merge(", "list(", "reshape_of_a_primitive_is_one"),
    ("algebra._unflatten", "and top % digit.stride", "and False", "reshape_is_sound"),
    ("algebra._unflatten", "pieces[::-1]", "pieces", "reshape_keeps_row_major_order"),
    (
        "algebra.concat",
        "f.spatial_digits + ones.spatial_digits",
        "ones.spatial_digits + f.spatial_digits",
        "concat_appends_dimensions",
    ),
    (
        "algebra.reduce",
        "Digit(d.size, REPLICA, 0) if d.dim in gone else d",
        "d",
        "reduce_leaves_all_who_took_part",
    ),
    (
        "algebra.reduce",
        "else d for d in layout.spatial_digits]",
        "else d for d in sorted(layout.spatial_digits)]",
        "reduce_leaves_all_who_took_part",
    ),
    (
        "algebra.broadcast",
        "local(*grow) * padded",
        "padded * local(*grow)",
        "broadcast_repeats_the_slots",
    ),
    (
        "algebra.join",
        "* layout",
        "* layout if count < 3 else layout * local(*layout.shape)",
        "join_lays_tiles_side_by_side",
    ),
    (
        "algebra._slice_modes",
        "not in layout.local_digits",
        "in ()",
        "slice_is_there_exactly_when_all_keep_the_same_slots",
    ),
    (
        "algebra._slice_modes",
        "or extent % step",
        "",
        "slice_is_there_exactly_when_all_keep_the_same_slots",
    ),
    (
        "algebra.slice_",
        "i + start for",
        "i for",
        "slice_is_there_exactly_when_all_keep_the_same_slots",
    ),
    ("algebra.owns", "digit in held", "True", "owns_compares_the_owners"),
    ("algebra.owns", "if digit.dim != REPLICA", "", "owns_compares_the_owners"),
    (
        "algebra.owns",
        "all(set(b.threads(i)) <=",
        "all(set(b.threads(i)) ==",
        "owns_compares_the_owners",
    ),
    # refine.py, conversion.py
    ("refine._inner", "digit.size % (at // low)", "False", "conversion_is_right_and_cheapest"),
    ("refine.refine", "weight * inner", "weight", "conversion_is_right_and_cheapest"),
    ("refine.refine", "set(thread_cuts)", "set()", "conversion_is_right_and_cheapest"),
    (
        "conversion.classify",
        "term.weight >= warp_size",
        "term.weight > warp_size",
        "conversion_is_right_and_cheapest",
    ),
    (
        "conversion.classify",
        "and not any(t.of_thread for t in slot_terms)",
        "",
        "conversion_is_right_and_cheapest",
    ),
    (
        "conversion.classify",
        "Term(True, d.weight, d.size, d.weight)",
        "Term(True, 1, 1, d.weight)",
        "conversion_is_right_and_cheapest",
    ),
    (
        "conversion._joined",
        "term.divisor * term.size",
        "term.divisor",
        "conversion_is_right_and_cheapest",
    ),
    (
        "conversion._nearest",
        "t // warp_size != thread // warp_size, abs(t - thread)",
        "abs(t - thread)",
        "conversion_is_right_and_cheapest",
    ),
    # swizzle.py
    (
        "swizzle.Swizzle.__call__",
        ">> self.shift",
        ">> self.bits",
        "shared_layout_is_the_definition",
    ),
    ("swizzle.SharedLayout.offset", "% size", "", "shared_layout_is_the_definition"),
    (
        "swizzle.SharedLayout._checked_swizzle",
        "- base - shift",
        "- base - 2 * shift",
        "shared_layout_is_the_definition",
    ),
    (
        "swizzle.SharedLayout.permute",
        "for dim in perm]\n",
        "for dim in range(self.rank)]\n",
        "shared_operations_keep_the_offsets",
    ),
    (
        "swizzle.SharedLayout.prepend",
        "-(-self.cosize // self.alignment) * self.alignment",
        "self.cosize",
        "shared_operations_keep_the_offsets",
    ),
    (
        "swizzle.SharedLayout.unsqueeze",
        "*self.modes[:at], (), *self.modes[at:]",
        "(), *self.modes",
        "shared_operations_keep_the_offsets",
    ),
    (
        "swizzle.SharedLayout.__eq__",
        "or not (self.swizzle or other.swizzle)",
        "or True",
        "shared_layouts_are_equal_as_mappings",
    ),
    # access.py, banks.py, exchange.py
    ("access._fits", "(1 << memory.swizzle.base) % width", "False", "vector_width_is_sound"),
    ("access._fits", "stride % width:", "False:", "vector_width_is_sound"),
    ("access._fits", "step.stride % width == 0", "True", "vector_width_is_sound"),
    (
        "access._steps",
        "top % (digit.stride * inner)",
        "False",
        "vector_width_is_sound_where_sizes_cross",
    ),
    ("access._steps", "or digit.size % inner", "", "vector_width_is_sound_where_sizes_cross"),
    (
        "access._steps",
        "digit.stride // mode.stride",
        "1",
        "vector_width_is_the_largest",
    ),
    ("access._widths", "reversed(sizes)", "sizes", "vector_width_is_the_largest"),
    ("access.contiguous_run", "and d.stride == 1", "", "contiguous_run_is_the_largest"),
    (
        "banks._degree",
        "words[word % banks].add(word)",
        "words[word % banks].add(word % banks)",
        "bank_conflicts_are_counted",
    ),
    ("banks._phases", "phase + lanes]", "]", "bank_conflicts_are_counted"),
    ("banks._phases", "range(0, layout.num_slots, width)", "(0,)", "bank_conflicts_are_counted"),
    (
        "banks.bank_conflicts",
        "max(bank_bits, width * bits)",
        "bank_bits",
        "bank_conflicts_are_proved",
    ),
    ("banks.find_swizzle", "< fewest", "!= fewest", "a_found_swizzle_is_no_worse"),
    (
        "banks._candidates",
        "first = (width - 1).bit_length()",
        "first = 0",
        "a_found_swizzle_is_no_worse",
    ),
    (
        "exchange._placed",
        "Swizzle(len(short),",
        "Swizzle(len(short) // 2,",
        "an_exchange_has_no_conflicts",
    ),
    ("exchange._placed", "[bit for bit in a if bit in b]", "[]", "an_exchange_has_no_conflicts"),
    # linear.py
    ("linear.conflict_degree", "_log2(lanes)", "_log2(lanes) - 1", "bank_conflicts_are_proved"),
    ("linear.to_linear", "stride << low[dim]", "stride", "linear_form_has_the_same_meaning"),
    (
        "linear.from_linear",
        "if column else Digit(2, REPLICA, 0)",
        "if column else Digit(1, REPLICA, 0)",
        "linear_form_has_the_same_meaning",
    ),
    (
        "linear.shared_to_linear",
        "swizzle(column) if swizzle else column",
        "column",
        "shared_matrix_has_the_same_offsets",
    ),
    (
        "linear.BitMatrix.inverse",
        "if k != row and",
        "if k > row and",
        "matrices_invert_and_compose",
    ),
    (
        "linear._echelon",
        "min(column, column ^ vector)",
        "column ^ vector",
        "matrices_invert_and_compose",
    ),
    # text.py, draw.py
    ("text._factors", "digit.stride != innermost", "False", "text_reads_back"),
    ("text._factors", "(after - digit.dim) * step <= 0", "False", "text_reads_back"),
    ("text._factors", "count > 1 or step == 1", "count == 1", "text_is_a_shortest_product"),
    ("text._shortest_product", "< len(best[to])", "> len(best[to])", "text_is_a_shortest_product"),
    ("text._shortest_product", "if layout.rank and", "if False and", "text_reads_back"),
    ("text.format_shared", "if shared.swizzle else", "if False else", "shared_text_reads_back"),
    ("draw._cell", "layout.slot(index)", "0", "table_shows_every_element"),
    ("draw._panels", "min(extent, start + WRAP)", "start + 1", "table_shows_every_element"),
]


@pytest.mark.parametrize(
    ("place", "right", "wrong", "law"), MUTATIONS, ids=[f"{m[0]}-{m[1][:24]}" for m in MUTATIONS]
)
def test_the_law_catches_the_mistake(place, right, wrong, law, monkeypatch):
    mutate(monkeypatch, place, right, wrong)
    strategies, check = LAWS[law]
    quick = settings(
        max_examples=400,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    with pytest.raises(Exception):  # noqa: B017 - wrong answers and crashes both count
        quick(given(*strategies)(check))()


def mutate(monkeypatch, place, right, wrong):
    """Replace a piece of the source of one function, wherever that function was imported to."""
    module_name, *path, name = place.split(".")
    module = importlib.import_module(f"tilus.layouts.{module_name}")
    owner = module
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    source = dedent(inspect.getsource(original))
    assert source.count(right) == 1, f"{place} has {right!r} {source.count(right)} times"
    space = dict(vars(module))
    exec("from __future__ import annotations\n" + source.replace(right, wrong), space)
    places = [owner]
    if owner is module:
        loaded = [m for n, m in sys.modules.items() if n.startswith("tilus.layouts")]
        places += [m for m in loaded if m is not module and getattr(m, name, None) is original]
    for each in places:
        monkeypatch.setattr(each, name, space[name])
