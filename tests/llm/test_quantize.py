"""Quantising: scales better than the plain ones, and jobs that survive being killed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.llm.folders import HIDDEN, INNER, tensors, write_model
from tests.llm.gguf_bytes import llama
from tilus import dtypes
from tilus.cli import main
from tilus.dtypes import NARROW_TYPES, DType, Kind
from tilus.errors import TilusTypeError, TilusValueError
from tilus.kernels.quantized import GROUPS, SCALES, QuantizedWeight, quantize_weight
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.checkpoints.tilus_format import TilusCheckpoint
from tilus.llm.quantize import job, rtn
from tilus.llm.quantize.job import Settings, quantize
from tilus.llm.quantize.rtn import nearest_values, quantize_rtn, squared_errors

WEIGHTS = [t for t in NARROW_TYPES if t not in (dtypes.bool_, dtypes.e8m0)]
U4 = Settings(dtypes.u4, 32)
PLAIN = Settings(dtypes.u4, 32, clip_search=False)


def matrix(n: int, k: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, of which some are far out, and rows of different size."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator)
    w[torch.rand(n, k, generator=generator) < 0.01] *= 5
    return w * torch.logspace(-3, 1, n)[:, None]


def group_errors(w: torch.Tensor, q: QuantizedWeight) -> torch.Tensor:
    n, k = w.shape
    off = (w.double() - q.dequantize().double()).reshape(n, -1, q.group_size or k)
    return off.square().sum(2)


def same(a: QuantizedWeight, b: QuantizedWeight) -> bool:
    pairs = [(a.codes, b.codes), (a.scales, b.scales)]
    if a.zeros is not None and b.zeros is not None:
        pairs.append((a.zeros, b.zeros))
    zeros = (a.zeros is None) == (b.zeros is None)
    return zeros and a.group_size == b.group_size and all(x.equal(y) for x, y in pairs)


# --- one matrix ---


@pytest.mark.parametrize("dtype", WEIGHTS, ids=str)
def test_no_group_is_worse_than_plain_and_all_together_are_better(dtype: DType) -> None:
    w = matrix(24, 128)
    for zero_point in (None, "float") if dtype.kind is Kind.UINT else (None,):
        searched = quantize_rtn(w, dtype, 32, zero_point=zero_point)
        plain = quantize_weight(w, dtype, group_size=32, zero_point=zero_point)
        mine, theirs = group_errors(w, searched), group_errors(w, plain)
        assert (mine <= theirs * (1 + 1e-5) + 1e-30).all()
        assert mine.sum() < 0.999 * theirs.sum()
        assert searched.types == plain.types and searched.group_size == 32


# Of normal numbers in groups of 32, what the search leaves of plain rounding's error at most.
GAINS = {
    "u1": 0.74,
    "u2": 0.83,
    "i2": 0.86,
    "u3": 0.93,
    "i3": 0.86,
    "i4": 0.87,
    "nf4": 0.92,
    "u8": 0.93,
}


@pytest.mark.parametrize("dtype", GAINS)
def test_the_search_is_worth_it(dtype: str) -> None:
    w = torch.randn(64, 256, generator=torch.Generator().manual_seed(3))
    plain, searched = (quantize_rtn(w, dtype, 32, clip_search=c) for c in (False, True))
    (before, _), (after, _) = squared_errors(w, plain), squared_errors(w, searched)
    assert (after / before) ** 0.5 < GAINS[dtype]


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("group", [*GROUPS, 0])
def test_every_group_size_and_scale_type(group: int, scales: DType) -> None:
    w = matrix(9, 512)
    for dtype in ("u3", "i4", "f4e2m1"):
        searched = quantize_rtn(w, dtype, group, scales)
        plain = quantize_weight(w, dtype, group_size=group or None, scale_dtype=scales)
        assert (group_errors(w, searched) <= group_errors(w, plain) * (1 + 1e-5) + 1e-30).all()
        assert searched.scales.dtype == scales and searched.group_size == group


@pytest.mark.parametrize("dtype", [t for t in WEIGHTS if not t.is_integer], ids=str)
def test_values_are_those_of_the_type(dtype: DType) -> None:
    """What the search rounds to is what codes mean; of two as near, either."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(1)) * float(dtype.max) / 2
    x = torch.cat([x, torch.tensor([0.0, float(dtype.max) * 3, float(dtype.min) * 3])])
    want = dtypes.convert(x.numpy(), dtypes.f32, dtype).astype("f4")
    got = nearest_values(x.clone(), dtype).numpy()
    assert (abs(got - x.numpy()) == abs(want - x.numpy())).all()


