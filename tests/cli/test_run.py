"""`tilus run`: text as it comes, figures, standard input, seeds, Ctrl-C, and errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.models import TEXT, write_model
from tilus.cli import model_options
from tilus.llm import checkpoints
from tilus.llm.answer import Until
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.generate import Generator
from tilus.llm.model import Model
from tilus.llm.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]


def as_json(tilus: Run, *arguments: object) -> dict[str, Any]:
    """What a command that succeeds prints."""
    code, out, err = tilus(*arguments, "--json")
    assert (code, err) == (0, ""), err
    data: dict[str, Any] = json.loads(out)
    return data


def test_the_text_is_what_the_library_makes(tilus: Run, model: Path) -> None:
    opened = open_checkpoint(model)
    tokenizer, generator = Tokenizer.load(opened.tokenizer), Generator(Model.load(opened), kv="f32")
    tokens = list(generator.stream(tokenizer.encode("The dog"), max_tokens=40))
    text = b"".join(tokenizer._piece(t) for t in tokens).decode(errors="replace")
    assert "\ufffd" in text and len(set(tokens)) > 10  # pieces of characters

    command = ["run", model, "--prompt", "The dog", "--max-tokens", 40, "--kv", "f32"]
    code, out, err = tilus(*command)
    assert (code, out) == (0, text if text.endswith("\n") else f"{text}\n")
    assert err.startswith(f"prompt {len(tokenizer.encode('The dog'))} tokens, ")
    assert "; answer 40 tokens, " in err and err.endswith("tokens/s; ended by --max-tokens\n")

    found = as_json(tilus, *command)
    assert (found["text"], found["tokens"], found["finish"]) == (text, tokens, "length")
    assert found["prompt_tokens"] == len(tokenizer.encode("The dog"))
    assert found["prefill_tokens_per_s"] > 0 and found["decode_tokens_per_s"] > 0
    assert found["model_bytes"] == generator.model.nbytes
    assert (found["weights"], found["group_size"], found["kv"]) == ("f32", None, "f32")


def test_quantised_weights(tilus: Run, model: Path) -> None:
    options = ("--prompt", "The", "--max-tokens", 2, "--weights", "u4", "--group-size", 32)
    small = as_json(tilus, "run", model, *options)
    assert (small["weights"], small["group_size"], small["kv"]) == ("u4", 32, "bf16")
    bits = 8 * small["model_bytes"] / (2 * 300 * 64 + 2 * 64 * (192 + 288))
    assert 4.7 < bits < 5.4  # codes, scales, zero points, and norms


def test_a_seed_decides(tilus: Run, model: Path) -> None:
    def tokens(seed: int) -> list[int]:
        how = ("--prompt", "The", "--temperature", "1.5", "--seed", seed, "--max-tokens", 12)
        found: list[int] = as_json(tilus, "run", model, *how)["tokens"]
        return found

    assert tokens(1) == tokens(1) != tokens(2)


def test_standard_input(tilus: Run, stdin: Callable[[bytes], None], model: Path) -> None:
    want = as_json(tilus, "run", model, "--prompt", "äö\nx", "--max-tokens", 8)
    for arguments in ((), ("--prompt", "-")):
        stdin("äö\nx\n".encode())
        got = as_json(tilus, "run", model, *arguments, "--max-tokens", 8)
        assert (got["tokens"], got["prompt_tokens"]) == (want["tokens"], want["prompt_tokens"])
    stdin(b"\xff")
    code, out, err = tilus("run", model)
    assert (code, out) == (2, "") and "standard input is not UTF-8 at byte 0" in err


def test_a_message_through_the_template(tilus: Run, model: Path, tmp_path: Path) -> None:
    plain = as_json(tilus, "run", model, "--prompt", "Hi", "--max-tokens", 4)
    chat = as_json(tilus, "run", model, "--prompt", "Hi", "--max-tokens", 4, "--chat")
    tokenizer = Tokenizer.load(open_checkpoint(model).tokenizer)
    text = tokenizer.encode("user: Hi\nassistant: ", special=False)
    assert chat["prompt_tokens"] == len(text) != plain["prompt_tokens"]
    bare = write_model(tmp_path / "bare", chat=False)
    code, _, err = tilus("run", bare, "--prompt", "Hi", "--chat")
    assert code == 2 and "no chat template" in err


def test_ends(tilus: Run, model: Path, tmp_path: Path) -> None:
    """By the model's own token, by a text, by its context."""
    command = ("--prompt", "The", "--max-tokens", 20)
    plain = as_json(tilus, "run", model, *command)
    ended = write_model(tmp_path / "ended", eos=plain["tokens"][7])
    found = as_json(tilus, "run", ended, *command)
    assert found["finish"] == "stop" and plain["tokens"][7] not in found["tokens"]
    assert found["tokens"] == plain["tokens"][: len(found["tokens"])]

    stop = plain["text"][3:5]
    found = as_json(tilus, "run", model, *command, "--stop", "nowhere", "--stop", stop)
    assert found["finish"] == "stop"
    assert found["text"] == plain["text"][: plain["text"].index(stop)]

    short = write_model(tmp_path / "short", max_position_embeddings=12)
    code, _, err = tilus("run", short, *command)
    assert code == 0 and err.endswith("; ended by the context of 12\n")


@pytest.mark.parametrize("stops", [["ab"], ["abc", "bcd", "x"], ["aab"], []])
def test_what_may_begin_a_stop_is_held_back(stops: list[str]) -> None:
    text = "aabcaabbcdx" * 2
    want = text[: min((i for s in stops if (i := text.find(s)) >= 0), default=len(text))]
    for width in (1, 2, 3, 5):
        until, got = Until(stops), ""
        for at in range(0, len(text), width):
            got += until.push(text[at : at + width])
            assert want.startswith(got)
            if until.found:
                break
        assert got + until.held == want and until.found == (want != text)


