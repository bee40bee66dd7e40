"""GGUF files as checkpoints: their tensors under Hugging Face's names, in Hugging Face's order.

Llama's files store the rows of q and k so that the two rows of a rotated pair are neighbours; here
they come as on Hugging Face, half a head apart. Quantised tensors stay packed.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from tilus.errors import TilusError, TilusNotImplementedError, TilusValueError
from tilus.kernels.quantized import QuantizedWeight, quantize_weight
from tilus.llm.checkpoints.checkpoint import Checkpoint, TokenizerSource
from tilus.llm.checkpoints.gguf_config import Metadata, config
from tilus.llm.checkpoints.gguf_file import GgufTensor, read_gguf
from tilus.llm.checkpoints.gguf_types import GgmlType, pack_blocks
from tilus.llm.checkpoints.limits import File, listed, shown

ROPE = "rope_freqs.weight"

# Of one layer: the name in a GGUF file, the name on Hugging Face, and what the extents are.
_LAYER = (
    ("attn_norm", "input_layernorm", "hidden"),
    ("attn_q", "self_attn.q_proj", "q hidden"),
    ("attn_k", "self_attn.k_proj", "kv hidden"),
    ("attn_v", "self_attn.v_proj", "kv hidden"),
    ("attn_output", "self_attn.o_proj", "hidden q"),
    ("attn_q_norm", "self_attn.q_norm", "head"),
    ("attn_k_norm", "self_attn.k_norm", "head"),
    ("ffn_norm", "post_attention_layernorm", "hidden"),
    ("ffn_gate", "mlp.gate_proj", "inner hidden"),
    ("ffn_up", "mlp.up_proj", "inner hidden"),
    ("ffn_down", "mlp.down_proj", "hidden inner"),
)


@dataclass(frozen=True)
class _Role:
    """What a tensor of a family is called, and its extents."""

    name: str  # on Hugging Face
    shape: tuple[int, ...]
    required: bool
    heads: int = 0  # whose rows are stored with rotated pairs as neighbours


class GgufCheckpoint(Checkpoint):
    """A model in a GGUF file."""

    format = "gguf"

    def __init__(self, file: File) -> None:
        gguf = read_gguf(file)
        self._gguf = gguf
        if gguf.metadata.get("split.count", 1) not in (0, 1):
            raise TilusNotImplementedError(
                f"{file.path} is one of several files; join them with llama-gguf-split --merge"
            )
        meta = Metadata(file.path, gguf.metadata)
        self.config = config(meta, self._factors(), set(gguf.tensors))
        self.config["vocab_size"] = self._vocabulary(meta)
        self._places = self._named(_roles(meta.architecture, self.config))
        self.names = list(self._places)
        keys = {key: v for key, v in gguf.metadata.items() if key.startswith("tokenizer.")}
        self.tokenizer = TokenizerSource(gguf=keys)
        self._announce()

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a tensor."""
        return self._place(name)[0].shape

    def stored(self, name: str) -> tuple[str, int]:
        """A tensor's type in the file, and its bytes there."""
        tensor = self._place(name)[0]
        return tensor.type.name, tensor.nbytes

    def load(self, name: str) -> torch.Tensor | QuantizedWeight:
        """A tensor in its float type, or packed."""
        tensor, role = self._place(name)
        data = self._gguf.read(tensor)
        if role.heads:
            pairs = tensor.shape[0] // role.heads // 2
            data = data.reshape(role.heads, pairs, 2, -1).transpose(1, 2).reshape(-1)
        try:
            return _decoded(tensor, data)
        except TilusError as error:
            raise TilusValueError(f"{self._where(tensor)}: {error.first.message}") from error

    def _place(self, name: str) -> tuple[GgufTensor, _Role]:
        if name not in self._places:
            raise TilusValueError(f"{self._gguf.file.path} has no tensor {shown(name)}")
        return self._places[name]

    def _where(self, tensor: GgufTensor) -> str:
        return f"{self._gguf.file.path}: tensor {shown(tensor.name)}"

    def _factors(self) -> torch.Tensor | None:
        tensor = self._gguf.tensors.get(ROPE)
        if tensor is None:
            return None
        if tensor.type.dense is None:
            raise TilusValueError(f"{self._where(tensor)} is {tensor.type.name}; it must be F32")
        return self._gguf.read(tensor).view(tensor.type.dense).reshape(tensor.shape)

    def _vocabulary(self, meta: Metadata) -> int:
        """Rows of the embedding, which must suit the metadata."""
        table = self._gguf.tensors.get("token_embd.weight")
        if table is None:
            raise TilusValueError(f"{meta.path} lacks the tensor 'token_embd.weight'")
        rows = table.shape[0]
        tokens = meta.keys.get("tokenizer.ggml.tokens", [])
        said = meta.get("vocab_size")
        if not isinstance(tokens, list) or len(tokens) > rows or said not in (None, rows):
            raise TilusValueError(
                f"{meta.path}: {rows} rows of token_embd.weight do not suit its vocabulary"
            )
        return rows

    def _named(self, roles: dict[str, _Role]) -> dict[str, tuple[GgufTensor, _Role]]:
        """The tensors by their names on Hugging Face."""
        path, tensors = self._gguf.file.path, self._gguf.tensors
        missing = {name for name, role in roles.items() if role.required} - tensors.keys()
        extra = tensors.keys() - roles.keys() - {ROPE}
        if missing or extra:
            parts = [
                f"{w} {listed(n)}" for w, n in (("lacks", missing), ("has unknown", extra)) if n
            ]
            raise TilusValueError(f"{path} {' and '.join(parts)}; is it another kind of model?")
        found = {}
        for name, role in roles.items():
            if name not in tensors:
                continue
            tensor = tensors[name]
            if tensor.shape != role.shape:
                raise TilusValueError(
                    f"{self._where(tensor)} is {list(tensor.shape)}; the metadata asks for "
                    f"{list(role.shape)}"
                )
            _check_type(self._where(tensor), tensor)
            found[role.name] = (tensor, role)
        return found

    def _announce(self) -> None:
        """Say which types are converted."""
        types = {tensor.type for tensor, _ in self._places.values()}
        converted = {ggml.name: ggml for ggml in types if ggml.nearest is not None}
        if not converted:
            return
        path = self._gguf.file.path
        if importlib.util.find_spec("gguf") is None:
            raise TilusNotImplementedError(
                f"{path} has tensors of the types {', '.join(sorted(converted))}, which are "
                "converted with the package gguf: pip install gguf"
            )
        what = "; ".join(f"{name} to {_nearest(ggml)}" for name, ggml in sorted(converted.items()))
        warnings.warn(f"{path}: tensors are converted when they are loaded: {what}", stacklevel=4)