def test_without_a_search_it_is_plain_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    w = matrix(37, 64).to(torch.bfloat16)
    monkeypatch.setattr(rtn, "CHUNK", 64 * 16)  # several chunks of 16 rows
    for dtype, group in itertools.product(("u3", "u7", "f5e2m2", "nf4"), (16, None)):
        plain = quantize_weight(w, dtype, group_size=group)
        assert same(quantize_rtn(w, dtype, group, clip_search=False), plain)


@pytest.mark.parametrize("dtype", ["u1", "i3", "f6e3m2"])
def test_chunks_do_not_change_the_result(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = matrix(37, 64)
    whole = quantize_rtn(w, dtype, 32)
    monkeypatch.setattr(rtn, "CHUNK", 1)  # chunks of 8 rows
    assert same(quantize_rtn(w, dtype, 32), whole)
    squares = squared_errors(w, whole)
    monkeypatch.undo()
    assert squares == pytest.approx(squared_errors(w, whole), rel=1e-12)
    off = (w - whole.dequantize()).double()
    assert squares == pytest.approx((off.square().sum().item(), w.double().square().sum().item()))


def test_a_quantised_weight_is_quantised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtn, "CHUNK", 64 * 8)
    first = quantize_rtn(matrix(21, 64), "u5", 32, "bf16", zero_point="float")
    again = quantize_rtn(first, "u3", 16)
    assert same(again, quantize_rtn(first.dequantize(), "u3", 16))
    assert squared_errors(first, again)[0] > 0


@pytest.mark.parametrize("zero_point", [None, "float"])
def test_groups_without_spread(zero_point: str | None) -> None:
    """All zero, all the same, one number among zeros, and far from zero."""
    w = torch.zeros(32, 32)
    w[1], w[2, 5], w[3] = 2.5, -3.0, 100 + torch.rand(32)
    for dtype in ("u4", "u1", "u8"):
        q = quantize_rtn(w, dtype, 32, zero_point=zero_point)
        assert torch.isfinite(q.dequantize()).all() and not q.dequantize()[0].any()
        assert torch.allclose(q.dequantize()[1:3], w[1:3], rtol=1e-3)
        assert (q.dequantize()[3] - w[3]).abs().max() < 1.1
    for dtype in ("i4", "f4e2m1", "nf4", "f8e4m3"):
        assert not quantize_rtn(w, dtype, 32).dequantize()[0].any()


def test_bad_arguments() -> None:
    w = torch.randn(16, 64)
    with pytest.raises(TilusValueError, match="`weight` holds NaN"):
        quantize_rtn(w / 0 * 0, "u4", 32)
    with pytest.raises(TilusValueError, match="too large for f16 scales"):
        quantize_rtn(w.double() * 1e9, "u1", 32)
    with pytest.raises(TilusTypeError, match="`dtype` is e8m0"):
        quantize_rtn(w, "e8m0", 32)
    with pytest.raises(TilusValueError, match="no multiple of the group"):
        quantize_rtn(w, "u4", 128)
    with pytest.raises(TilusTypeError, match="`weight` must be a float tensor"):
        quantize_rtn(w[0], "u4", 32)


