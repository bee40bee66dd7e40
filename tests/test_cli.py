"""The `tilus` command: what it prints, its errors and exit codes."""

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tilus import __version__
from tilus.cli import main
from tilus.cli.common import UsageError, columns
from tilus.cli.kernels import pairs, value
from tilus.dtypes import ALL_TYPES, dtype
from tilus.ir.parser import parse
from tilus.ir.passes import PIPELINE
from tilus.layouts import SharedLayout, parse_layout
from tilus.options import Option, Options

TIR = """\
kernel @scale(%x: ptr[f16] divisible 16, %n: i32 divisible 16, %k: f32) threads 32 {
  %X = global_view(%x, dtype=f16, shape=[%n])
  %t = load_global(%X, offsets=[block_idx(0) * 256], shape=[256])
  %w = cast(%t, dtype=f32)
  %f = full(dtype=f32, shape=[256], value=%k)
  %m = mul(%w, %f)
  %y = cast(%m, dtype=f16)
  store_global(%X, %y, offsets=[block_idx(0) * 256])
}
"""

PYTHON = """\
import tilus
from tilus import f16, f32, i32
from tilus.layouts import spatial

TILE = 128


@tilus.jit
def scale(x: tilus.ptr[f16], n: i32, k: f32, BLOCK: tilus.constexpr, dtype: tilus.constexpr = f32):
    X = tilus.global_view(x, f16, (n,))
    i = tilus.block_idx(0) * BLOCK
    t = doubled(tilus.load_global(X, (i,), (BLOCK,)))
    y = tilus.cast(t, dtype) * tilus.cast(k, dtype)
    tilus.store_global(X, tilus.cast(y, f16), (i,))


@tilus.jit
def doubled(t):
    return t + t


def plain():
    pass
"""

