"""What a tokenizer is made of, as a Hugging Face folder or GGUF metadata describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import Tokenizer as Backend

from tilus.errors import TilusValueError
from tilus.llm.checkpoints.limits import File, is_count, read_json
from tilus.llm.templates import ChatTemplate

T = TypeVar("T")

MAX_IDS = 1 << 24
MAX_TEMPLATE = 4 << 20  # bytes
SPACE = "\u2581"  # how SentencePiece writes a space
NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def _bytes_of_signs() -> dict[str, int]:
    """The sign that byte-level BPE writes for each byte: itself, or one from 256 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


SIGNS = _bytes_of_signs()


@dataclass(frozen=True)
class Spelling:
    """How the text of a token is written in the vocabulary."""

    byte_level: bool  # a sign for each byte, as in GPT-2; else SentencePiece's way
    fallback: bool = False  # `<0x0A>` is the byte 10
    prefix: bool = False  # encoding puts a space before a text

    def read(self, token: str) -> bytes:
        """The bytes that a token stands for."""
        if self.byte_level:
            try:
                return bytes([SIGNS[sign] for sign in token])
            except KeyError:
                return token.encode()
        if self.fallback and len(token) == 6 and token.startswith("<0x") and token[5] == ">":
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass
        return token.replace(SPACE, " ").encode()


@dataclass(frozen=True)
class Vocabulary:
    """Everything a `Tokenizer` needs to know.

    `begin` and `end` are put around an encoded text; where they are None, `backend` does what its
    own post-processor says.
    """

    backend: Backend
    spelling: Spelling
    texts: Mapping[int, str]  # of all tokens
    plain: frozenset[int]  # tokens that are written as they are, whatever the spelling
    special: frozenset[int]  # tokens that are not shown
    bos_id: int | None
    eos_ids: frozenset[int]
    begin: list[int] | None = None
    end: list[int] = field(default_factory=list)
    template: ChatTemplate | None = None


def guarded(what: str, make: Callable[[], T]) -> T:
    """The result of a call into `tokenizers`, whose errors have all kinds of types."""
    try:
        return make()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic is not an Exception
        reason = " ".join(str(error).split())[:200]
        raise TilusValueError(f"{what}: {reason or type(error).__name__}") from None


# ---- Hugging Face -----------------------------------------------------------------------------


