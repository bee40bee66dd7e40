"""What others make of a whole model: the runtimes that ours is timed beside.

    llama.cpp-q4_0, -q4_K, ...     packages `llama-cpp-python` and `gguf`, plain rows of weights
    llama.cpp-q4_0-repacked, ...   with rows interleaved, as it does by itself where it can

A peer that is missing, or that has no such model, is left out without a word. Each gets random
weights of the type that is the nearest in size, in a file that is gone as soon as it is loaded, and
as many threads as torch has. It attends as is the faster, with or without its flash attention.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import torch

from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.kernels.quantized import Scheme
from tilus.llm.checkpoints.gguf_types import GGML_TYPES, GgmlType
from tilus.llm.config import ModelConfig
from tilus.llm.models import family_of
from tilus.llm.rope import frequencies

BATCH = 512  # tokens of a prompt at a time
STRETCH = 64  # tokens that are computed to fill a cache, and then copied
WARM = 32  # tokens before the first time
ROWS = 256  # random rows of a width, which all matrices repeat


@dataclass(frozen=True)
class ModelPeer:
    """Someone else's runtime, and a model for it that is not made yet."""

    name: str
    bits: float  # of a weight, scales included
    open: Callable[[], LlamaModel]  # takes seconds, and the memory of the weights


def available(
    config: dict[str, Any], weights: DType, group_size: int | None = 128
) -> list[ModelPeer]:
    """The peers that this machine has for a model.

    Args:
        config: as in a config.json.
        weights: the type of our matrices.
        group_size: how many of our weights share a scale, None for whole rows.
    """
    model = family_of(config).config(config)
    if (llama := _llama()) is None or not _known(model):
        return []
    found = []
    inputs = (model.hidden_size, model.q_rows, model.inner_size)
    for number in nearest(bits_per_weight(weights, group_size), inputs):
        if (name := llama.type_name(number)) is None:
            continue
        bits = _bits(GGML_TYPES[number])
        for suffix, repacked in _forms(model, number).items():
            make = partial(LlamaModel, model, number, repacked)
            found.append(ModelPeer(f"llama.cpp-{name}{suffix}", bits, make))
    return found


# ---- which type is a fair peer ----------------------------------------------------------------

# Left out: types of odd sizes that few files have, and those whose codes stand for several weights
# in tables (IQ3_S and the like), which are slower than others of their size.
_NAMES = (
    *("F16", "BF16", "Q8_0", "Q6_K", "Q5_0", "Q5_K", "Q4_0", "Q4_K", "IQ4_NL", "IQ4_XS"),
    *("Q3_K", "Q2_K", "TQ2_0", "TQ1_0"),
)
TYPES = {number: kind for number, kind in GGML_TYPES.items() if kind.name in _NAMES}


def bits_per_weight(weights: DType, group_size: int | None) -> float:
    """Of a matrix of ours, the scales and zero points of groups included."""
    if weights.bits > 8 or group_size is None:
        return weights.bits
    scheme = Scheme.of(weights)
    more = scheme.scales.bits + (scheme.zeros.bits if scheme.zeros is not None else 0)
    return weights.bits + more / group_size


def nearest(bits: float, inputs: Iterable[int]) -> list[int]:
    """The numbers of the types with as many whole bits a weight; else of those that differ least.

    Args:
        bits: of a weight, scales included.
        inputs: the widths of the matrices, which must be whole blocks.
    """
    kinds = {n: t for n, t in TYPES.items() if not any(k % t.elements for k in inputs)}
    same = [number for number, kind in kinds.items() if int(_bits(kind)) == int(bits)]
    if same:
        return same
    apart = {number: abs(_bits(kind) - bits) for number, kind in kinds.items()}
    return [number for number, by in apart.items() if by == min(apart.values())]


def _bits(kind: GgmlType) -> float:
    return 8 * kind.nbytes / kind.elements