def test_the_shipped_model_is_the_default(
    tilus: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_options.SHIPPED == Path(__file__).parents[2] / "examples" / "tiny-model"
    monkeypatch.setattr(model_options, "SHIPPED", model)
    assert as_json(tilus, "run", "--prompt", "x", "--max-tokens", 1)["model"] == str(model)
    monkeypatch.setattr(model_options, "SHIPPED", tmp_path / "gone")
    code, out, err = tilus("run", "--prompt", "x")
    assert (code, out) == (2, "") and err.startswith("tilus: MODEL is missing, and the small model")


def test_notes_and_the_bar(
    tilus: Run, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_and_warn(path: Path) -> Any:
        warnings.warn("something is converted", stacklevel=2)
        return open_checkpoint(path)

    monkeypatch.setattr(checkpoints, "open_checkpoint", open_and_warn)
    command = ("run", model, "--prompt", "x", "--max-tokens", 1)
    assert tilus(*command)[2].startswith("note: something is converted\nprompt ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar, _, rest = tilus(*command)[2].partition("note: ")
    assert bar.startswith("\r[") and "100%" in bar and "loading" in bar
    assert bar.endswith("\r") and bar.split("\r")[-2].isspace() and rest


def test_a_terminal_is_not_given_controls(
    tilus: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model writes does not move the cursor; a file gets the text as it is."""
    how = ("run", model, "--prompt", "x", "--max-tokens", 200, "--temperature", "2.5")
    text = as_json(tilus, *how)["text"]
    assert any(ord(c) < 32 and c not in "\n\t" for c in text)
    assert tilus(*how)[1].rstrip("\n") == text.rstrip("\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = tilus(*how)[1]
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown) and len(shown) >= len(text)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "u9"], 2, "--weights: unknown element type 'u9'"),
        (["--weights", "f16"], 2, "--weights is f16; weights have at most 8 bits"),
        (["--group-size", "48"], 2, "argument --group-size: invalid choice: 48"),
        (["--kv", "u4"], 2, "argument --kv: invalid choice: 'u4'"),
        (["--max-tokens", "0"], 2, "argument --max-tokens: '0' is not a number from 1 on"),
        (["--temperature", "-1"], 2, "--temperature is -1.0; it is a number from 0.0 to 100.0"),
        (["--temperature", "nan"], 2, "--temperature is nan; it is a number from 0.0 to 100.0"),
        (["--top-p", "2"], 2, "--top-p is 2.0; it is a number from 0.0 to 1.0"),
        (["--min-p", "-0.5"], 2, "--min-p is -0.5"),
        (["--top-k", "-1"], 2, "--top-k is -1; it is a whole number"),
        (["--stop", ""], 2, "--stop has a text without characters"),
        (["--context", "70000"], 2, "--context is 70000; the model's is 65536"),
        (["--threads", "x"], 2, "argument --threads: 'x' is not a number"),
        (["--prompt", "x " * 300, "--context", "64"], 2, "more than --context, 64"),
        (["--prompt", "x " * 66_000], 2, "more than the model's context, 65536"),
    ],
)
def test_wrong_options(
    tilus: Run, model: Path, arguments: list[str], code: int, message: str
) -> None:
    got, out, err = tilus("run", model, "--prompt", "x", *arguments)
    assert (got, out) == (code, "") and err.startswith("tilus: ") and message in err
    assert len(err.splitlines()) <= 2


def test_models_that_are_none(tilus: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"PK")
    for path, message in (
        (tmp_path / "gone", "gone cannot be opened: no such file or directory"),
        (tmp_path / "empty", "empty holds no model"),
        (tmp_path / "weights.bin", "weights.bin is a pickle"),
    ):
        code, out, err = tilus("run", path, "--prompt", "x")
        assert (code, out) == (1, "") and err.startswith("error: ") and message in err
        assert err.count("\n") == 1


def started(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "tilus", *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, **(streams | options))


def test_ctrl_c(model: Path) -> None:
    """What was streamed stays, the figures so far follow, and the exit code is the shell's."""
    with started("run", model, "--prompt", "The", "--max-tokens", 60_000) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = first + process.stdout.read(), process.stderr.read().decode()
        assert process.wait(20) == 130
    assert len(out) > 1 and out.endswith(b"\n")
    assert err.count("\n") == 1 and err.startswith("prompt ") and err.endswith("; stopped\n")


def test_ctrl_c_with_json(tilus: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("run", model, "--prompt", "The", "--max-tokens", 12)
    whole, decode = as_json(tilus, *command), Generator._decode
    left = iter(range(5))

    def interrupted(*arguments: Any) -> list[int]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(Generator, "_decode", interrupted)
    code, out, err = tilus(*command, "--json")
    found = json.loads(out)
    assert (code, err, found["finish"]) == (130, "", "interrupted")
    assert found["tokens"] == whole["tokens"][:6] and whole["text"].startswith(found["text"])


def test_text_comes_before_the_end(model: Path) -> None:
    """Whole characters, each flushed; a reader that has enough is no error."""
    with started("run", model, "--prompt", TEXT, "--max-tokens", 60_000) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1) and process.poll() is None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(20) == 1


def test_help_is_quick() -> None:
    """torch is not loaded for it."""
    code = "import sys; from tilus.cli import parser; parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
