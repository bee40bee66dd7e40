"""What others make of a quantised product, y = x @ w.T: the peers ours are timed beside.

    torch-bf16, torch-int8         always there, or nearly
    openvino-int2, -int4, -int8    package `openvino`, activations rounded to 8 bits as well
    llama.cpp-q4_0, -q4_K, ...     package `llama-cpp-python`, through the library in it;
                                   `-repacked`: the same with rows interleaved

A peer whose package or operator is missing is left out, without a word. Each runs on as many
threads as torch has, and on the form of the weight that it packs for itself.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import warnings
import weakref
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from tilus.errors import TilusValueError

Array = torch.Tensor | np.ndarray
Product = Callable[[], Array]  # y [m, n]; the next call may overwrite it
T = TypeVar("T")

GROUP = 128  # neighbours along k that share a scale in OpenVINO
ALL = frozenset(range(1, 9))


@dataclass(frozen=True)
class Peer:
    """Someone else's product with a quantised weight.

    `make(w)` packs a weight f32 [n, k] anew, so that copies lie in memory of their own; the
    result takes x f32 [m, k] and gives the call to be timed.
    """

    name: str
    bits: frozenset[int]  # the weight widths it is a fair peer of
    make: Callable[[torch.Tensor], Callable[[torch.Tensor], Product]]
    error: float  # at most, on normal data: root mean square over that of the f32 product


def available() -> list[Peer]:
    """The peers that this machine has, and can run."""
    return [*_torch_peers(), *_openvino_peers(), *_llama_peers()]


# ---- the same for all -------------------------------------------------------------------------

_packed = WeakIdKeyDictionary()  # weight -> {(its version, what): packed}


def _once(weight: torch.Tensor, what: str, pack: Callable[[], T]) -> T:
    """What `pack` gives; for further copies of the same weight, what it gave."""
    if weight not in _packed:
        _packed[weight] = {}
    forms: dict[tuple[int, str], T] = _packed[weight]
    key = weight._version, what
    if key not in forms:
        forms[key] = pack()
    return forms[key]


def _check(name: str, weight: torch.Tensor, step: int) -> None:
    if weight.dim() != 2 or weight.shape[1] % step:
        shape = list(weight.shape)
        raise TilusValueError(f"{name}: `weight` is {shape}; it must be [n, k], k % {step} == 0")


# ---- torch ------------------------------------------------------------------------------------


def _torch_peers() -> Iterator[Peer]:
    yield Peer("torch-bf16", ALL, _torch_bf16, 0.006)
    try:
        _torch_int8(torch.eye(16))(torch.eye(16))()
    except (AttributeError, RuntimeError):
        return  # built without it
    yield Peer("torch-int8", ALL, _torch_int8, 0.03)


def _torch_bf16(weight: torch.Tensor) -> Callable[[torch.Tensor], Product]:
    w = weight.to(torch.bfloat16, copy=True)
    return lambda x: partial(torch.nn.functional.linear, x.bfloat16(), w)


def _torch_int8(weight: torch.Tensor) -> Callable[[torch.Tensor], Product]:
    """A scale for each output, activations rounded with one scale and zero point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensors of 8 bits are deprecated, their products not yet
        q = _once(weight, "torch-int8", partial(_rows_of_int8, weight))
    # Without VNNI, x86 sums two products in 16 bits: activations may have 7 then.
    can = torch.cpu.get_capabilities()
    narrow = bool(can.get("avx2")) and not (can.get("avx512_vnni") or can.get("avx_vnni"))

    def prepare(x: torch.Tensor) -> Product:
        engine = "onednn" if len(x) >= 256 else "x86"  # each the fastest there
        packed = _in_engine(engine, partial(torch.ops.quantized.linear_prepack, q, None))
        return partial(torch.ops.quantized.linear_dynamic, x.float(), packed, narrow)

    return prepare


def _rows_of_int8(weight: torch.Tensor) -> torch.Tensor:
    scale = weight.abs().amax(1).clamp_min(1e-30).double() / 127
    zero = torch.zeros(len(weight), dtype=torch.int64)
    return torch.quantize_per_channel(weight.float(), scale, zero, 0, torch.qint8)


def _in_engine(engine: str, run: Callable[[], T]) -> T:
    """Run with a given engine of torch's for quantised products, where it is there."""
    before = torch.backends.quantized.engine
    try:
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
        return run()
    finally:
        torch.backends.quantized.engine = before