# ---- a file with random weights ---------------------------------------------------------------

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def _known(model: ModelConfig) -> bool:
    """Whether a file can say what the model is."""
    return (
        model.family in ARCHITECTURES
        and model.rope.kind in ("default", "llama3")
        and model.activation == "silu"
        and not any(model.windows)
    )


def write(path: Path, model: ModelConfig, number: int) -> None:
    """Write a GGUF file with random matrices of a type, norms of 1, biases of 0, and no words."""
    llama = _need()
    kind, gguf = GGML_TYPES[number], llama.gguf
    writer = gguf.GGUFWriter(path, ARCHITECTURES[model.family])
    _describe(writer, model)
    stored = {number.value: number for number in gguf.GGMLQuantizationType}
    shapes = dict(_tensors(gguf, model))
    for name, shape in shapes.items():
        if len(shape) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            nbytes = math.prod(shape) // kind.elements * kind.nbytes
            writer.add_tensor_info(name, shape, np.dtype(np.void), nbytes, stored[number])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        if name == ROPE:
            data = _divisors(model)
        elif len(shape) == 1:
            data = np.full(shape, float(name.endswith("norm.weight")), np.float32)
        else:
            rows = np.arange(shape[0]) + random.integers(ROWS)
            data = _rows(number, shape[1])[rows % ROWS]
        writer.write_tensor_data(data)
    writer.close()


ROPE = "rope_freqs.weight"


def _describe(writer: Any, model: ModelConfig) -> None:
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(model.max_positions)
    writer.add_embedding_length(model.hidden_size)
    writer.add_feed_forward_length(model.inner_size)
    writer.add_block_count(model.layers)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope.theta)
    writer.add_layer_norm_rms_eps(model.norm_eps)


