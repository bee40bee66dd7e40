"""`tilus bench model`: what it counts, what it prints, and the shapes it knows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tilus import dtypes
from tilus.kernels import bench as probes
from tilus.llm.batch import Batch, Sequence
from tilus.llm.bench import Round, _median, _pairs, _parts, bytes_read, operations
from tilus.llm.model import Model
from tilus.llm.models import family_of
from tilus.llm.shapes import SHAPES, RandomModel, config_of

Run = Callable[..., tuple[int, str, str]]

PUBLISHED = {  # parameters, a tied head counted once
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}
TINY = {
    "model_type": "mistral", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 700, "tie_word_embeddings": True, "sliding_window": 24,
}  # fmt: skip
LAYER = 64 * (64 + 64 + 64) + 64 * 96 * 3  # weights of its products


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setattr(probes, "READ_BYTES", 8 << 20)
    monkeypatch.setattr(probes, "PROBE_BYTES", 1 << 20)


def test_shapes_are_those_published() -> None:
    for name, parameters in PUBLISHED.items():
        model = RandomModel(config_of(name), dtypes.u4)
        assert sum(math.prod(model.shape(n)) for n in model.names) == parameters, name
    assert SHAPES.keys() - {"tiny"} == PUBLISHED.keys()


@pytest.mark.parametrize("name", ["u1", "u4", "i3", "f8e5m2", "f8e4m3", "f6e3m2", "nf4", "bf16"])
def test_random_weights_are_of_one_size(name: str) -> None:
    """Finite, of variance 1 / inputs, other ones in each matrix; the model can be run."""
    kind = dtypes.dtype(name)
    source = RandomModel(TINY | {"num_hidden_layers": 1}, kind, 32)
    found = [source.load(n) for n in source.names if len(source.shape(n)) == 2]
    dense = [w if isinstance(w, torch.Tensor) else w.dequantize() for w in found]
    for w in dense:
        assert torch.isfinite(w).all()
        assert 0.8 < float(w.float().square().mean()) * w.shape[1] < 1.25
    assert not torch.equal(dense[1], dense[4][: len(dense[1])])


@pytest.mark.parametrize("name", ["u4", "bf16"])
def test_a_random_model_gives_logits(name: str) -> None:
    model = Model.load(RandomModel(TINY, dtypes.dtype(name), 64))
    sequence = Sequence([1, 2, 3, 4], 0, [0])
    logits = model.forward(Batch.of([(sequence, 4)], 16), model.cache(1, 16))
    assert logits.isfinite().all() and 0.3 < float(logits.std()) < 3


def test_what_is_counted() -> None:
    model = Model.load(RandomModel(TINY, dtypes.u4, 32))
    head = 96 * 64
    weights = (3 * LAYER + head) * (4 + 24 / 32) / 8  # codes, f16 scales, u8 zero points
    token = 2 * 3 * 2 * 16  # keys and values of 3 layers, 2 heads
    assert bytes_read(model, "bf16", 10) == weights + 10 * token * 2
    assert bytes_read(model, "i8", 10) == weights + 10 * (token + 2 * 3 * 2 * 4)
    assert bytes_read(model, "f32", 100) == weights + 24 * token * 4  # no more than the window
    attention = 2 * 2 * 64  # operations for a token that sees one: scores and sums
    seen = [min(i + 1, 24) for i in range(40)]
    want = 2 * 3 * LAYER * 40 + 2 * head + 3 * sum(seen) * attention
    assert operations(model, 40) == want
    assert [_pairs(n, None) for n in (1, 2, 40)] == [1, 3, 820]


def test_rounds() -> None:
    assert _parts(3) == [1, 1, 1] and _parts(128) == [16] * 8
    assert sum(_parts(61)) == 61 and len(_parts(61)) == 8
    rounds = [Round(1.0, 30.0, 0.5), Round(3.0, 10.0, 0.1), Round(2.0, 20.0, 0.9)]
    assert _median(rounds) == Round(2.0, 20.0, 0.5)


def test_the_command(tilus: Run, tmp_path: Path) -> None:
    sizes = ("--prompt", 20, "--generate", 6, "--context", 40, "--layers", 2, "--group-size", 32)
    command = ("bench", "model", "--shape", "tiny", "--weights", "u4,bf16", *sizes)
    code, out, err = tilus(*command, "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("ceilings: ") and lines[2].startswith("weights ")
    assert [line.split()[0] for line in lines[3:]] == ["u4", "bf16"]
    small, large = json.loads((tmp_path / "report.json").read_text())["models"]
    assert (small["weights"], small["layers"], small["context"]) == ("u4", 2, 40)
    for row in (small, large):
        assert row["prefill_tokens_per_s"] > 0 and row["decode_tokens_per_s"] > 0
        seconds = row["bytes_per_token"] / (row["stream_gbps"] * 1e9)
        assert row["of_stream"] == pytest.approx(seconds * row["decode_tokens_per_s"], rel=0.9)
        assert 0 < row["of_peak"] < 1
    assert small["model_bytes"] < large["model_bytes"] / 2
    assert json.loads(tilus(*command[:6], *sizes, "--json")[1])["models"][0]["weights"] == "u4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "gpt-5"], "--shape is 'gpt-5'; it is one of llama-2-7b, "),
        (["--layers", "4"], "--layers is 4; tiny has 3"),
        (["--context", "600"], "--context asks for 733 tokens; tiny has 700"),
        (["--prompt", "800", "--context", "1"], "--prompt asks for 800 tokens; tiny has 700"),
        (["--weights", "u4,x"], "--weights: unknown element type 'x'"),
        (
            ["--weights", "u4,f16"],
            "--weights: f16; weights have at most 8 bits, or",
        ),
        (["--weights", "e8m0"], "--weights: e8m0; weights have at most 8 bits, or"),
    ],
)
def test_wrong_options(tilus: Run, arguments: list[str], message: str) -> None:
    code, out, err = tilus("bench", "model", "--shape", "tiny", *arguments)
    assert (code, out) == (2, "") and err.startswith(f"tilus: {message}")
    assert err.count("\n") == 1


def test_families_of_the_shapes_are_known() -> None:
    kinds = {family_of(config_of(name)).name for name in PUBLISHED}
    assert kinds == {"llama", "mistral", "qwen2", "qwen3"}