# --- a whole model ---


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_model(model: Path, tmp_path: Path) -> None:
    report = quantize(model, tmp_path / "q", U4)
    source, result = open_checkpoint(model), open_checkpoint(tmp_path / "q")
    assert result.format == "tilus" and result.names == source.names
    assert result.config == source.config
    assert result.tokenizer.folder == tmp_path / "q"
    assert (tmp_path / "q" / "tokenizer.json").read_text() == '{"version": "1.0"}'
    assert sorted(os.listdir(tmp_path)) == ["model", "q"]
    assert sorted(os.listdir(tmp_path / "q")) == [
        *("config.json", "model.safetensors", "tilus.json", "tokenizer.json"),
    ]
    error = squared = 0.0
    for row in report.rows:
        name = row.entry.name
        before, after = source.load(name), result.load(name)
        assert isinstance(before, torch.Tensor) and result.shape(name) == before.shape
        if before.dim() == 2:
            assert isinstance(after, QuantizedWeight)
            assert same(after, quantize_rtn(before, "u4", 32))
            squares = squared_errors(before, after)
            assert row.error == pytest.approx((squares[0] / squares[1]) ** 0.5)
            assert row.nbytes == after.nbytes
            error, squared = error + squares[0], squared + squares[1]
        else:
            assert isinstance(after, torch.Tensor) and torch.equal(after, before)
            assert row.error is None and after.dtype == before.dtype
    assert report.error == pytest.approx((error / squared) ** 0.5) and 0.02 < report.error < 0.12
    assert report.bits == 4 + (16 + 8) / 32
    assert not report.notices and not report.resumed


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_kept_tensors_stay_as_they_are(kind: torch.dtype, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", tensors(kind))
    keep = ("lm_head.*", "*.1.mlp.down_proj.weight")
    quantize(model, tmp_path / "q", Settings(dtypes.dtype("f3e1m1"), 16, keep=keep))
    source, result = open_checkpoint(model), open_checkpoint(tmp_path / "q")
    kept = {n for n in source.names if isinstance(result.load(n), torch.Tensor)}
    assert {"lm_head.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"} <= kept
    assert "model.layers.0.mlp.down_proj.weight" not in kept
    for name in kept:
        before, after = source.load(name), result.load(name)
        assert isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
        assert torch.equal(before, after) and after.dtype == kind


def test_rows_that_the_group_does_not_divide(tmp_path: Path) -> None:
    weights = tensors()
    weights["model.layers.0.mlp.down_proj.weight"] = torch.randn(HIDDEN, 40)
    model = write_model(tmp_path / "model", weights)
    report = quantize(model, tmp_path / "q", Settings(dtypes.u4, 64))
    groups = {row.entry.name: row.entry.group_size for row in report.rows}
    assert groups["model.layers.0.mlp.down_proj.weight"] == 0
    assert groups["model.layers.1.mlp.down_proj.weight"] == 32 and INNER == 96
    assert groups["lm_head.weight"] == 64
    assert report.notices == [
        "tensors with rows of 40, no multiple of 64, have one scale for each row: 1",
        "tensors with rows of 96, no multiple of 64, have groups of 32: 1",
    ]
    open_checkpoint(tmp_path / "q").load("model.layers.0.mlp.down_proj.weight")


def test_shards(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "one", PLAIN)
    quantize(model, tmp_path / "more", PLAIN, shard_bytes=12_000)
    shards = sorted(p for p in (tmp_path / "more").iterdir() if p.suffix == ".safetensors")
    assert len(shards) > 2 and shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(path.stat().st_size <= 12_000 for path in shards)
    one, more = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "more")
    for name in one.names:
        a, b = one.load(name), more.load(name)
        if isinstance(a, QuantizedWeight):
            assert isinstance(b, QuantizedWeight) and same(a, b)
        else:
            assert isinstance(b, torch.Tensor) and torch.equal(a, b)