def _tensors(gguf: Any, model: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The file's tensors, and their shapes."""
    named = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(named[ARCHITECTURES[model.family]], model.layers)
    roles = family_of({"model_type": model.family}).roles(model)
    for name, shape in roles.shapes(model).items():
        if not (model.tied and name == roles.head):
            yield names.get_name(name, try_suffixes=(".weight", ".bias")), shape
    if model.rope.kind != "default":
        yield ROPE, (model.head_dim // 2,)


def _divisors(model: ModelConfig) -> np.ndarray:
    """What frequencies are divided by, f32 [head_dim / 2]."""
    plain = frequencies(replace(model.rope, kind="default"), model.head_dim)
    return (plain / frequencies(model.rope, model.head_dim)).float().numpy()


@lru_cache(16)
def _rows(number: int, k: int) -> np.ndarray:
    """Rows of normal numbers with a variance of one over their count, rounded: bytes."""
    rows = np.random.default_rng(k).standard_normal((ROWS, k), np.float32)
    return _need().quantize(number, rows / np.float32(math.sqrt(k)))


# ---- llama.cpp --------------------------------------------------------------------------------

KV = {"f32": 0, "f16": 1, "bf16": 1, "i8": 8}  # its types of keys and values; bf16 is slow there
QUANTISED = (8,)  # values of these need flash attention
ERROR = 4  # the level of what is logged when something fails


class LlamaModel:
    """A model of random weights, loaded by llama.cpp. Close it, or use it as a context manager."""

    def __init__(self, model: ModelConfig, number: int, repacked: bool) -> None:
        llama = self._llama = _need()
        params = llama.api.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = llama.api.LLAMA_LOAD_MODE_NONE  # not mapped: the file is removed
        params.use_extra_bufts = repacked
        llama.log.clear()
        with TemporaryDirectory() as folder:
            path = Path(folder, "model.gguf")
            write(path, model, number)
            self.handle = llama.api.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise llama.error("the model")
        self.repacked = any("REPACK model buffer" in text for _, text in llama.log)
        self.vocabulary = model.vocab_size
        self._contexts: dict[tuple[object, ...], _Context] = {}
        self._free = weakref.finalize(self, llama.api.llama_model_free, self.handle)

    def prefill(self, tokens: int, kv: str = "bf16") -> float:
        """Seconds for a prompt of random tokens, up to the logits of the last one.

        The first call also finds out how to attend, which is not in the seconds.
        """
        return self._fastest((kv, tokens), tokens, lambda c: c.prefill(tokens))

    def decode(self, count: int, context: int, kv: str = "bf16") -> float:
        """Seconds for so many random tokens, one after the other, behind `context` others.

        The first call also fills the cache, and finds out how to attend.
        """
        key = kv, count, context
        return self._fastest(key, context + count, lambda c: c.decode(count, context))

    def logits(self, tokens: list[int], kv: str = "f32") -> torch.Tensor:
        """What follows some tokens: f32 [vocabulary]."""
        context = _Context(self, len(tokens), KV[kv], True)
        try:
            context.compute(tokens)
            return context.logits()
        finally:
            context.close()

    def close(self) -> None:
        """Free the memory."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()
        self._free()

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _fastest(
        self, key: tuple[object, ...], room: int, seconds: Callable[[_Context], float]
    ) -> float:
        """Seconds of what was the faster in the first call: with flash attention, or without."""
        if key not in self._contexts:
            if (kv := KV.get(str(key[0]))) is None:
                raise TilusValueError(f"`kv` is {key[0]!r}; it is one of {', '.join(KV)}")
            flash = (True,) if kv in QUANTISED else (True, False)
            found = [_Context(self, room, kv, one) for one in flash]
            best = min(found, key=seconds) if len(found) > 1 else found[0]
            for other in found:
                if other is not best:
                    other.close()
            self._contexts[key] = best
        return seconds(self._contexts[key])


class _Context:
    """A cache of keys and values for one sequence, and what computes with it."""

    def __init__(self, model: LlamaModel, room: int, kv: int, flash: bool) -> None:
        llama = self._llama = _need()
        params = llama.api.llama_context_default_params()
        params.n_ctx = max(room, WARM)
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        params.type_k = params.type_v = kv
        params.flash_attn_type = int(flash)
        params.n_seq_max, params.kv_unified = 2, True  # the second is for copies
        llama.log.clear()
        handle = llama.api.llama_init_from_model(model.handle, params)
        if not handle:
            raise llama.error("a context")
        self._model = model
        self._handle = handle
        self._memory = llama.api.llama_get_memory(handle)
        self._filled: int | None = None  # position of the next token
        self._random = np.random.default_rng(0)
        self.close = weakref.finalize(self, llama.api.llama_free, handle)
        self.compute(self._tokens(WARM))
        llama.api.llama_memory_clear(self._memory, False)

    def prefill(self, tokens: int) -> float:
        """Seconds for a prompt."""
        self._llama.api.llama_memory_clear(self._memory, False)
        prompt = self._tokens(tokens)
        start = time.perf_counter()
        self.compute(prompt)
        return time.perf_counter() - start

    def decode(self, count: int, context: int) -> float:
        """Seconds for tokens behind others, which are forgotten then."""
        if self._filled is None:
            self._filled = self._fill(context)
        tokens = self._tokens(count)
        start = time.perf_counter()
        for token in tokens:
            self.compute([token])
        seconds = time.perf_counter() - start
        self._llama.api.llama_memory_seq_rm(self._memory, 0, self._filled, -1)
        return seconds

    def compute(self, tokens: list[int]) -> None:
        """Compute tokens of the sequence, and the logits of the last one."""
        api = self._llama.api
        for start in range(0, len(tokens), BATCH):
            some = tokens[start : start + BATCH]
            array = (api.llama_token * len(some))(*some)  # which the batch points to
            if api.llama_decode(self._handle, api.llama_batch_get_one(array, len(some))):
                raise self._llama.error("a batch")
        api.llama_synchronize(self._handle)

    def logits(self) -> torch.Tensor:
        """Of the last token computed."""
        found = self._llama.api.llama_get_logits_ith(self._handle, -1)
        return torch.from_numpy(np.ctypeslib.as_array(found, (self._model.vocabulary,)).copy())

    def _fill(self, context: int) -> int:
        """Fill the cache with a stretch of tokens and copies of it; the next token's position.

        What attention does is the same for every key, so copies do as well as a long prompt.
        """
        api = self._llama.api
        stretch = min(STRETCH, context)
        self.compute(self._tokens(stretch))
        size = api.llama_state_seq_get_size(self._handle, 0)
        state = (ctypes.c_uint8 * size)()
        api.llama_state_seq_get_data(self._handle, state, size, 0)
        copies, rest = divmod(context, stretch)
        for _ in range(copies - 1):
            if not api.llama_state_seq_set_data(self._handle, state, size, 1):
                raise self._llama.error("a copy of keys and values")
            api.llama_memory_seq_cp(self._memory, 1, 0, -1, -1)
            api.llama_memory_seq_rm(self._memory, 1, -1, -1)
        self.compute(self._tokens(rest))
        return int(api.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def _tokens(self, count: int) -> list[int]:
        tokens: list[int] = self._random.integers(self._model.vocabulary, size=count).tolist()
        return tokens


def _forms(model: ModelConfig, number: int) -> dict[str, bool]:
    """How weights of a type can lie, and whether that is repacked; a small model tells."""
    with LlamaModel(replace(model, layers=1, vocab_size=ROWS), number, True) as small:
        return {"": False, "-repacked": True} if small.repacked else {"": False}


@dataclass(frozen=True)
class _Llama:
    """The packages, and what the library logged."""

    api: Any
    ggml: Any
    gguf: Any
    log: list[tuple[int, str]]
    _callback: Any  # which the library holds on to

    def type_name(self, number: int) -> str | None:
        """What a type is called; None where it is another one, or none."""
        name = (self.ggml.ggml_type_name(number) or b"").decode()
        return name if name.upper() == GGML_TYPES[number].name else None

    def quantize(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Rows f32 [n, k] as bytes [n, bytes] of a type."""
        kind, (n, k) = GGML_TYPES[number], rows.shape
        codes = np.empty((n, k // kind.elements * kind.nbytes), np.uint8)
        self.ggml.ggml_quantize_chunk(number, rows.ctypes.data, codes.ctypes.data, 0, n, k, None)
        return codes

    def error(self, what: str) -> RuntimeError:
        """An error with what the library said."""
        said = "".join(text for level, text in self.log if level == ERROR).strip()
        return RuntimeError(f"llama.cpp failed to make {what}: {said or 'no reason given'}")


@cache
def _llama() -> _Llama | None:
    """The packages, if all that is used here is in them."""
    try:
        api = importlib.import_module("llama_cpp.llama_cpp")
        ggml = importlib.import_module("llama_cpp._ggml").libggml
        gguf = importlib.import_module("gguf")
        log: list[tuple[int, str]] = []
        callback = api.llama_log_callback(
            lambda level, text, data: log.append((level, text.decode(errors="replace")))
        )
        size, pointer, whole = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64
        number = ctypes.c_int
        ggml.ggml_type_name.restype, ggml.ggml_type_name.argtypes = ctypes.c_char_p, (number,)
        quantize = ggml.ggml_quantize_chunk
        quantize.restype = size
        quantize.argtypes = (number, pointer, pointer, whole, whole, whole, pointer)
        _ = api.LLAMA_LOAD_MODE_NONE, api.llama_init_from_model
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
    api.llama_log_set(callback, None)
    api.llama_backend_init()
    return _Llama(api, ggml, gguf, log, callback)


def _need() -> _Llama:
    if (llama := _llama()) is None:
        raise TilusValueError("llama.cpp's models need the packages llama-cpp-python and gguf")
    return llama
