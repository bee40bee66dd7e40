"""`tilus chat`: conversations over a pipe and on a terminal."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.models import write_model
from tests.cli.test_run import started
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.generate import Generator
from tilus.llm.model import Model
from tilus.llm.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]
Stdin = Callable[[bytes], None]


def turns(tilus: Run, *arguments: object) -> list[dict[str, Any]]:
    """What a conversation that goes well prints with --json."""
    code, out, err = tilus("chat", *arguments, "--json")
    assert (code, err) == (0, ""), err
    return [json.loads(line) for line in out.splitlines()]


def test_the_conversation_is_kept(tilus: Run, stdin: Stdin, model: Path) -> None:
    """Each answer follows everything before; /reset begins anew, /exit ends, empty lines do not."""
    opened = open_checkpoint(model)
    tokenizer, generator = Tokenizer.load(opened.tokenizer), Generator(Model.load(opened), kv="f32")

    def after(text: str) -> list[int]:
        prompt = tokenizer.encode(text, special=False)
        return list(generator.stream(prompt, max_tokens=7))

    stdin(b"Hi\n\n  \nMore\n/reset\nMore\n/exit\nnot read\n")
    how = ("--system", "Be brief.", "--max-tokens", 7, "--kv", "f32")
    first, second, third = turns(tilus, model, *how)
    system = "system: Be brief.\n"
    assert first["tokens"] == after(f"{system}user: Hi\nassistant: ")
    said = f"{system}user: Hi\nassistant: {first['text']}\nuser: More\nassistant: "
    assert second["tokens"] == after(said)
    assert second["prompt_tokens"] == len(tokenizer.encode(said, special=False))
    assert third["tokens"] == after(f"{system}user: More\nassistant: ") != second["tokens"]
    assert {t["finish"] for t in (first, second, third)} == {"length"}
    assert first["model_bytes"] == generator.model.nbytes and first["decode_tokens_per_s"] > 0


def test_the_cache_keeps_what_was_said(tilus: Run, stdin: Stdin, model: Path) -> None:
    stdin(b"A message of some length that is read once\nno")
    code, out, err = tilus("chat", model, "--max-tokens", 3)
    first, second = err.splitlines()
    new = int(second.split("(")[1].split(" new)")[0])
    whole = int(second.split()[1])
    assert code == 0 and out.count("\n") >= 2 and "new" not in first
    assert whole > int(first.split()[1]) > new


def test_a_full_context(tilus: Run, stdin: Stdin, model: Path, tmp_path: Path) -> None:
    stdin(b"Hi\n" + b"word " * 300 + b"\n/reset\nHi\n")
    code, out, err = tilus("chat", model, "--context", 64, "--max-tokens", 200)
    lines = err.splitlines()
    assert code == 0 and len(lines) == 5 and lines[0].startswith("prompt ")
    tail = "room for 64; /reset begins a new conversation, or start with --context up to 65536"
    assert all(lines[i].startswith("the context is full: ") for i in (1, 2, 4))
    assert all(lines[i].endswith(tail) for i in (1, 2, 4))
    assert out.endswith(out[: len(out) // 2])  # the same question, the same answer

    short = write_model(tmp_path / "short", max_position_embeddings=64)
    stdin(b"word " * 300)
    err = tilus("chat", short)[2]
    assert err.endswith("room for 64; /reset begins a new conversation\n")


def test_ctrl_c_keeps_the_chat(
    tilus: Run, stdin: Stdin, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(b"Hi\nMore\n")
    plain = turns(tilus, model, "--max-tokens", 9)
    left, decode = iter(range(4)), Generator._decode

    def interrupted(*arguments: Any) -> list[int]:
        if next(left, None) == 3:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(Generator, "_decode", interrupted)
    stdin(b"Hi\nMore\n")
    first, second = turns(tilus, model, "--max-tokens", 9)
    assert first["finish"] == "interrupted" and first["tokens"] == plain[0]["tokens"][:4]
    assert second["finish"] == "length" and len(second["tokens"]) == 9
    assert second["prompt_tokens"] < plain[1]["prompt_tokens"]  # with the part that was written


def test_models_without_a_template(tilus: Run, tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare", chat=False)
    code, out, err = tilus("chat", bare)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.endswith("has no chat template: `tilus run` continues a text with any model\n")


def test_what_is_no_text(tilus: Run, stdin: Stdin, model: Path) -> None:
    stdin(b"\xff\n")
    assert tilus("chat", model) == (2, "", "tilus: standard input is not UTF-8\n")


# ---- on a terminal -------------------------------------------------------------------------------


class Terminal:
    """A process on a terminal of its own: what it shows, and what is typed."""

    def __init__(self, *arguments: object) -> None:
        self.master, slave = pty.openpty()
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = started(*arguments, start_new_session=True, **streams)
        os.close(slave)
        self.shown = ""

    def read(self) -> None:
        """Wait for something to be shown."""
        ready, _, _ = select.select([self.master], [], [], 60)
        assert ready, f"nothing after {self.shown!r}"
        self.shown += os.read(self.master, 4096).decode(errors="replace")

    def until(self, text: str) -> str:
        """What is shown up to a text."""
        while text not in self.shown:
            self.read()
        found, _, self.shown = self.shown.partition(text)
        return found + text

    def type(self, line: str) -> None:
        os.write(self.master, f"{line}\n".encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def terminal(*arguments: object) -> Iterator[Terminal]:
    found = Terminal(*arguments)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        os.close(found.master)


@pytest.mark.skipif(sys.platform != "linux", reason="how a terminal's end shows differs")
def test_on_a_terminal(model: Path) -> None:
    with terminal("chat", model, "--max-tokens", 60_000, "--context", 65_000) as screen:
        screen.until("> ")
        screen.type("Hello")
        screen.until("Hello\r\n")
        while not screen.shown:
            screen.read()
        screen.interrupt()
        assert "Traceback" not in screen.until("; stopped\r\n")
        screen.until("> ")
        screen.type("/reset")
        screen.until("> ")
        for _ in range(20):  # a signal may come just before the prompt listens to it
            screen.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                screen.process.wait(1)
                break
        assert screen.process.poll() == 130


def test_ctrl_d(tilus: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the chat, with the cursor on a fresh line."""
    lines = iter(["Hi", "  "])

    def typed(prompt: str) -> str:
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", typed)
    code, out, err = tilus("chat", model, "--max-tokens", 3)
    assert code == 0 and out.endswith("\n\n") and err.count("\n") == 1
