"""Compiles functions on lanes for a machine of choice and runs them on NumPy arrays.

kernels = Kernels(MACHINES["avx2"])
kernels.add("up", ["half"], "float", 16, lambda w, x: cast(w, f16, f32, x))
kernels.compile()
kernels.run("up", array)      # in blocks of 16 lanes; the result as an array
"""

import ctypes
import functools
import itertools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import llvmlite.binding as llvm
import numpy as np

from tilus.codegen.llvm.writer import BITS, I1, I8, I64, PTR, Module, V, Writer, vector

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()

_SSE4 = {"ssse3", "sse4.1", "sse4.2"}
_AVX2 = {*_SSE4, "avx", "avx2", "fma", "f16c"}
_AVX512 = {*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}


@dataclass(frozen=True)
class Machine:
    """A processor by LLVM's name, and its features as code generation asks for them."""

    cpu: str
    features: frozenset[str]
    flags: str = ""

    def runs_here(self) -> bool:
        have = llvm.get_host_cpu_features()
        return all(have.get(feature, False) for feature in self.features)


def _host() -> Machine:
    have = llvm.get_host_cpu_features()
    names = frozenset(name for name, there in have.items() if there)
    return Machine(llvm.get_host_cpu_name(), names, have.flatten())


MACHINES = {
    "host": _host(),
    "avx512": Machine("skylake-avx512", frozenset(_AVX512)),
    "avx2": Machine("haswell", frozenset(_AVX2)),
    "sse4": Machine("x86-64-v2", frozenset(_SSE4)),
    "sse2": Machine("x86-64", frozenset()),
}
HERE = [name for name, machine in MACHINES.items() if machine.runs_here()]
ICELAKE = Machine(
    "icelake-server", frozenset({*_AVX512, "avx512vbmi", "avx512vbmi2", "avx512vnni", "gfni"})
)


def lanes_on(machine: str) -> tuple[int, ...]:
    """Lengths of vectors to try; 0 is a scalar."""
    return (16, 13, 1, 20 if machine.startswith("sse") else 64, 0)


_NUMPY = {"half": np.float16, "float": np.float32, "double": np.float64, "bfloat": np.uint16}
_counter = itertools.count()


def memory_type(element: str) -> str:
    """What an element is in memory: a bool takes a byte."""
    return I8 if element == I1 else element


def numpy_type(element: str) -> np.dtype:
    """The array type of such elements; bf16 as its bits."""
    return np.dtype(_NUMPY.get(element) or f"u{max(1, BITS[element] // 8)}")


@functools.cache
def _jit() -> llvm.LLJIT:
    return llvm.create_lljit_compiler()


