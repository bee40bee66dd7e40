"""`tilus info MODEL`: what a model is, from the headers of its files; no weight is read."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilus.cli.common import columns, show_json
from tilus.cli.progress import noted, show_notes
from tilus.errors import TilusError

if TYPE_CHECKING:
    from tilus.llm.checkpoints import Checkpoint

LICENSES = ("license", "licence", "copying", "notice")  # how the names of such files begin


def show(path: str, as_json: bool) -> None:
    """Print what a model is."""
    from tilus.llm.checkpoints import open_checkpoint

    with noted() as notes:
        found = facts(open_checkpoint(path), Path(path))
    show_notes(notes)
    if as_json:
        show_json(found)
    else:
        print(columns(_rows(found)))


def facts(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """What is to be known of a model."""
    from tilus.llm.models import family_of

    config = family_of(checkpoint.config).config(checkpoint.config)
    count: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for name in checkpoint.names:
        kind, size = checkpoint.stored(name)
        count[kind] += math.prod(checkpoint.shape(name))
        nbytes[kind] += size
    return {
        "model": str(path),
        "format": checkpoint.format,
        "family": config.family,
        "parameters": count.total(),
        "bytes": nbytes.total(),
        "types": [
            {"type": kind, "parameters": count[kind], "bytes": size}
            for kind, size in nbytes.most_common()
        ],
        "layers": config.layers,
        "hidden_size": config.hidden_size,
        "inner_size": config.inner_size,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context": config.context,
        "tied_embeddings": config.tied,
        **_tokenizer(checkpoint),
        "licenses": _licenses(path),
    }


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    from tilus.llm.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(checkpoint.tokenizer)
    except TilusError as error:
        return {"tokenizer": None, "tokenizer_error": error.first.message, "chat_template": False}
    ends = sorted(tokenizer.eos_ids)
    size, begin = tokenizer.vocab_size, tokenizer.bos_id
    return {
        "tokenizer": {"tokens": size, "bos_id": begin, "eos_ids": ends},
        "chat_template": tokenizer.has_chat_template,
    }


def _licenses(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(p.name for p in path.iterdir() if p.name.lower().startswith(LICENSES))


def _rows(f: dict[str, Any]) -> list[tuple[str, str]]:
    tokenizer = f["tokenizer"]
    words = f"none: {f['tokenizer_error']}" if tokenizer is None else _words(tokenizer)
    return [
        ("model", f"{f['model']} ({f['format']})"),
        ("family", f["family"]),
        ("parameters", f"{f['parameters']:,}"),
        ("size", f"{f['bytes'] / 1e6:.2f} MB"),
        *(
            ("", f"{t['type']}: {t['parameters']:,} parameters, {t['bytes'] / 1e6:.2f} MB")
            for t in f["types"]
        ),
        ("layers", str(f["layers"])),
        ("hidden", f"{f['hidden_size']}, {f['inner_size']} inside the MLP"),
        ("heads", f"{f['heads']} of {f['head_dim']}, {f['kv_heads']} for keys and values"),
        (
            "vocabulary",
            f"{f['vocab_size']}" + (", embeddings tied" if f["tied_embeddings"] else ""),
        ),
        ("context", f"{f['context']} tokens"),
        ("tokenizer", words),
        ("chat", "has a template" if f["chat_template"] else "no template"),
        ("license", ", ".join(f["licenses"]) or "no file"),
    ]


def _words(tokenizer: dict[str, Any]) -> str:
    begin = "none" if tokenizer["bos_id"] is None else tokenizer["bos_id"]
    ends = ", ".join(map(str, tokenizer["eos_ids"])) or "none"
    return f"{tokenizer['tokens']} tokens, begins with {begin}, ends with {ends}"
