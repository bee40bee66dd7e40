"""Write docs/structure.md: one line for each module, the first of its docstring.

`python docs/structure.py` writes; with `--check` it only says whether the page is up to date.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "structure.md"


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (doc or "").partition("\n")[0]


def page() -> str:
    """The text of docs/structure.md."""
    lines = ["# Structure", "", "`make structure` writes this page from the modules' docstrings."]
    for init in sorted((ROOT / "tilus").rglob("__init__.py")):
        folder = init.parent
        lines += ["", f"## {folder.relative_to(ROOT).as_posix()}/", "", summary(init), ""]
        for module in sorted(folder.glob("*.py")):
            if module != init:
                link = f"../{module.relative_to(ROOT).as_posix()}"
                lines.append(f"- [{module.name}]({link}): {summary(module)}")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def main() -> int:
    """Write the page, or check it."""
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        print("docs/structure.md is out of date: run `make structure`")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