MORE = """

@tilus.jit(num_warps=2)
def other(n: i32, layout: tilus.constexpr):
    tilus.print_tensor(tilus.zeros(f32, layout.shape, layout) + 1.0, "zeros")
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for option in vars(Options).values():
        if isinstance(option, Option):
            monkeypatch.delenv(option.variable, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with kernels, as the current one."""
    (tmp_path / "scale.tir").write_text(TIR)
    (tmp_path / "one.py").write_text(PYTHON)
    (tmp_path / "two.py").write_text(PYTHON + MORE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tilus(capsys):
    """`tilus(*arguments)` is (exit code, standard output, standard error)."""

    def run(*arguments):
        try:
            code = main(arguments)
        except SystemExit as e:
            code = e.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def good(tilus):
    """The output of a command that succeeds and has nothing to say on standard error."""

    def run(*arguments):
        code, out, err = tilus(*arguments)
        assert (code, err) == (0, "")
        return out

    return run


@pytest.fixture
def bad(tilus):
    """The message of a command that ends with `code` and prints nothing else."""

    def run(*arguments, code=2):
        got, out, err = tilus(*arguments)
        assert (got, out) == (code, ""), err
        assert "Traceback" not in err
        assert code == 1 or err.startswith("tilus: ")
        return err.removeprefix("tilus: ").removesuffix("\n")

    return run


# --- the command itself ---


def test_version(good):
    assert good("--version") == f"tilus {__version__}\n"


def test_without_a_command_it_shows_help(good):
    assert "commands:" in good()


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in "run chat eval quantize info compile layout".split())]
)
def test_help_has_an_example(good, command):
    text = good(*command, "--help")
    assert "example" in text and f"  tilus {' '.join(command)}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_python_m_tilus():
    done = subprocess.run(
        [sys.executable, "-m", "tilus", "layout", "spatial(4"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("tilus: expected")


def test_unknown_command(bad):
    assert "'lay'" in bad("lay") and "tilus --help" in bad("lay")


def test_no_abbreviations(bad):
    assert "--js" in bad("layout", "spatial(4)", "--js")


def test_the_reader_may_stop(folder):
    command = f"{sys.executable} -m tilus layout 'spatial(64,8)*local(2,2)' --all | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout == "spatial(64,8)*local(2,2)\n" and done.stderr == ""


def test_colours_are_for_terminals(good, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in good("layout", "spatial(4)")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in good("layout", "spatial(4)")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38" not in good("layout", "spatial(4)")


def test_columns():
    assert columns([("a", "bcd", "e f"), ("ab", "", "")]) == "a   bcd  e f\nab"


# --- layout ---

C = "local(2,1)*spatial(8,4)*local(1,2)"


def test_layout(good):
    out = good("layout", C)
    assert "15  t28:2  t28:3" in out
    for fact in ("(16,8)", "threads         32", "slots           4", "replication     1"):
        assert fact in out
    assert "layout((16,8), modes=((2,8),(4,2)), spatial=(1,2), local=(0,3))" in out


def test_layout_as_json(good):
    data = json.loads(good("layout", "spatial(2)*local(3)*replicated(2)", "--json"))
    assert data["shape"] == [6] and data["threads"] == 4 and data["replication"] == 2
    for form in ("canonical_form", "general_form"):
        assert parse_layout(data[form]) == parse_layout("spatial(2)*local(3)*replicated(2)")


def test_layout_is_shown_in_canonical_form(good):
    assert good("layout", "spatial(2) * spatial(4)").startswith("spatial(8)\n")


def test_layout_svg(good, folder):
    good("layout", C, "--svg", "c.svg")
    assert ElementTree.parse("c.svg").getroot().tag.endswith("svg")


def test_large_layouts_are_drawn_on_demand(good, bad, folder):
    assert "--all" in good("layout", "spatial(128,64)")
    assert "t8191:0" in good("layout", "spatial(128,64)", "--all")
    assert "8192 elements" in bad("layout", "spatial(128,64)", "--svg", "c.svg")


@pytest.mark.parametrize("text", ["empty", "spatial(5)", "spatial(2,2,2)", "spatial(1,3)"])
def test_odd_layouts(good, text):
    assert good("layout", text)


def test_shared_layout(good):
    out = good("layout", "shared((4,8), strides=(8,1), swizzle=(2,1,2))")
    tile = SharedLayout.row_major(4, 8)
    assert "3  30  31  28  29  26  27  24  25" in out
    assert "cosize          32" in out and "injective       yes" in out
    assert good("layout", "shared((), strides=())")
    assert "strides=(8,1)" in good("layout", f" {tile}")


@pytest.mark.parametrize(
    ("src", "dst", "kind"),
    [
        ("spatial(2)*local(2,2)", "spatial(2)*column_local(2,2)", "rename"),
        ("spatial(4,8)", "column_spatial(4,8)", "shuffle"),
        ("spatial(64)*local(2)", "local(2)*spatial(64)", "shared"),
        ("replicated(4)*local(4)", "spatial(4)", "shuffle"),
    ],
)
def test_against_a_register_layout(good, src, dst, kind):
    data = json.loads(good("layout", src, "--against", dst, "--json"))["against"]
    assert data["conversion"] == kind
    assert kind in good("layout", src, "--against", dst)


def test_against_a_shared_layout(good):
    reg, tile = "spatial(8,4)*local(1,16)", "shared((8,64), strides=(64,1))"
    data = json.loads(good("layout", reg, "--against", tile, "--json"))["against"]
    assert (data["elements_an_access"], data["rounds_an_access"]) == (8, 2)
    assert good("layout", tile, "--against", reg) == good("layout", reg, "--against", tile)
    wide = good("layout", reg, "--against", tile, "--dtype", "u8", "--json")
    assert json.loads(wide)["against"]["elements_an_access"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("local(2,*3)",), "expected a number but found '*'\n  local(2,*3)\n          ^"),
        (("",), "found the end"),
        (("shared((4,8))",), "expected ','"),
        (("spatial(4)", "--against", "spatial(8)"), "are not one tile"),
        (("spatial(4)", "--against", "spatial("), "expected"),
        (("spatial(4)", "--against", "spatial(4)", "--dtype", "f33"), "unknown element type 'f33'"),
        (("shared((4,), strides=(1,))", "--svg", "x.svg"), "draws register layouts"),
        (
            ("shared((4,), strides=(1,))", "--against", "shared((4,), strides=(1,))"),
            "two shared layouts",
        ),
        (("spatial(4)", "--svg", "no/such/folder.svg"), "cannot write no/such/folder.svg: No such"),
        ((), "LAYOUT"),
    ],
)
def test_layout_errors(bad, folder, arguments, message):
    assert message in bad("layout", *arguments)


# --- compile ---


def test_compile_text(good, folder):
    out = good("compile", "scale.tir")
    assert "vector=8" in out and "@ #L0" in out
    assert parse(out) == parse(good("compile", "scale.tir::scale"))


def test_what_is_printed_can_be_compiled_again(good, folder):
    first = good("compile", "scale.tir")
    assert good("compile", "scale.tir", "-o", "again.tir") == ""
    assert (folder / "again.tir").read_text() == first == good("compile", "again.tir")


@pytest.mark.parametrize("name", ["source", *(p.name for p in PIPELINE)])
def test_after(good, folder, name):
    out = good("compile", "scale.tir", "--after", name)
    parse(out)
    names = ["source", *(p.name for p in PIPELINE)]
    assert (" @ " in out) == (names.index(name) >= names.index("infer_layouts"))
    assert ("vector=" in out) == (names.index(name) >= names.index("vectorize"))


def test_after_all_shows_every_stage(good, folder):
    out = good("compile", "scale.tir", "--after", "all")
    assert out.count("; after ") == out.count("kernel @scale") == len(PIPELINE) + 1
    assert out.startswith("; after source\n")


def test_passes(good):
    lines = good("compile", "--passes").splitlines()
    assert [line.split()[1] for line in lines] == ["source", *(p.name for p in PIPELINE)]
    assert all(line.endswith(".") for line in lines)


def test_places(good, folder):
    assert "; scale.tir:3" in good("compile", "scale.tir", "--places")
    assert "; one.py:12" in good("compile", "one.py", "-D", "BLOCK=64", "--places")


@pytest.mark.parametrize("after", [(), ("--after", "source"), ("--after", "dead_code")])
def test_timing(tilus, folder, after):
    code, out, err = tilus("compile", "scale.tir", "--timing", *after)
    assert code == 0 and parse(out)
    names = [line.split()[0] for line in err.splitlines()]
    assert names[0] == "source" and names[-1] == "total"
    assert len(names) == {(): len(PIPELINE) + 2, "dead_code": 4, "source": 2}[after and after[1]]


def test_report(tilus, folder):
    code, out, err = tilus("compile", "scale.tir", "--report")
    assert code == 0 and parse(out)
    assert "line 3: access: load_global of %X, 16 bytes" in err


def test_target(good, folder):
    assert "threads 1 {" in good(
        "compile", "one.py", "-D", "BLOCK=64", "--num-warps", "1", "--target", "cpu"
    )


def test_compile_python(good, folder):
    out = good("compile", "one.py", "-D", "BLOCK=256")
    assert "kernel @scale(%x: ptr[f16], %n: i32, %k: f32) threads 128" in out
    out = good(
        *("compile", "one.py::scale", "-D", "BLOCK=2*TILE", "-D", "dtype=f16", "--num-warps", "1"),
        *("--divisible", "x=16", "--divisible", "n=16"),
    )
    assert "(%x: ptr[f16] divisible 16, %n: i32 divisible 16, %k: f32) threads 32" in out
    assert "vector=8" in out and "f16[256]" in out


def test_compile_for_one(good, folder):
    out = good("compile", "one.py", "-D", "BLOCK=64", "--one", "n", "--after", "simplify")
    assert "shape=[1]" in out


def test_threads(good, folder):
    layout = ("-D", "layout=spatial(4,16)*local(1,2)")
    assert "threads 64 {" in good("compile", "two.py::other", *layout)  # the decorator says so
    out = good("compile", "two.py::other", "--num-threads", "64", *layout)
    assert "spatial(4,16)*local(1,2)" in out


def test_files_of_a_package(good, tmp_path, monkeypatch):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("BLOCK = 64\n")
    (package / "kernels.py").write_text("from mine.sizes import BLOCK\n" + PYTHON)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "f16[64]" in good("compile", "mine/kernels.py", "-D", "BLOCK=BLOCK")
    for name in [m for m in sys.modules if m.split(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.py",), "there is no file none.py"),
        (("notes.txt",), "neither a Python file (.py) nor the text of a kernel (.tir)"),
        (("latin.tir",), "cannot read latin.tir"),
        (("scale.tir::other",), "no kernel is named 'other' in scale.tir; there is scale"),
        (("scale.tir", "--after", "foo"), "no pass is named 'foo'; there are source, simplify"),
        (("scale.tir", "-D", "x=1"), "-D is for kernels in Python; scale.tir says it"),
        (("scale.tir", "--num-warps", "2"), "--num-warps is for kernels in Python"),
        (("scale.tir", "-o", "no/such/file"), "cannot write no/such/file"),
        (("scale.tir", "--emit", "ptx"), "invalid choice: 'ptx'"),
        (("scale.tir", "--num-warps", "0"), "'0' is not a number from 1 on"),
        ((), "say which kernel"),
        (("one.py",), "the kernel scale needs a value for `BLOCK: constexpr`: -D BLOCK=..."),
        (("one.py", "-D", "BLOCK"), "-D takes NAME=VALUE, not 'BLOCK'"),
        (("one.py", "-D", "BLOCK=1", "-D", "BLOCK=2"), "BLOCK is given twice"),
        (("one.py", "-D", "n=1", "-D", "BLOCK=2"), "`n: i32` is known at run time"),
        (("one.py", "-D", "BLOK=1"), "has no parameter BLOK; it takes x: ptr[f16], n: i32"),
        (("one.py", "-D", "BLOCK=[1]"), "a list can change; use a tuple"),
        (("one.py", "-D", "BLOCK=1/0"), "ZeroDivisionError"),
        (("one.py", "-D", "BLOCK=64", "--divisible", "k=16"), "not for `k: f32`"),
        (("one.py", "-D", "BLOCK=64", "--divisible", "n=x"), "'x' is not a number from 1 on"),
        (("one.py", "-D", "BLOCK=64", "--divisible", "BLOCK=16"), "known at compile time"),
        (("one.py", "-D", "BLOCK=64", "--one", "x"), "--one is for integers"),
        (("one.py", "--num-warps", "1", "--num-threads", "3"), "say the same"),
        (("one.py::plain",), "'plain' in one.py is not a kernel"),
        (("one.py::nothing",), "no kernel is named 'nothing' in one.py; there is scale"),
        (("two.py",), "two.py has 2 kernels; name one of them:\n  two.py::scale\n  two.py::other"),
        (("empty.py",), "empty.py has no kernel"),
        (("leaves.py",), "leaves.py ended the program (exit code 3)"),
    ],
)
def test_compile_usage_errors(bad, folder, arguments, message):
    (folder / "notes.txt").write_text("")
    (folder / "empty.py").write_text("import tilus\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "latin.tir").write_bytes(b"\xff\xfe")
    assert message in bad("compile", *arguments)


def test_errors_of_a_kernel_are_shown_as_they_stand(bad, folder):
    (folder / "bad.tir").write_text(TIR.replace("mul(%w, %f)", "mul(%w, %t)"))
    err = bad("compile", "bad.tir", code=1)
    assert err.startswith("error: mul: operands differ: f32[256] and f16[256]\n  --> bad.tir:6:3")
    err = bad("compile", "one.py", "-D", "BLOCK=64", "-D", "dtype=f6e3m2", code=1)
    assert err.startswith("error: ") and "one.py:13" in err and "^^^" in err


def test_full_traceback(tilus, folder, monkeypatch):
    monkeypatch.setenv("TILUS_FULL_TRACEBACK", "1")
    code, _, err = tilus("compile", "one.py", "-D", "BLOCK=64", "-D", "dtype=f6e3m2")
    assert code == 1 and "Traceback" in err and "tilus/lang" in err


def test_a_wrong_option_is_an_error(bad, folder, monkeypatch):
    monkeypatch.setenv("TILUS_VERIFY", "often")
    assert "TILUS_VERIFY is 'often'" in bad("compile", "scale.tir", code=1)


def test_faults_of_the_file_are_pythons_own(tilus, folder):
    (folder / "broken.py").write_text("import tilus\n1 / 0\n")
    code, out, err = tilus("compile", "broken.py")
    assert (code, out) == (1, "") and err.startswith("Traceback") and "line 2" in err
    assert err.endswith("ZeroDivisionError: division by zero\n") and "importlib" not in err
    (folder / "syntax.py").write_text("def f(:\n")
    code, out, err = tilus("compile", "syntax.py")
    assert code == 1 and "SyntaxError" in err and "importlib" not in err


# --- values of -D ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64", 64),
        ("-1", -1),
        ("0.5", 0.5),
        ("True", True),
        ("None", None),
        ("'a=b'", "a=b"),
        ("(1, 'x')", (1, "x")),
        ("u4", dtype("u4")),
        ("float16", dtype("f16")),
        ("lut1(-1.0,1.0)", dtype("lut1(-1.0,1.0)")),
        ("(u4, f6e3m2)", (dtype("u4"), dtype("f6e3m2"))),
        (C, parse_layout(C)),
        ("(spatial(4), 2)", (parse_layout("spatial(4)"), 2)),
        ("layout((4,), modes=((2,2),), spatial=(), local=(1,0))", None),
        ("shared((4,8), strides=(8,1))", SharedLayout.row_major(4, 8)),
        ("2 * SIZE", 14),
    ],
)
def test_values(text, expected):
    got = value("x", text, {"SIZE": 7})
    assert got == (parse_layout(text) if text.startswith("layout") else expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "a text is quoted"),
        ("u9", "no element type u9"),
        ("spatial(4", "found the end"),
        ("1 +", "no expression"),
        ("size.x", "not defined"),
    ],
)
def test_values_that_mean_nothing(text, message):
    with pytest.raises(UsageError, match=r"-D x=") as e:
        value("x", text)
    assert message in str(e.value)