def from_folder(folder: Path) -> Vocabulary:
    """The vocabulary in a folder's tokenizer.json, with what the other files say about it."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise TilusValueError(
            f"{folder} has no tokenizer.json",
            help="`transformers` writes one: AutoTokenizer.from_pretrained(...).save_pretrained",
        )
    data = read_json(path)
    spelling = _spelling(data, path)
    backend = guarded(f"{path} is not a tokenizer", lambda: Backend.from_file(str(path)))
    backend.no_padding()
    backend.no_truncation()
    texts = {i: text for text, i in backend.get_vocab(with_added_tokens=True).items()}
    if not texts or max(texts) >= MAX_IDS:
        raise TilusValueError(f"{path}: ids of tokens must be from 0 to {MAX_IDS - 1}, and some")
    added = backend.get_added_tokens_decoder()
    for token in data.get("added_tokens") or []:
        if texts.get(token["id"]) != token["content"]:
            raise TilusValueError(f"{path}: added token {token['id']} is the id of another one")
    settings = _Settings(folder, {text: i for i, text in texts.items()})
    bos_id, eos_ids = settings.bos_id(), settings.eos_ids()
    begin, end = settings.around(bos_id)
    shown = {i for i, token in added.items() if not token.special}
    return Vocabulary(
        backend,
        spelling,
        texts,
        plain=frozenset(added) if spelling.byte_level else frozenset(),
        special=frozenset({*added, *eos_ids, *([] if bos_id is None else [bos_id])} - shown),
        bos_id=bos_id,
        eos_ids=eos_ids,
        begin=begin,
        end=end,
        template=settings.template(texts),
    )


def _spelling(data: dict[str, Any], path: Path) -> Spelling:
    """What the decoder in a tokenizer.json does, put in a form that works byte by byte."""
    steps = _steps(data.get("decoder"))
    kinds = [str(step.get("type")) for step in steps]
    if "ByteLevel" in kinds:
        return Spelling(byte_level=True)
    fallback = "ByteFallback" in kinds
    for step in steps:
        if step.get("type") == "Metaspace":
            old = "always" if step.get("add_prefix_space", True) else "never"
            return Spelling(False, fallback, step.get("prepend_scheme", old) != "never")
        if step.get("type") == "Replace" and step.get("pattern") == {"String": SPACE}:
            strips = [s.get("start") for s in steps if s.get("type") == "Strip"]
            return Spelling(False, fallback, any(strips))
    raise TilusValueError(
        f"{path} decodes with {' + '.join(kinds)[:60] or 'nothing'}; "
        "known are byte-level tokenizers and those that write spaces as SentencePiece does"
    )


def _steps(decoder: object, depth: int = 8) -> list[dict[str, Any]]:
    """The steps of a decoder, which may be a sequence of sequences."""
    if not isinstance(decoder, dict):
        return []
    inner = decoder.get("decoders")
    if decoder.get("type") != "Sequence" or not isinstance(inner, list) or not depth:
        return [decoder]
    return [step for one in inner for step in _steps(one, depth - 1)]


def _read_text(path: Path) -> str:
    file = File.at(path)
    if file.size > MAX_TEMPLATE:
        raise TilusValueError(f"{path} has {file.size} bytes; at most {MAX_TEMPLATE} are read")
    try:
        return file.read_bytes(0, file.size).decode()
    except ValueError as error:
        raise TilusValueError(f"{path} is not UTF-8: {error}") from None


class _Settings:
    """The files beside a tokenizer.json; each may be missing."""

    def __init__(self, folder: Path, ids: dict[str, int]) -> None:
        self.folder, self.ids = folder, ids
        self.tokenizer = self._read("tokenizer_config.json")
        self.generation = self._read("generation_config.json")
        self.model = self._read("config.json")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return read_json(path) if path.exists() else {}

    def name(self, key: str) -> str | None:
        """The text of a special token in tokenizer_config.json, written in one of two ways."""
        value = self.tokenizer.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and not isinstance(value, str):
            self._wrong("tokenizer_config.json", key, value, "the text of a token")
        return value

    def bos_id(self) -> int | None:
        """The beginning of a text; tokenizer_config.json can say that there is none."""
        if "bos_token" in self.tokenizer:
            return self.ids.get(self.name("bos_token") or "")
        for name, values in self._configs():
            if (value := values.get("bos_token_id")) is not None:
                if not is_count(value, MAX_IDS):
                    self._wrong(name, "bos_token_id", value, "an id")
                return int(value)
        return None

    def eos_ids(self) -> frozenset[int]:
        """All ids that any of the files calls the end."""
        found = {self.ids[name]} if (name := self.name("eos_token")) in self.ids else set()
        for where, values in self._configs():
            value = values.get("eos_token_id")
            several = value if isinstance(value, list) else [] if value is None else [value]
            if not all(is_count(one, MAX_IDS) for one in several):
                self._wrong(where, "eos_token_id", value, "an id or a list of ids")
            found.update(several)
        return frozenset(found)

    def around(self, bos_id: int | None) -> tuple[list[int] | None, list[int]]:
        """Ids before and after a text, where tokenizer_config.json decides that."""
        keys = "add_bos_token", "add_eos_token"
        flags = [self.tokenizer.get(key) for key in keys]
        for key, flag in zip(keys, flags, strict=True):
            if flag is not None and not isinstance(flag, bool):
                self._wrong("tokenizer_config.json", key, flag, "true or false")
        if flags == [None, None]:
            return None, []
        eos = self.ids.get(self.name("eos_token") or "")
        begin = [bos_id] if flags[0] and bos_id is not None else []
        return begin, [eos] if flags[1] and eos is not None else []

    def template(self, texts: Mapping[int, str]) -> ChatTemplate | None:
        """The chat template: a file of its own, or the default one in tokenizer_config.json."""
        source = self.tokenizer.get("chat_template")
        path = self.folder / "chat_template.jinja"
        if path.exists():
            source = _read_text(path)
        if isinstance(source, list):
            named = [t for t in source if isinstance(t, dict)]
            source = next((t.get("template") for t in named if t.get("name") == "default"), None)
        if source is None:
            return None
        if not isinstance(source, str):
            self._wrong("tokenizer_config.json", "chat_template", source, "a text")
        tokens = {key: self.name(key) for key in NAMES}
        if "bos_token" not in self.tokenizer and (bos := self.bos_id()) is not None:
            tokens["bos_token"] = texts.get(bos)
        return ChatTemplate(source, {k: text for k, text in tokens.items() if text is not None})

    def _configs(self) -> Iterable[tuple[str, dict[str, Any]]]:
        return ("generation_config.json", self.generation), ("config.json", self.model)

    def _wrong(self, name: str, key: str, value: object, wanted: str) -> None:
        raise TilusValueError(
            f"{self.folder / name}: {key} is {str(value)[:60]!r}; it must be {wanted}"
        )
