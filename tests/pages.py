"""Pages of documentation as programs: write their files, run their commands, compare the output.

In a page

    ```python     a block whose first line is `# name.py` (in one marked `tir`: `; name.tir`) is
                  written to that file, with `# name.py, at the end` or `# name.py, after `LINE``
                  it is added to it; without a name it stands alone and is only executed
    ```console    each line `$ command` is run in the folder of those files; what follows, up to the
                  next one, must be its output, both streams; `...` stands for any text

and blocks marked otherwise (`text`, `sh`) are left alone. Outputs do not show the folder.
"""

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"[#;] ([\w/]+\.(?:py|tir))(, at the end|, after `(.*)`|)\n")
PATIENCE = 300  # seconds
PLAIN = {"NO_COLOR": "1", "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and where its text stands."""

    kind: str
    text: str
    start: int
    end: int
    line: int

    def write(self, folder: Path) -> str:
        """Make the file that the block is, or add the block to it; the file's name."""
        head = NAMED.match(self.text)
        if head is None:
            name = f"line_{self.line}.{'py' if self.kind == 'python' else 'tir'}"
            (folder / name).write_text(self.text, encoding="utf-8")
            return name
        path = folder / head[1]
        if not head[2]:
            path.write_text(self.text, encoding="utf-8")
            return head[1]
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        addition = self.text[head.end() :]
        if head[3] is None:
            lines.append(f"\n\n{addition}")
        else:
            (at,) = (i for i, line in enumerate(lines) if line.strip().startswith(head[3]))
            lines.insert(at + 1, addition)
        path.write_text("".join(lines), encoding="utf-8")
        return head[1]

    @property
    def stands_alone(self) -> bool:
        """Whether it has no name, and so is executed where it stands."""
        return NAMED.match(self.text) is None


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [
        Block(m[1], m[2], m.start(2), m.end(2), page.count("\n", 0, m.start(2)) + 1)
        for m in FENCE.finditer(page)
    ]


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output it claims."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    assert parts[0] == "", f"a console block begins with a command: {text!r}"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def environment(folder: Path) -> dict[str, str]:
    """What commands see: this Python first, the folder's modules, plain output, no options."""
    env = {name: v for name, v in os.environ.items() if not name.startswith("TILUS_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", "")))
    return env | {"PATH": path, "PYTHONPATH": str(folder), **PLAIN}


def run(command: str, folder: Path) -> str:
    """The output of a command, both streams together."""
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return done.stdout.replace(f"{folder}/", "")


def same(claimed: str, got: str) -> bool:
    """Whether the output is what the page claims."""
    return doctest.OutputChecker().check_output(trimmed(claimed), trimmed(got), doctest.ELLIPSIS)


def trimmed(text: str) -> str:
    """The text without white space at the ends of lines, and with a last newline if it has any."""
    lines = [line.rstrip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def perform(page: str, folder: Path) -> tuple[str, list[str]]:
    """Run a page; the page with the outputs there really are, and what differs."""
    wrong: list[str] = []
    edits: list[tuple[int, int, str]] = []
    for block in blocks(page):
        if block.kind in ("python", "tir"):
            name = block.write(folder)
            if block.stands_alone:
                command = f"python {name}" if block.kind == "python" else f"tilus compile {name}"
                done = run(f"{command} > /dev/null", folder)
                wrong += [f"line {block.line}:\n{done}"] if done else []
        elif block.kind == "console":
            shown = []
            for command, claimed in commands(block.text):
                got = run(command, folder)
                if not same(claimed, got):
                    wrong.append(
                        f"line {block.line}: $ {command}\n{got}\n(the page says)\n{claimed}"
                    )
                    claimed = trimmed(got)
                shown.append(f"$ {command}\n{claimed}")
            edits.append((block.start, block.end, "".join(shown)))
    for start, end, text in reversed(edits):
        page = page[:start] + text + page[end:]
    return page, wrong