def test_from_our_own_format(model: Path, tmp_path: Path) -> None:
    """What is kept stays packed, what is not is quantised again."""
    quantize(model, tmp_path / "q8", Settings(dtypes.u8, 32))
    settings = Settings(dtypes.u3, 16, keep=("lm_head.weight",))
    report = quantize(tmp_path / "q8", tmp_path / "q3", settings)
    assert report.notices == ["tensors that were quantised before lose a second time: 15"]
    before, after = open_checkpoint(tmp_path / "q8"), open_checkpoint(tmp_path / "q3")
    head = (before.load("lm_head.weight"), after.load("lm_head.weight"))
    assert isinstance(head[0], QuantizedWeight) and isinstance(head[1], QuantizedWeight)
    assert same(*head)
    table = before.load("model.embed_tokens.weight"), after.load("model.embed_tokens.weight")
    assert isinstance(table[0], QuantizedWeight) and isinstance(table[1], QuantizedWeight)
    assert same(table[1], quantize_rtn(table[0].dequantize(), "u3", 16))


def test_from_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(llama())
    report = quantize(tmp_path / "model.gguf", tmp_path / "q", Settings(dtypes.u6))
    assert report.notices == [
        "tensors with rows of 8, no multiple of 128, have one scale for each row: 7",
        "tensors with rows of 12, no multiple of 128, have one scale for each row: 1",
    ]
    before, after = open_checkpoint(tmp_path / "model.gguf"), open_checkpoint(tmp_path / "q")
    assert after.config == before.config and after.names == before.names
    assert after.tokenizer == before.tokenizer and after.tokenizer.gguf is not None
    q = before.load("model.layers.0.self_attn.q_proj.weight")
    ours = after.load("model.layers.0.self_attn.q_proj.weight")
    assert isinstance(q, torch.Tensor) and isinstance(ours, QuantizedWeight)
    assert (ours.dequantize() - q).norm() < 0.03 * q.norm()


class Stop(Exception):
    """Raised in the middle of a job."""