@dataclass
class Kernels:
    """Functions compiled together."""

    machine: Machine
    level: int = 3
    module: Module = field(init=False)
    shapes: dict[str, tuple[list[str], str, int, int]] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)  # external functions

    def __post_init__(self) -> None:
        self.module = Module(features=self.machine.features)

    def add(
        self,
        name: str,
        inputs: list[str],
        output: str,
        lanes: int,
        emit: Callable[..., V],
        per_block: tuple[int, ...] = (),
    ) -> None:
        """`emit(w, *vectors)` makes a vector; of `lanes` elements, or `per_block` (results last).

        0 lanes are a scalar.
        """
        w = Writer(self.module)
        counts = per_block or (lanes,) * (len(inputs) + 1)
        w.label("loop")
        i = V(I64, "%i")
        end = len(w.lines)
        vectors = []
        for k, (element, count) in enumerate(zip(inputs, counts, strict=False)):
            vectors.append(_load(w, V(PTR, f"%a{k}"), i, element, count))
        result = emit(w, *vectors)
        _store(w, V(PTR, "%out"), i, output, counts[-1], result)
        w.lines.insert(end, f"  %i = phi i64 [ 0, %entry ], [ %i.next, %{w.block} ]")
        w.line("%i.next = add i64 %i, 1")
        w.branch(w.compare("icmp", "eq", V(I64, "%i.next"), V(I64, "%n")), "end", "loop")
        w.label("end")
        w.ret()
        params = ", ".join([*(f"ptr noalias %a{k}" for k in range(3)), "ptr noalias %out, i64 %n"])
        head = [f"define void @test.{name}({params}) {{", "entry:", *w.entry]
        self.module.functions.append("\n".join([*head, *w.lines, "}", ""]))
        self.shapes[name] = (inputs, output, *counts[:1], counts[-1])

    def compile(self, load: bool = True) -> "Kernels":
        """Optimise, and load what is to run."""
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=self.machine.cpu,
            features=self.machine.flags,
            opt=self.level,
            reloc="pic",
            codemodel="small",
        )
        module = llvm.parse_assembly(self.module.text())
        module.triple = machine.triple
        module.data_layout = str(machine.target_data)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=self.level)
        options.loop_unrolling = False  # one block is easier to count
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        self.assembly = lambda: machine.emit_assembly(module)
        if not load:
            return self
        image = machine.emit_object(module)
        self.calls = undefined_symbols(image)
        library = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
        for name in self.shapes:
            library.export_symbol(f"test.{name}")
        self.library = library.link(_jit(), f"tests{next(_counter)}")
        return self

    def run(self, name: str, *arrays: np.ndarray) -> np.ndarray:
        """The function of whole arrays; the last block is filled up with the first elements."""
        inputs, output, count, out_count = self.shapes[name]
        per_block = max(count, 1)
        size = arrays[0].size
        blocks = -(-size // per_block)
        held = []
        for element, array in zip(inputs, arrays, strict=True):
            assert array.dtype.itemsize == numpy_type(element).itemsize, (element, array.dtype)
            held.append(np.resize(array.reshape(-1), blocks * per_block))
        out = np.empty(blocks * max(out_count, 1), numpy_type(output))
        pointers = [a.ctypes.data for a in held] + [0] * (3 - len(held))
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
        kind(self.library[f"test.{name}"])(*pointers, out.ctypes.data, blocks)
        return out[: size * max(out_count, 1) // per_block]

    def instructions(self, name: str) -> list[str]:
        """The instructions of a function, in order."""
        text = self.assembly()
        body = re.search(rf"^test\.{re.escape(name)}:(.*?)\.Lfunc_end", text, re.M | re.S)
        assert body, name
        lines = (line.split("#")[0].strip() for line in body[1].splitlines())
        return [line for line in lines if line and not line.startswith(".") and ":" not in line]


def undefined_symbols(image: bytes) -> set[str]:
    """What an ELF object wants from elsewhere: the functions it calls."""
    if not image.startswith(b"\x7fELF"):
        return set()
    (start,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, start + i * size) for i in range(count)]
    found = set()
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind == 2:  # the symbol table; `link` is the section of its names
            for at in range(offset, offset + length, 24):
                name, _, _, section = struct.unpack_from("<IBBH", image, at)
                place = sections[link][4] + name
                text = image[place : image.index(b"\0", place)].decode()
                if section == 0 and text:
                    found.add(text)
    return found - {"_GLOBAL_OFFSET_TABLE_"}


def _place(w: Writer, base: V, i: V, element: str, count: int) -> V:
    offset = w.op(I64, f"mul i64 {i.ref}, {max(count, 1)}")
    return w.gep(base, offset, memory_type(element))


def _load(w: Writer, base: V, i: V, element: str, count: int) -> V:
    held = memory_type(element)
    type_ = vector(held, count) if count else held
    x = w.load(type_, _place(w, base, i, element, count), BITS[held] // 8)
    return w.cast("trunc", x, I1) if element == I1 else x


def _store(w: Writer, base: V, i: V, element: str, count: int, value: V) -> None:
    held = memory_type(element)
    type_ = vector(element, count) if count else element
    assert value.type == type_, (value.type, type_)
    if element == I1:
        value = w.cast("zext", value, I8)
    w.store(value, _place(w, base, i, element, count), BITS[held] // 8)