# ---- OpenVINO ---------------------------------------------------------------------------------


def _openvino_peers() -> Iterator[Peer]:
    try:
        ov = importlib.import_module("openvino")
    except ImportError:
        return
    if "CPU" not in _openvino().available_devices:
        return
    for bits, widths, error in (8, {5, 6, 7, 8}, 0.02), (4, {3, 4}, 0.15), (2, {1, 2}, 0.6):
        if hasattr(ov.Type, _kind(bits)):
            make = partial(_openvino_int, bits)
            yield Peer(f"openvino-int{bits}", frozenset(widths), make, error)


@cache
def _openvino() -> Any:
    return importlib.import_module("openvino").Core()


def _kind(bits: int) -> str:
    return "u2" if bits == 2 else f"i{bits}"  # there is no i2


def _openvino_int(bits: int, weight: torch.Tensor) -> Callable[[torch.Tensor], Product]:
    """A model of one product, its weight a constant that the compiler keeps packed."""
    name = f"openvino-int{bits}"
    _check(name, weight, GROUP)
    group = weight.shape[1] if bits == 8 else GROUP  # of 8 bits, whole rows are faster
    codes, scales, zeros = _once(weight, name, partial(_grouped, weight, bits, group))
    ov = importlib.import_module("openvino")
    op = importlib.import_module("openvino.opset13")
    n, k = weight.shape
    x = op.parameter([-1, k], ov.Type.f32)
    w = op.convert(_constant(bits, codes, (n, k // group, group)), ov.Type.f16)
    if zeros is not None:
        w = op.subtract(w, op.convert(_constant(bits, zeros, scales.shape), ov.Type.f16))
    w = op.reshape(op.multiply(w, op.constant(scales)), op.constant(np.array([n, k])), False)
    y = op.matmul(x, op.convert(w, ov.Type.f32), False, True)
    settings = {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP,  # of activations, as 8-bit integers
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = _openvino().compile_model(ov.Model([y], [x]), "CPU", settings)

    def prepare(x: torch.Tensor) -> Product:
        x, out = x.float().contiguous(), np.empty((len(x), n), np.float32)
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(x.numpy(), shared_memory=True))
        request.set_output_tensor(ov.Tensor(out, shared_memory=True))

        def product(_alive: object = x) -> Array:
            request.infer(share_outputs=True)  # not copied
            return out

        return product

    return prepare


def _constant(bits: int, data: np.ndarray, shape: tuple[int, ...]) -> Any:
    """A constant of narrow integers in memory of its own, which lives as long as it does."""
    ov = importlib.import_module("openvino")
    tensor = ov.Tensor(getattr(ov.Type, _kind(bits)), list(shape))
    tensor.data.reshape(-1).view(np.uint8)[:] = data
    return importlib.import_module("openvino.opset13").constant(tensor)


def _grouped(
    weight: torch.Tensor, bits: int, group: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, f16 scales [n, k / group, 1], and zero points of 2 bits; narrow integers packed."""
    groups = weight.float().reshape(len(weight), -1, group)
    if bits == 2:
        low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
        scale = ((high - low) / 3).half()
        zero = (-low / _nonzero(scale)).round().clamp(0, 3)
        codes = (groups / _nonzero(scale) + zero).round().clamp(0, 3)
        return _bytes(codes, bits), scale.numpy(), _bytes(zero, bits)
    largest = 2 ** (bits - 1) - 1
    scale = (groups.abs().amax(2, keepdim=True) / largest).half()
    codes = (groups / _nonzero(scale)).round().clamp(-largest, largest)
    return _bytes(codes, bits), scale.numpy(), None


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 1.0, scale.float())


def _bytes(codes: torch.Tensor, bits: int) -> np.ndarray:
    """Integers side by side in bytes, the first in the lowest bits."""
    each = 8 // bits
    flat = codes.flatten().to(torch.int64) & (2**bits - 1)
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    return (flat << torch.arange(0, 8, bits)).sum(1).to(torch.uint8).numpy()


# ---- llama.cpp --------------------------------------------------------------------------------

F32, CPU = 0, 0  # the numbers in ggml.h and ggml-backend.h; so are those below
TYPES = (  # name, number, fair peer of these widths, error
    ("q8_0", 8, {7, 8}, 0.012),
    ("q6_K", 14, {6}, 0.03),
    ("q5_0", 6, {5}, 0.06),
    ("q5_K", 13, {5}, 0.05),
    ("q4_0", 2, {4}, 0.12),
    ("q4_K", 12, {4}, 0.1),
    ("q3_K", 11, {3}, 0.2),
    ("q2_K", 10, {2}, 0.4),
    ("tq2_0", 35, {1, 2}, 0.9),  # -1, 0 and 1 times the largest of 256
)


def _llama_peers() -> Iterator[Peer]:
    if _ggml() is None:
        return
    for name, number, widths, error in TYPES:
        if _ggml().ggml_type_name(number) != name.encode():
            continue
        for suffix, buffers in _buffers(number).items():
            make = partial(_llama, name, number, buffers)
            yield Peer(f"llama.cpp-{name}{suffix}", frozenset(widths), make, error)


def _llama(
    name: str, number: int, buffers: int, weight: torch.Tensor
) -> Callable[[torch.Tensor], Product]:
    """A graph of one product on llama.cpp's CPU backend."""
    ggml, name = _ggml(), f"llama.cpp-{name}"
    _check(name, weight, ggml.ggml_blck_size(number))
    n, k = weight.shape
    codes = _once(weight, name, partial(_quantized, number, weight))
    packed = _Tensors()
    w = ggml.ggml_new_tensor_2d(packed.context, number, k, n)
    packed.allocate(buffers)
    if buffers != _plain_buffers() and not _can_multiply(w, k):
        raise TilusValueError(f"{name}-repacked: not for {n} rows")
    ggml.ggml_backend_tensor_set(w, codes.ctypes.data, 0, codes.nbytes)

    def prepare(x: torch.Tensor) -> Product:
        held, out = _Tensors(), torch.empty(len(x), n)
        x = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        columns = ggml.ggml_new_tensor_2d(held.context, F32, k, len(x))
        y = ggml.ggml_mul_mat(held.context, w, columns)
        held.place(columns, x)
        held.place(y, out)
        graph = ggml.ggml_new_graph(held.context)
        ggml.ggml_build_forward_expand(graph, y)
        backend = _backend(torch.get_num_threads())

        def product(_alive: object = (packed, held, x)) -> Array:
            if ggml.ggml_backend_graph_compute(backend, graph):
                raise RuntimeError(f"{name} failed")
            return out

        return product

    return prepare


def _quantized(number: int, weight: torch.Tensor) -> np.ndarray:
    ggml, (n, k), w = _ggml(), weight.shape, weight.float().contiguous()
    codes = np.empty(n * ggml.ggml_row_size(number, k), np.uint8)
    ggml.ggml_quantize_chunk(number, w.data_ptr(), codes.ctypes.data, 0, n, k, None)
    return codes


class _Tensors:
    """Some tensors of ggml's, and the memory they lie in, freed with this object."""

    def __init__(self) -> None:
        ggml = _ggml()
        size = 4 * ggml.ggml_tensor_overhead() + ggml.ggml_graph_overhead()
        self.context = ggml.ggml_init(_InitParams(size, None, True))
        weakref.finalize(self, ggml.ggml_free, self.context)

    def allocate(self, buffers: int) -> None:
        """Give all tensors memory of a type."""
        self._own(_ggml().ggml_backend_alloc_ctx_tensors_from_buft(self.context, buffers))

    def place(self, tensor: int, data: torch.Tensor) -> None:
        """Let a tensor lie where torch's does."""
        buffer = _ggml().ggml_backend_cpu_buffer_from_ptr(data.data_ptr(), data.nbytes)
        self._own(buffer)
        _ggml().ggml_backend_tensor_alloc(buffer, tensor, data.data_ptr())

    def _own(self, buffer: int | None) -> None:
        if not buffer:
            raise MemoryError("llama.cpp: no memory for a tensor")
        weakref.finalize(self, _ggml().ggml_backend_buffer_free, buffer)


def _can_multiply(w: int, k: int) -> bool:
    """Whether a weight that lies in memory of some type can be multiplied there."""
    held = _Tensors()
    x = _ggml().ggml_new_tensor_2d(held.context, F32, k, 1)
    y = _ggml().ggml_mul_mat(held.context, w, x)
    return bool(_ggml().ggml_backend_dev_supports_op(_device(), y))


@cache
def _buffers(number: int) -> dict[str, int]:
    """The types of memory for weights of a type: the plain one, and one that repacks them."""
    found = {"": _plain_buffers()}
    for buffers in _extra_buffers():
        probe = _Tensors()
        w = _ggml().ggml_new_tensor_2d(probe.context, number, 256, 64)
        probe.allocate(buffers)
        if _can_multiply(w, 256):
            return {**found, "-repacked": buffers}
    return found


def _plain_buffers() -> int:
    return int(_ggml().ggml_backend_dev_buffer_type(_device()))


def _extra_buffers() -> list[int]:
    """Types of memory whose tensors the CPU backend rewrites for itself, the best first."""
    return list(takewhile(bool, _ggml().ggml_backend_dev_get_extra_bufts(_device())))


@cache
def _backend(threads: int) -> int:
    """A CPU backend whose threads stay."""
    ggml = _ggml()
    backend: int = ggml.ggml_backend_dev_init(_device(), None)
    params = ctypes.create_string_buffer(1 << 16)  # larger than any version's
    ggml.ggml_threadpool_params_init(params, threads)
    ggml.ggml_backend_cpu_set_threadpool(backend, ggml.ggml_threadpool_new(params))
    ggml.ggml_backend_set_n_threads(backend, threads)
    return backend


def _device() -> int:
    return int(_ggml().ggml_backend_dev_by_type(CPU))


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_P = c_void_p
SIGNATURES: dict[str, tuple[Any, ...]] = {  # result, parameters
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, _P, _P),
    "ggml_backend_buffer_free": (None, _P),
    "ggml_backend_cpu_buffer_from_ptr": (_P, _P, c_size_t),
    "ggml_backend_dev_backend_reg": (_P, _P),
    "ggml_backend_dev_buffer_type": (_P, _P),
    "ggml_backend_dev_by_type": (_P, c_int),
    "ggml_backend_dev_init": (_P, _P, c_char_p),
    "ggml_backend_dev_supports_op": (c_bool, _P, _P),
    "ggml_backend_graph_compute": (c_int, _P, _P),
    "ggml_backend_reg_get_proc_address": (_P, _P, c_char_p),
    "ggml_backend_tensor_alloc": (c_int, _P, _P, _P),
    "ggml_backend_tensor_set": (None, _P, _P, c_size_t, c_size_t),
    "ggml_blck_size": (c_int64, c_int),
    "ggml_build_forward_expand": (None, _P, _P),
    "ggml_free": (None, _P),
    "ggml_graph_overhead": (c_size_t,),
    "ggml_init": (_P, _InitParams),
    "ggml_log_set": (None, _P, _P),
    "ggml_mul_mat": (_P, _P, _P, _P),
    "ggml_new_graph": (_P, _P),
    "ggml_new_tensor_2d": (_P, _P, c_int, c_int64, c_int64),
    "ggml_quantize_chunk": (c_size_t, c_int, _P, _P, c_int64, c_int64, c_int64, _P),
    "ggml_row_size": (c_size_t, c_int, c_int64),
    "ggml_tensor_overhead": (c_size_t,),
    "ggml_threadpool_params_init": (None, _P, c_int),
    "ggml_type_name": (c_char_p, c_int),
}


CPU_SIGNATURES: dict[str, tuple[Any, ...]] = {  # of the CPU backend, which may be apart
    "ggml_backend_cpu_set_threadpool": (None, _P, _P),
    "ggml_backend_dev_get_extra_bufts": (POINTER(_P), _P),
    "ggml_backend_set_n_threads": (None, _P, c_int),
    "ggml_threadpool_new": (_P, _P),
}

# For what is logged of every tensor that is repacked.
_silent = CFUNCTYPE(None, c_int, c_char_p, _P)(lambda level, text, data: None)


@cache
def _ggml() -> Any:
    """The library in the package `llama-cpp-python`, if all that is used here is in it."""
    package = importlib.util.find_spec("llama_cpp")
    folders = package.submodule_search_locations if package else None
    for path in (p for f in folders or () for p in sorted(Path(f, "lib").glob("libggml.*"))):
        try:
            return _bound(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):
            continue
    return None


def _bound(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, *parameters) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
    library.ggml_log_set(_silent, None)
    if not (device := library.ggml_backend_dev_by_type(CPU)):
        raise AttributeError("no CPU backend")
    registry = library.ggml_backend_dev_backend_reg(device)
    for name, types in CPU_SIGNATURES.items():
        address = library.ggml_backend_reg_get_proc_address(registry, name.encode())
        if not address:
            raise AttributeError(name)
        setattr(library, name, CFUNCTYPE(*types)(address))
    return library