class After:
    """Progress that ends the job before tensor `count`, and remembers what was begun."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.names: list[str] = []

    def __call__(self, done: int, total: int, name: str) -> None:
        assert 0 <= done < total
        if len(self.names) == self.count:
            raise Stop
        self.names.append(name)


@pytest.mark.parametrize("count", [0, 1, 7, 22])
def test_a_stopped_job_goes_on(count: int, model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "whole", PLAIN, shard_bytes=12_000)
    with pytest.raises(Stop):
        quantize(model, tmp_path / "q", PLAIN, shard_bytes=12_000, progress=After(count))
    assert not (tmp_path / "q").exists()
    rest = After(99)
    report = quantize(model, tmp_path / "q", PLAIN, shard_bytes=12_000, progress=rest)
    assert report.resumed == count and len(rest.names) == len(report.rows) - count
    assert content(tmp_path / "q") == content(tmp_path / "whole")
    assert not (tmp_path / "q.partial").exists()


KILLED = """
import os, signal, sys
from tilus import dtypes
from tilus.llm.quantize.job import Settings, quantize
left = 9
def progress(done, total, name):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
quantize(sys.argv[1], sys.argv[2], Settings(dtypes.u4, 32), progress=progress)
"""


def test_a_killed_job_goes_on(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(model), str(tmp_path / "q")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    with (tmp_path / "q.partial" / job.JOURNAL).open("ab") as journal:
        journal.write(b'{"name": "model.norm.we')  # killed in the middle of a line
    report = quantize(model, tmp_path / "q", U4)
    assert report.resumed == 8
    quantize(model, tmp_path / "whole", U4)
    assert content(tmp_path / "q") == content(tmp_path / "whole")


def test_what_is_damaged_meanwhile_is_done_again(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        quantize(model, tmp_path / "q", PLAIN, progress=After(5))
    with (tmp_path / "q.partial" / "model.safetensors").open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        file.seek(8 + length + header["model.embed_tokens.weight.codes"]["data_offsets"][0])
        file.write(b"\0\1\2\3\4\5\6\7")
    report = quantize(model, tmp_path / "q", PLAIN)
    assert report.resumed == 4
    quantize(model, tmp_path / "whole", PLAIN)
    assert content(tmp_path / "q") == content(tmp_path / "whole")


def test_another_job_is_not_mixed_in(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "q"
    with pytest.raises(Stop):
        quantize(model, target, PLAIN, progress=After(5))
    other = Settings(dtypes.u4, 32)
    with pytest.raises(TilusValueError, match=r"other settings \(clip_search False\); delete it"):
        quantize(model, target, other)
    os.utime(model / "model.safetensors", ns=(1, 1))
    with pytest.raises(TilusValueError, match="unfinished model of another source"):
        quantize(model, target, PLAIN)
    report = quantize(model, target, other, force=True)
    assert report.resumed == 0
    made = open_checkpoint(target)
    assert isinstance(made, TilusCheckpoint) and made.made["clip_search"] is True


def test_two_jobs_at_once(model: Path, tmp_path: Path) -> None:
    def second(done: int, total: int, name: str) -> None:
        with pytest.raises(TilusValueError, match=r"another job is writing to .*q\.partial"):
            quantize(model, tmp_path / "q", PLAIN)

    quantize(model, tmp_path / "q", PLAIN, progress=second)


def test_destinations_that_are_taken(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "q"
    (tmp_path / "empty").mkdir()
    quantize(model, tmp_path / "empty", PLAIN)
    quantize(model, target, PLAIN)
    with pytest.raises(TilusValueError, match="is there already; --force replaces it"):
        quantize(model, target, PLAIN)
    quantize(model, target, Settings(dtypes.u2, 32), force=True)
    made = open_checkpoint(target)
    assert isinstance(made, TilusCheckpoint) and made.made["weights"] == "u2"
    assert sorted(os.listdir(tmp_path)) == ["empty", "model", "q"]
    with pytest.raises(TilusValueError, match="holds something else, which --force does not"):
        quantize(target, model, PLAIN, force=True)
    for place in (model, tmp_path):
        with pytest.raises(TilusValueError, match="is where the source is"):
            quantize(model, place, PLAIN, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(TilusValueError, match="is there and is no folder"):
        quantize(model, tmp_path / "file", PLAIN, force=True)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(TilusValueError, match="is there and is no folder"):
        quantize(model, tmp_path / "link", PLAIN, force=True)
    (tmp_path / "r.partial").mkdir()
    (tmp_path / "r.partial" / "mine").write_text("")
    with pytest.raises(TilusValueError, match=r"r\.partial is in the way"):
        quantize(model, tmp_path / "r", PLAIN, force=True)
    (tmp_path / "q.old").mkdir()
    with pytest.raises(TilusValueError, match=r"q\.old is in the way"):
        quantize(model, target, PLAIN, force=True)


def test_a_full_disk_is_noticed_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=job.SPARE))
    with pytest.raises(TilusValueError, match=r"has 0\.07 GB free, and 0\.00 GB are to be written"):
        quantize(model, tmp_path / "q", PLAIN)


def test_models_that_cannot_be_quantised(tmp_path: Path) -> None:
    weights = tensors()
    weights["model.layers.0.mlp.up_proj.weight"][3, 4] = torch.nan
    model = write_model(tmp_path / "nan", weights)
    message = "tensor 'model.layers.0.mlp.up_proj.weight' holds NaN or infinity"
    with pytest.raises(TilusValueError, match=message):
        quantize(model, tmp_path / "q", PLAIN)
    model = write_model(tmp_path / "path", tensors() | {"../../x.weight": torch.ones(4, 32)})
    with pytest.raises(TilusValueError, match=r"'\.\./\.\./x\.weight' cannot be stored"):
        quantize(model, tmp_path / "q", PLAIN)
    model = write_model(tmp_path / "good")
    with pytest.raises(TilusValueError, match="no tensor's name matches 'head'"):
        quantize(model, tmp_path / "q", Settings(dtypes.u4, keep=("head",)))
    with pytest.raises(TilusValueError, match="there is no matrix to quantise"):
        quantize(model, tmp_path / "q", Settings(dtypes.u4, keep=("*",)))
    assert not (tmp_path / "q").exists()


def test_links_out_of_the_folder_are_not_followed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (model / "merges.txt").symlink_to(tmp_path / "secret")
    (model / "vocab.json").symlink_to(model / "tokenizer.json")
    (model / "vocab.txt").mkdir()
    report = quantize(model, tmp_path / "q", PLAIN)
    assert report.notices == [
        f"{model / 'merges.txt'} is a link out of its folder and was not copied"
    ]
    assert "merges.txt" not in os.listdir(tmp_path / "q")
    assert not (tmp_path / "q" / "vocab.json").is_symlink()


def test_a_model_in_the_hugging_face_cache(tmp_path: Path) -> None:
    """There, files are links to files of the same model."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots"
    model = write_model(snapshot / "0123")
    blobs.mkdir()
    for path in list(model.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    report = quantize(model, tmp_path / "q", PLAIN)
    assert not report.notices and (tmp_path / "q" / "tokenizer.json").is_file()


# --- the command ---


def test_the_command(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["quantize", "model", "q", "--weights", "u4", "--group-size", "64"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert err == "note: tensors with rows of 96, no multiple of 64, have groups of 32: 2\n"
    lines = out.splitlines()
    assert lines[0].split() == ["tensor", "shape", "type", "group", "MB", "error"]
    assert len(lines) == 1 + len(tensors()) + 2
    words = {line.split()[0]: line.split() for line in lines[1:-2]}
    assert words["lm_head.weight"][1:4] == ["40x64", "u4", "64"]
    assert words["model.norm.weight"][1:] == ["64", "f32", "-", "0.000", "-"]
    assert 0.02 < float(words["lm_head.weight"][5]) < 0.12
    assert "bits a quantised weight" in lines[-1] and "(relative RMS)" in lines[-1]

    assert main([*command, "--force", "--json", "--zeros", "float", "--keep", "lm_head.*"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert err == "" and data["settings"]["zero_point"] == "float"
    assert data["bytes"] == sum(t["bytes"] for t in data["tensors"])
    assert {t["name"] for t in data["tensors"]} == set(tensors())
    by_name = {t["name"]: t for t in data["tensors"]}
    assert by_name["lm_head.weight"]["error"] is None
    assert by_name["model.embed_tokens.weight"]["zeros"] == "f16"
    assert len(data["notices"]) == 1


def test_the_bar(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert (
        main(["quantize", str(model), str(tmp_path / "q"), "--weights", "i4", "--group-size", "32"])
        == 0
    )
    shown = capsys.readouterr().err.split("\r")
    assert all(len(text) <= 80 for text in shown)
    steps = [text for text in shown if text.startswith("[")]
    assert len(steps) == len(tensors()) and steps[0].startswith(f"[{'.' * 24}]   0%")
    assert "#" * 12 in steps[-1] and "s left" in steps[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "u9"], 2, "tilus: --weights: unknown element type 'u9'"),
        (["--weights", "f16"], 2, "tilus: `dtype` is f16; weights have at most 8 bits"),
        (["--weights", "u4", "--group-size", "48"], 2, "tilus: `group_size` is 48"),
        (["--weights", "u4", "--scales", "u8"], 2, "tilus: `scale_dtype` is u8"),
        (["--weights", "i4", "--zeros", "int"], 2, "tilus: `zero_point`: only unsigned"),
        (["--weights", "u4", "--keep", "x"], 1, "error: `keep`: no tensor's name matches 'x'"),
    ],
)
def test_wrong_commands(
    arguments: list[str],
    code: int,
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["quantize", str(model), str(tmp_path / "q"), *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(message) and err.count("\n") == 1


def test_stopping_the_command(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    command = ["quantize", str(model), str(tmp_path / "q"), "--weights", "u4"]
    with monkeypatch.context() as patch:
        patch.setattr(job, "quantize_rtn", interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    assert main(command) == 0
