"""Every family against transformers, and every rule of it: what is left out must show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.llm import tiny
from tests.llm.tiny import CASES, COMMON, TOLERANCE, case, difference, one_thread, our_logits
from tilus import dtypes
from tilus.errors import TilusError, TilusTypeError, TilusValueError
from tilus.kernels import quantize_weight, reference
from tilus.llm.batch import Batch
from tilus.llm.config import ModelConfig, Rope
from tilus.llm.model import Layer, Model
from tilus.llm.models import family_of
from tilus.llm.ops import EXACT, REFERENCE, Ops
from tilus.llm.quantize.rtn import quantize_rtn
from tilus.llm.weights import Linear

__all__ = ["one_thread"]  # for all tests here

Mutation = Callable[[Model], Model]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str) -> None:
    """In one pass, and through prefill, a chunk and decode."""
    made = case(name)
    model = Model.load(made.checkpoint())
    assert difference(our_logits(model, made.tokens), made.logits) < TOLERANCE
    whole = [len(made.tokens)]
    want = tiny.their_logits(made.theirs, made.tokens, whole)
    assert difference(our_logits(model, made.tokens, whole), want) < TOLERANCE
    assert made.logits.std() > 0.05  # the comparison means something


# ---- mutations: rules left out or changed --------------------------------------------------------


def configured(**changes: Any) -> Mutation:
    return lambda model: replace(model, config=replace(model.config, **changes))


def turned(**changes: Any) -> Mutation:
    """Another RoPE."""

    def mutate(model: Model) -> Model:
        new = replace(model.config.rope, **changes)
        return replace(model, config=replace(model.config, rope=new))

    return mutate


def operating(**changes: Any) -> Mutation:
    """Other operations."""
    return lambda model: replace(model, ops=replace(model.ops, **changes))


def layered(change: Callable[[Layer], Layer]) -> Mutation:
    """Other weights in the first layer."""
    return lambda model: replace(model, layers=[change(model.layers[0]), *model.layers[1:]])


def unbiased(linear: Linear) -> Linear:
    return Linear(tuple((weight, None) for weight, _ in linear.parts))


def interleaved(qkv: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Pairs are neighbours instead of half a head apart."""
    cache = rest[4]
    values = cache.kv_heads * cache.head_dim
    qk, v = qkv[:, :-values], qkv[:, -values:]
    shuffled = qk.reshape(len(qk), -1, cache.head_dim // 2, 2).transpose(-1, -2).reshape(qk.shape)
    return reference.rope_store(torch.cat([shuffled, v], -1), *rest)


def normed_late(qkv: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Queries are normed after they are rotated."""
    *before, q_norm, k_norm, eps = rest
    assert q_norm is not None
    q = reference.rope_store(qkv, *before, None, k_norm, eps)
    return reference.rms_norm(q.flatten(0, 1), q_norm, eps).reshape(q.shape)


def wrong_groups(q: torch.Tensor, cache: Any, *rest: Any) -> torch.Tensor:
    """Query head h uses KV head h % kv_heads."""
    rows, _, dim = q.shape
    split = q.reshape(rows, -1, cache.kv_heads, dim).transpose(1, 2).reshape(q.shape)
    out = reference.attention(split, cache, *rest)
    return out.reshape(rows, cache.kv_heads, -1, dim).transpose(1, 2).reshape(q.shape)


def not_causal(q: Any, cache: Any, layer: int, table: Any, start: Any, *rest: Any) -> torch.Tensor:
    """Every token sees the whole chunk."""
    lengths, *settings = rest
    each = torch.arange(len(q) + 1, dtype=torch.int32)
    rows = start.diff().long()
    tables, ends = (x.repeat_interleave(rows, 0) for x in (table, lengths))
    return reference.attention(q, cache, layer, tables, each, ends, *settings)


def from_zero(qkv: torch.Tensor, positions: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Positions start anew with each chunk."""
    return reference.rope_store(qkv, positions - positions[0], *rest)


def gemma_norm(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> Any:
    return reference.rms_norm(x, weight + 1, *rest)


def swapped(gate_up: torch.Tensor, kind: str) -> torch.Tensor:
    return reference.gated(gate_up.roll(gate_up.shape[-1] // 2, -1), kind)


def rope_mutations(rope: Rope) -> Iterator[tuple[str, Mutation]]:
    for kind in ("default", "linear", "dynamic", "yarn", "llama3"):
        if kind != rope.kind:
            scaled = {} if rope.factor > 1 else {"factor": 4.0}
            original = {} if rope.original else {"original": 16}
            yield f"RoPE {kind}", turned(kind=kind, **scaled, **original)
    yield "theta", turned(theta=rope.theta * 1.2)
    if rope.kind == "default":
        return
    yield "factor", turned(factor=rope.factor * 1.2)
    if rope.original:
        yield "original", turned(original=rope.original + 4)
    if rope.kind == "llama3":
        yield "low_freq_factor", turned(low_freq_factor=rope.low_freq_factor * 1.2)
        yield "high_freq_factor", turned(high_freq_factor=rope.high_freq_factor * 1.2)
    if rope.kind == "yarn":
        yield "attention_factor", turned(attention_factor=1.0)
        if not rope.truncate:
            yield "truncate", turned(truncate=True)
            yield "beta_fast", turned(beta_fast=rope.beta_fast * 0.7)
            yield "beta_slow", turned(beta_slow=rope.beta_slow * 1.4)


def mutations(config: ModelConfig) -> Iterator[tuple[str, Mutation]]:
    """What can be wrong with such a model."""
    yield from rope_mutations(config.rope)
    for other in (config.norm_eps / 10, 1e-5):
        yield f"eps {other:g}", configured(norm_eps=other)
    other_gate = "gelu_tanh" if config.activation == "silu" else "silu"
    yield other_gate, configured(activation=other_gate)
    yield "gate and up swapped", operating(gated=swapped)
    yield "pairs are neighbours", operating(rope_store=interleaved)
    yield "not causal", operating(attention=not_causal)
    yield "chunks start at 0", operating(rope_store=from_zero)
    yield "norms of Gemma", operating(rms_norm=gemma_norm)
    if config.head_dim * config.heads != config.hidden_size:
        yield "scale by hidden / heads", own_scale_of(config.hidden_size // config.heads)
    if 1 < config.kv_heads < config.heads:
        yield "KV heads in turn", operating(attention=wrong_groups)
    for i, window in enumerate(config.windows):
        for other in {None, (window or 20) + 1, (window or 20) - 1} - {window}:
            windows = (*config.windows[:i], other, *config.windows[i + 1 :])
            yield f"window {other} in layer {i}", configured(windows=windows)
    if len(set(config.windows)) > 1:
        yield "windows in other layers", configured(windows=config.windows[::-1])
    if config.qk_norm:
        yield "no q norm", layered(lambda x: replace(x, q_norm=None))
        yield "no k norm", layered(lambda x: replace(x, k_norm=None))
        yield "q norm after RoPE", operating(rope_store=normed_late)
    if config.qkv_bias:
        yield "no qkv bias", layered(lambda x: replace(x, qkv=unbiased(x.qkv)))
    if config.output_bias:
        yield "no output bias", layered(lambda x: replace(x, output=unbiased(x.output)))
    if config.mlp_bias:
        yield "no gate bias", layered(lambda x: replace(x, gate_up=unbiased(x.gate_up)))
        yield "no down bias", layered(lambda x: replace(x, down=unbiased(x.down)))
    if not config.tied:
        yield "tied", lambda model: replace(model, head=Linear(((model.embeddings, None),)))


def own_scale_of(dim: int) -> Mutation:
    """Scores are scaled for heads of another size."""

    def scaled(q: torch.Tensor, *rest: Any) -> torch.Tensor:
        return reference.attention(q * (q.shape[-1] / dim) ** 0.5, *rest)

    return operating(attention=scaled)


@pytest.mark.parametrize("name", CASES)
def test_mutations_are_caught(name: str) -> None:
    made = case(name)
    model = Model.load(made.checkpoint(), ops=REFERENCE)
    found = dict(mutations(model.config))
    missed = {}
    for what, mutate in found.items():
        got = our_logits(mutate(model), made.tokens, (20, 28))
        if (off := difference(got[20:], made.logits[20:])) < 10 * TOLERANCE:
            missed[what] = off
    assert not missed and len(found) > 12


# ---- batches and caches --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_sequences_of_a_batch_do_not_see_each_other(name: str) -> None:
    """Prefill, a chunk and a decode step in one pass give what each gives alone."""
    made = case(name)
    model = Model.load(made.checkpoint())
    tokens = [made.tokens, made.tokens[::-1], made.tokens[5:] + made.tokens[:5]]
    done, counts = (0, 30, 12), (17, 1, 9)
    cache = model.cache(24, tiny.BLOCK)
    sequences = [tiny.Sequence(t, 0, list(range(7 * i, 7 * i + 7))) for i, t in enumerate(tokens)]
    want = []
    for sequence, before, count in zip(sequences, done, counts, strict=True):
        alone = model.cache(24, tiny.BLOCK)
        for target in (alone, cache):
            sequence.computed = 0
            for part in (before, count)[: 2 if target is alone else 1]:
                if part:
                    batch = Batch.of([(sequence, part)], tiny.BLOCK)
                    logits = model.forward(batch, target)
                    sequence.computed += part
            if target is alone:
                want.append(logits)
    parts = list(zip(sequences, counts, strict=True))
    got = model.forward(Batch.of(parts, tiny.BLOCK), cache)
    assert got.shape == (3, COMMON["vocab_size"])
    assert difference(got, torch.cat(want)) < 1e-5


@pytest.mark.parametrize(("kv", "most"), [("f16", 5e-3), ("bf16", 5e-2), ("i8", 1e-1)])
def test_caches_of_other_types(kv: str, most: float) -> None:
    made = case("qwen3")
    model = Model.load(made.checkpoint())
    off = difference(our_logits(model, made.tokens, kv=kv), made.logits)
    assert 1e-6 < off < most


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    made = case("llama2")
    model = Model.load(made.checkpoint())
    with pytest.raises(TilusValueError, match="token 257 is not in the vocabulary of 257 tokens"):
        our_logits(model, [3, 257], [2])


# ---- loading -------------------------------------------------------------------------------------


def test_sharded_folders_and_progress(tmp_path: Any) -> None:
    from tilus.llm.checkpoints import open_checkpoint

    made = case("llama3")
    made.theirs.save_pretrained(tmp_path, max_shard_size="150KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    seen: list[tuple[int, int]] = []
    model = Model.load(open_checkpoint(tmp_path), progress=lambda *at: seen.append(at))
    assert difference(our_logits(model, made.tokens), made.logits) < TOLERANCE
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    assert len(seen) == len(made.checkpoint().names)
    parts = sum(t.numel() * 4 for t in made.checkpoint().tensors.values())
    assert model.nbytes == parts


def test_half_checkpoints() -> None:
    made = case("qwen2")
    checkpoint = made.checkpoint()
    checkpoint.tensors = {k: v.bfloat16() for k, v in checkpoint.tensors.items()}
    rounded = {k: v.float() for k, v in checkpoint.tensors.items()}
    with torch.no_grad():
        made.theirs.load_state_dict(rounded, strict=False)
        want = tiny.their_logits(made.theirs, made.tokens)
        made.theirs.load_state_dict(case("qwen2").checkpoint().tensors, strict=False)
    wide = Model.load(checkpoint, dense="f32")
    assert difference(our_logits(wide, made.tokens), want) < TOLERANCE
    half = Model.load(checkpoint)
    assert half.nbytes < 0.6 * wide.nbytes
    assert TOLERANCE < difference(our_logits(half, made.tokens), want) < 0.05
    checkpoint.tensors = {k: v.half() for k, v in made.checkpoint().tensors.items()}
    full = Model.load(checkpoint)
    assert full.embeddings.dtype == dtypes.f32
    assert difference(our_logits(full, made.tokens), made.logits) < 1e-2


def dequantised(model: Model) -> dict[str, torch.Tensor]:
    """The weights a model computes with, under the names of a checkpoint."""
    c, found = model.config, {}
    roles = family_of({"model_type": c.family}).roles(c)

    def put(names: Any, linear: Linear) -> None:
        whole = torch.cat([w.dequantize() for w, _ in linear.parts])
        for (name, rows), part in zip(names, whole.split([n for _, n in names]), strict=True):
            assert len(part) == rows
            found[f"{name}.weight"] = part

    for names, layer in zip(roles.layers, model.layers, strict=True):
        for role in ("qkv", "output", "gate_up", "down"):
            put(getattr(names, role).parts, getattr(layer, role))
    put(((roles.embeddings.removesuffix(".weight"), c.vocab_size),), model.head)
    return found


@pytest.mark.parametrize(("weights", "group"), [(dtypes.u4, 128), (dtypes.f6e3m2, 16)])
def test_quantised_models_compute_with_what_their_weights_stand_for(
    weights: dtypes.DType, group: int
) -> None:
    """Each matrix has the largest group that fits: rows of 64 and 96, or 16 throughout."""
    made = case("llama3", layers=1)
    checkpoint = made.checkpoint()
    model = Model.load(checkpoint, weights=weights, group_size=group, ops=EXACT)
    expected = (64, 32) if group == 128 else (16, 16)
    first = model.layers[0]
    assert tuple(x.parts[0][0].group_size for x in (first.qkv, first.down)) == expected
    down = checkpoint.tensors["model.layers.0.mlp.down_proj.weight"]
    searched = quantize_rtn(down, weights, expected[1])  # not the plain scales
    assert torch.equal(first.down.parts[0][0].codes.storage, searched.codes.storage)
    assert torch.equal(first.down.parts[0][0].scales.storage, searched.scales.storage)
    assert len(first.qkv.parts) == len(first.gate_up.parts) == 1
    assert model.head.parts[0][0] is model.embeddings and model.nbytes < 0.3 * sum(
        t.numel() * 4 for t in checkpoint.tensors.values()
    )
    checkpoint.tensors.update(dequantised(model))
    plain = Model.load(checkpoint)
    tokens = made.tokens[:9]
    want = our_logits(plain, tokens, [8, 1])
    assert difference(our_logits(model, tokens, [8, 1]), want) < TOLERANCE
    assert difference(want, made.logits[:9]) > TOLERANCE


def test_layers_of_mixed_types_keep_them() -> None:
    """As in GGUF files: parts that agree are one weight, others stay apart."""
    made = case("llama3", layers=1)
    checkpoint = made.checkpoint()
    plain = made.checkpoint()
    at = "model.layers.0"
    types = {
        f"{at}.self_attn.q_proj": "u4",
        f"{at}.self_attn.k_proj": "u4",
        f"{at}.self_attn.v_proj": "u8",
        f"{at}.mlp.gate_proj": "u4",
        f"{at}.mlp.up_proj": "u4",
    }
    for name, kind in types.items():
        weight = quantize_weight(checkpoint.tensors[f"{name}.weight"], kind, group_size=32)
        checkpoint.tensors[f"{name}.weight"] = weight
        plain.tensors[f"{name}.weight"] = weight.dequantize()
    model = Model.load(checkpoint, ops=EXACT)
    first = model.layers[0]
    assert [len(x.parts) for x in (first.qkv, first.gate_up, first.down)] == [3, 1, 1]
    want = our_logits(Model.load(plain), made.tokens[:9], [8, 1])
    assert difference(our_logits(model, made.tokens[:9], [8, 1]), want) < TOLERANCE


def test_tied_models_with_a_head_of_their_own() -> None:
    """As in transformers: the same numbers are tied, others are used."""
    made = case("mistral")
    checkpoint = made.checkpoint()
    assert "lm_head.weight" not in checkpoint.names and checkpoint.config["tie_word_embeddings"]
    table = checkpoint.tensors["model.embed_tokens.weight"]
    checkpoint.tensors["lm_head.weight"] = table.clone()
    model = Model.load(checkpoint)
    assert model.head.parts[0][0] is model.embeddings
    checkpoint.tensors["lm_head.weight"] = table.flip(0)
    other = our_logits(Model.load(checkpoint), made.tokens)
    assert difference(other.flip(-1), made.logits) < TOLERANCE


# ---- refusals ------------------------------------------------------------------------------------


def test_every_wrong_tensor_is_named() -> None:
    checkpoint = case("llama2").checkpoint()
    tensors, at = checkpoint.tensors, "model.layers.1"
    del tensors["lm_head.weight"], tensors[f"{at}.input_layernorm.weight"]
    tensors[f"{at}.self_attn.k_proj.weight"] = torch.zeros(32, 64)
    tensors[f"{at}.self_attn.q_proj.bias"] = torch.zeros(64)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)  # old files have it
    with pytest.raises(TilusValueError) as caught:
        Model.load(checkpoint)
    assert [d.message for d in caught.value.diagnostics] == [
        "tensor `lm_head.weight` [257, 64] is missing",
        f"tensor `{at}.input_layernorm.weight` [64] is missing",
        f"tensor `{at}.self_attn.k_proj.weight` is [32, 64]; the config makes it [64, 64]",
        f"tensor '{at}.self_attn.q_proj.bias' has no place in this model of family llama",
    ]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qwen3", {"head_dim": 16}, "makes it"),
        ("qwen3", {"head_dim": None}, "makes it"),  # 128, not hidden / heads
        ("llama-yarn", {"head_dim": None}, "makes it"),
        ("llama2", {"tie_word_embeddings": True, "vocab_size": 256}, "makes it"),
        ("llama2", {"num_hidden_layers": 3}, "has no place"),
        ("llama2", {"num_hidden_layers": 5}, "is missing"),
        ("mistral", {"tie_word_embeddings": False}, "`lm_head.weight` .* is missing"),
        ("llama3", {"attention_bias": False}, "q_proj.bias' has no place"),
        ("qwen2", {"model_type": "llama"}, "q_proj.bias' has no place"),
        ("llama2", {"model_type": "qwen2"}, "q_proj.bias` .* is missing"),
        ("qwen3", {"model_type": "llama"}, "q_norm.weight' has no place"),
    ],
)
def test_configs_that_do_not_fit_the_tensors(name: str, change: Any, message: str) -> None:
    checkpoint = case(name).checkpoint()
    checkpoint.config.update(change)
    with pytest.raises(TilusValueError, match=message):
        Model.load(checkpoint)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group_size": 48}, "`group_size` is 48"),
        ({"dense": "f8"}, "`dense` is 'f8'; it is one of f32, bf16"),
    ],
)
def test_arguments_of_load(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TilusValueError, match=message):
        Model.load(case("llama2").checkpoint(), **arguments)


def test_integers_are_not_weights() -> None:
    checkpoint = case("llama2").checkpoint()
    name = "model.layers.0.mlp.up_proj.weight"
    checkpoint.tensors[name] = checkpoint.tensors[name].int()
    with pytest.raises(TilusTypeError, match=f"tensor `{name}` holds int32"):
        Model.load(checkpoint)


def test_errors_say_which_file() -> None:
    checkpoint = case("llama2").checkpoint()
    checkpoint.format = "gguf"  # type: ignore[attr-defined]
    checkpoint.config["num_attention_heads"] = 0
    with pytest.raises(TilusError, match="the GGUF file: `num_attention_heads` is 0"):
        Model.load(checkpoint)


def test_numbers_that_cannot_be_quantised_are_named() -> None:
    checkpoint = case("llama2").checkpoint()
    name = "model.layers.2.mlp.down_proj.weight"
    checkpoint.tensors[name] = checkpoint.tensors[name] / 0
    with pytest.raises(TilusValueError, match=f"tensor {name}: `weight` holds NaN or infinity"):
        Model.load(checkpoint, weights=dtypes.u4)


def test_every_operation_can_be_replaced() -> None:
    """All maths goes through `Ops`."""
    used = set()

    def spying(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            used.add(name)
            return getattr(Ops(), name)(*arguments)

        return call

    # `generate` uses `sample`, models of mixed types `join`.
    names = set(Ops.__dataclass_fields__) - {"sample", "join", "prepare", "recordable"}
    made = case("qwen3")
    model = Model.load(made.checkpoint(), ops=Ops(**{name: spying(name) for name in names}))
    our_logits(model, made.tokens[:4], [4])
    assert used == names
