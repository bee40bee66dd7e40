"""`tilus eval` and `tilus info MODEL`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.models import TEXT, write_model
from tests.cli.test_run import as_json
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.model import Model
from tilus.llm.perplexity import perplexity
from tilus.llm.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]


def test_the_figures_are_the_librarys(tilus: Run, model: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(model)
    tokenizer, loaded = Tokenizer.load(opened.tokenizer), Model.load(opened)
    ids = tokenizer.encode(TEXT, special=False)
    assert tokenizer.bos_id is not None
    want = perplexity(
        loaded, ids, len(TEXT.encode()), prefix=[tokenizer.bos_id], window=48, stride=20
    )
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    how = ("--kv", "f32", "--window", 48, "--stride", 20)
    for text in (("--text", tmp_path / "text"), ()):  # the model's own is the same
        found = as_json(tilus, "eval", model, *text, *how)
        assert math.isclose(found["perplexity"], want.perplexity, rel_tol=1e-6)
        assert math.isclose(found["bits_per_byte"], want.bits_per_byte, rel_tol=1e-6)
        assert (found["tokens"], found["text_bytes"]) == (len(ids), len(TEXT.encode()))
        assert found["tokens_per_s"] > 0 and found["model_bytes"] == loaded.nbytes
        assert (found["weights"], found["kv"]) == ("f32", "f32")
    code, out, err = tilus("eval", model, *how)
    assert (code, err) == (0, "")
    assert out.startswith(f"perplexity     {want.perplexity:.4f}\nbits per byte  ")


def test_quantised_weights_predict_otherwise(tilus: Run, model: Path) -> None:
    plain = as_json(tilus, "eval", model)
    coarse = as_json(tilus, "eval", model, "--weights", "u4", "--group-size", 0)
    assert coarse["model_bytes"] < plain["model_bytes"] / 5
    assert (coarse["weights"], coarse["group_size"]) == ("u4", 0)
    assert abs(math.log(coarse["perplexity"] / plain["perplexity"])) > 1e-3


def test_standard_input(tilus: Run, stdin: Callable[[bytes], None], model: Path) -> None:
    stdin(TEXT[:80].encode())
    assert as_json(tilus, "eval", model, "--text", "-")["text_bytes"] == len(TEXT[:80].encode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "1"], "--window is 1; it is 2 at least"),
        (["--window", "20", "--stride", "21"], "--stride is 21; in windows of 20 it is from 1 to"),
        (["--stride", "0"], "argument --stride: '0' is not a number from 1 on"),
        (["--text", "gone"], "--text: cannot read gone: No such file or directory"),
        (["--text", "latin"], "--text: latin is not UTF-8 at byte 1"),
        (["--text", "empty"], "--text is empty"),
    ],
)
def test_wrong_options(
    tilus: Run,
    model: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin").write_bytes(b"x\xe4x")
    Path("empty").write_bytes(b"")
    code, out, err = tilus("eval", model, *arguments)
    assert (code, out) == (2, "") and err.startswith(f"tilus: {message}")


def test_a_text_is_needed(tilus: Run, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other")
    (other / "validation.txt").unlink()
    code, _, err = tilus("eval", other)
    assert code == 2 and err.startswith("tilus: --text FILE is missing: the model has no valid")


# ---- tilus info MODEL ----------------------------------------------------------------------------


def test_info(tilus: Run, model: Path) -> None:
    found = as_json(tilus, "info", model)
    parameters = 2 * 300 * 64 + 2 * (64 * (64 + 64 + 64) + 64 * 96 * 3) + 5 * 64
    assert found["parameters"] == parameters and found["bytes"] == 4 * parameters
    assert found["types"] == [{"type": "f32", "parameters": parameters, "bytes": 4 * parameters}]
    want = {
        "format": "safetensors", "family": "llama", "layers": 2, "hidden_size": 64,
        "inner_size": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab_size": 300,
        "context": 65536, "tied_embeddings": False, "chat_template": True,
        "licenses": ["LICENSE-MODEL"],
    }  # fmt: skip
    assert {key: found[key] for key in want} == want
    assert found["tokenizer"] == {"tokens": 300, "bos_id": 0, "eos_ids": [1]}
    code, out, err = tilus("info", model)
    words = {line.split("  ")[0]: line.split("  ")[-1] for line in out.splitlines()}
    assert (code, err) == (0, "") and words["license"].strip() == "LICENSE-MODEL"
    assert words["parameters"].strip() == f"{parameters:,}" and "template" in words["chat"]


def test_info_of_quantised_models(tilus: Run, model: Path, tmp_path: Path) -> None:
    kept = ("--keep", "lm_head.weight", "--json")
    command = ("quantize", model, tmp_path / "q", "--weights", "u3", "--group-size", 32, *kept)
    report = json.loads(tilus(*command)[1])
    found = as_json(tilus, "info", tmp_path / "q")
    assert found["format"] == "tilus" and found["bytes"] == report["bytes"]
    types = {t["type"]: t for t in found["types"]}
    assert set(types) == {"u3", "f32"}
    assert types["f32"]["parameters"] == 300 * 64 + 5 * 64
    assert types["u3"]["bytes"] * 8 == types["u3"]["parameters"] * (3 + 24 / 32)


def test_info_without_a_tokenizer(tilus: Run, tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare", chat=False)
    assert as_json(tilus, "info", bare)["chat_template"] is False
    (bare / "tokenizer.json").unlink()
    found = as_json(tilus, "info", bare)
    assert found["tokenizer"] is None and "no tokenizer.json" in found["tokenizer_error"]
    assert "\ntokenizer   none: " in tilus("info", bare)[1]
    code, out, err = tilus("info", tmp_path / "gone")
    assert (code, out) == (1, "") and err.count("\n") == 1