def _nearest(ggml: GgmlType) -> str:
    assert ggml.nearest is not None
    kind, group = ggml.nearest
    return f"{kind.name.partition('(')[0]} in groups of {group}"


def _roles(architecture: str, config: dict[str, object]) -> dict[str, _Role]:
    """What a family's files hold, by the names in them."""

    def extent(key: str) -> int:
        value = config[key]
        assert isinstance(value, int)
        return value

    heads, kv_heads = extent("num_attention_heads"), extent("num_key_value_heads")
    head, hidden = extent("head_dim"), extent("hidden_size")
    extents = {
        "hidden": hidden,
        "inner": extent("intermediate_size"),
        "head": head,
        "q": heads * head,
        "kv": kv_heads * head,
    }
    swapped = {"attn_q": heads, "attn_k": kv_heads} if architecture == "llama" else {}
    vocab = extent("vocab_size")
    roles = {
        "token_embd.weight": _Role("model.embed_tokens.weight", (vocab, hidden), True),
        "output_norm.weight": _Role("model.norm.weight", (hidden,), True),
        "output.weight": _Role("lm_head.weight", (vocab, hidden), False),
    }
    for layer in range(extent("num_hidden_layers")):
        for there, here, what in _LAYER:
            shape = tuple(extents[word] for word in what.split())
            norm = what == "head"
            if norm and architecture != "qwen3":
                continue
            at, name = f"blk.{layer}.{there}", f"model.layers.{layer}.{here}"
            turned = swapped.get(there, 0)
            roles[f"{at}.weight"] = _Role(f"{name}.weight", shape, True, turned)
            if len(shape) == 2:
                needed = architecture == "qwen2" and there in ("attn_q", "attn_k", "attn_v")
                roles[f"{at}.bias"] = _Role(f"{name}.bias", shape[:1], needed, turned)
    return roles


def _check_type(where: str, tensor: GgufTensor) -> None:
    ggml = tensor.type
    if ggml.dense is None and ggml.packed is None and ggml.nearest is None:
        raise TilusNotImplementedError(f"{where} is {ggml.name}, which weights do not come in")
    if ggml.dense is None and len(tensor.shape) != 2:
        raise TilusNotImplementedError(
            f"{where} is {ggml.name} with the shape {list(tensor.shape)}; only matrices are "
            "quantised"
        )


def _decoded(tensor: GgufTensor, data: torch.Tensor) -> torch.Tensor | QuantizedWeight:
    ggml = tensor.type
    if ggml.dense is not None:
        return data.view(ggml.dense).reshape(tensor.shape)
    n, k = tensor.shape
    if ggml.packed is not None:
        return pack_blocks(ggml, data, n, k)
    return _converted(ggml, data, n, k)


def _converted(ggml: GgmlType, data: torch.Tensor, n: int, k: int) -> QuantizedWeight:
    """A weight of a type that only the package gguf decodes, rounded to one of ours."""
    from gguf import GGMLQuantizationType, dequantize

    assert ggml.nearest is not None
    kind, group = ggml.nearest
    blocks = data.numpy().reshape(n, -1)
    try:
        with np.errstate(all="ignore"):  # NaN and infinities are refused below
            values = dequantize(blocks, GGMLQuantizationType[ggml.name])
    except (KeyError, NotImplementedError) as error:
        raise TilusNotImplementedError(
            f"the installed package gguf does not decode {ggml.name}"
        ) from error
    weight = torch.from_numpy(values).reshape(n, k)
    return quantize_weight(weight, kind, group_size=group, scale_dtype="f16")