def test_pairs():
    assert pairs("-D", ["a=1", "b = x == y"]) == {"a": "1", "b": "x == y"}


# --- info ---


def test_info(good):
    out = good("info")
    assert f"tilus          {__version__}\n" in out
    for heading in ("Versions", "Machine", "Options", "Targets", "Element types"):
        assert heading in out
    for name, option in vars(Options).items():
        if isinstance(option, Option):
            assert f"TILUS_{name.upper()}" in out and option.__doc__ in out


def test_info_as_json(good, monkeypatch):
    monkeypatch.setenv("TILUS_STOP_AFTER", "2")
    data = json.loads(good("info", "--json"))
    assert set(data) == {"versions", "cpu", "gpus", "options", "targets", "types"}
    values = {o["variable"]: o["value"] for o in data["options"]}
    assert values["TILUS_STOP_AFTER"] == 2 and values["TILUS_DUMP"] is None
    assert [t["name"] for t in data["types"]] == [t.name for t in ALL_TYPES]
    assert data["cpu"]["cores"] >= 1
    assert "generic" in [t["name"] for t in data["targets"]]


def test_info_says_what_is_set(good, monkeypatch):
    monkeypatch.setenv("TILUS_VERIFY", "each")
    monkeypatch.setenv("TILUS_STOP_AFTER", "soon")
    lines = {line.split()[0]: line for line in good("info").splitlines() if "TILUS_" in line}
    assert "(default: once)" in lines["TILUS_VERIFY"]
    assert "wrong: TILUS_STOP_AFTER is 'soon'" in lines["TILUS_STOP_AFTER"]


def test_types(good):
    lines = good("info", "--types").splitlines()
    assert len(lines) == len(ALL_TYPES) + 1
    assert any(line.split() == ["f4e2m1", "4", "float", "-6.0", "6.0"] for line in lines)
    assert any(
        line.split() == ["f8e5m2", "8", "float", "-57344.0", "57344.0", "NaN", "inf"]
        for line in lines
    )


def test_environment_is_not_needed(monkeypatch, good):
    monkeypatch.setattr(os, "environ", {"PATH": os.environ.get("PATH", "")})
    assert good("layout", "spatial(2)")
