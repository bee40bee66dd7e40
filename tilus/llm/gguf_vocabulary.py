"""Tokenizers as GGUF describes them: tokens, merges or scores, and the name of a way to split text.

`gpt2` is byte-level BPE with merges. `llama` is SentencePiece's BPE: of all neighbours that make a
token together, those are joined first whose token has the best score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from tilus.errors import TilusNotImplementedError, TilusValueError
from tilus.llm.checkpoints.limits import is_count, shown
from tilus.llm.templates import ChatTemplate
from tilus.llm.vocabulary import SPACE, Spelling, Vocabulary, guarded

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
LONGEST = 256  # characters of a token that merges make

# Files made before a key for it existed name the end of a turn nowhere but in the vocabulary.
ENDS = frozenset(
    {
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"),
        *("<|end_of_text|>", "<EOT>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    }
)


@dataclass(frozen=True)
class Split:
    """A way to cut text into words before BPE."""

    patterns: tuple[str, ...]
    whole: bool = False  # a word that is a token is taken without merges
    bos: bool = False  # where the file does not say whether a text begins with a token for that
    nfc: bool = False


_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_AFTER = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WORD = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_AFTER}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_AFTER}"
)

_LLAMA3 = Split((_WORD % "{1,3}",), whole=True, bos=True)
_QWEN2 = Split((_WORD % "",), nfc=True)
_OF_GPT2 = Split((_GPT2,))
_SMOLLM = Split((r"\p{N}", _GPT2))
_DEFAULT = Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))

SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    **dict.fromkeys(("gpt-2", "gpt2", "mpt", "olmo", "phi-2"), _OF_GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _SMOLLM),
    "tekken": Split((_TEKKEN,), whole=True, bos=True),
    "default": _DEFAULT,
}


def from_gguf(keys: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in the `tokenizer.*` keys of a GGUF file."""
    kind = keys.get("tokenizer.ggml.model")
    makers = {"gpt2": _byte_level, "llama": _sentencepiece}
    if not isinstance(kind, str) or kind not in makers:
        raise TilusNotImplementedError(
            f"tokenizer.ggml.model is {shown(str(kind))}; known are {', '.join(makers)}"
        )
    return makers[kind](_Keys(keys))


class _Keys:
    """GGUF keys, checked as they are asked for."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self.keys = keys
        self.tokens: list[str] = self.array("tokens", str)
        if not self.tokens:
            raise TilusValueError("tokenizer.ggml.tokens is missing or empty")
        self.types: list[int] = self.array("token_type", int) or [NORMAL] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise TilusValueError(
                f"tokenizer.ggml.token_type has {len(self.types)} values for "
                f"{len(self.tokens)} tokens"
            )
        self.ids: dict[str, int] = {}
        for i, token in enumerate(self.tokens):
            self.ids.setdefault(token, i)

    def array(self, key: str, of: type) -> list[Any]:
        """An array of values of one type; empty if the file has none."""
        values = self.keys.get(f"tokenizer.ggml.{key}", [])
        if not isinstance(values, list) or not all(type(value) is of for value in values):
            raise TilusValueError(f"tokenizer.ggml.{key} is not an array of {of.__name__}")
        return values

    def id(self, key: str, default: int | None = None) -> int | None:
        """The id of a token, such as `bos_token_id`; a default counts if there is such a token."""
        value = self.keys.get(f"tokenizer.ggml.{key}")
        if value is None:
            return default if default is not None and default < len(self.tokens) else None
        if not is_count(value, len(self.tokens) - 1):
            raise TilusValueError(
                f"tokenizer.ggml.{key} is {str(value)[:60]}; there are {len(self.tokens)} tokens"
            )
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self.keys.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, bool):
            raise TilusValueError(f"tokenizer.ggml.{key} is {str(value)[:60]!r}, not true or false")
        return value

    def of(self, *types: int) -> list[int]:
        """The ids of all tokens of some types."""
        return [i for i, kind in enumerate(self.types) if kind in types]


def _byte_level(keys: _Keys) -> Vocabulary:
    name = keys.keys.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str) or name not in SPLITS:
        raise TilusNotImplementedError(
            f"tokenizer.ggml.pre is {shown(str(name))}, a way to split text that is not known",
            help=f"known are {', '.join(SPLITS)}; use the model's Hugging Face folder instead",
        )
    split = SPLITS[name]
    merges = [_merge(keys, i, text) for i, text in enumerate(keys.array("merges", str))]
    model = guarded(
        "tokenizer.ggml.merges", lambda: models.BPE(keys.ids, merges, ignore_merges=split.whole)
    )
    backend = Backend(model)
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(p), "isolated") for p in split.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return _vocabulary(keys, backend, Spelling(byte_level=True), split.bos)


def _merge(keys: _Keys, place: int, text: str) -> tuple[str, str]:
    left, space, right = text.partition(" ")
    if not space or not {left, right, left + right} <= keys.ids.keys():
        raise TilusValueError(
            f"tokenizer.ggml.merges: number {place}, {shown(text)}, does not join two tokens "
            "to a third"
        )
    return left, right


def _sentencepiece(keys: _Keys) -> Vocabulary:
    scores = keys.array("scores", float)
    if len(scores) != len(keys.tokens) or not all(map(math.isfinite, scores)):
        raise TilusValueError(
            f"tokenizer.ggml.scores must be {len(keys.tokens)} finite numbers, one for each token"
        )
    prefix = keys.flag("add_space_prefix", True)
    unknown = keys.id("unknown_token_id", 0)
    model = guarded(
        "tokenizer.ggml.scores",
        lambda: models.BPE(
            keys.ids,
            _merges_by_score(keys, scores),
            unk_token=None if unknown is None else keys.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    )
    backend = Backend(model)
    start = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*start, normalizers.Replace(" ", SPACE)])
    return _vocabulary(keys, backend, Spelling(False, True, prefix), True, bos=1, eos=2)


def _merges_by_score(keys: _Keys, scores: list[float]) -> list[tuple[str, str]]:
    """All ways to join two tokens to a third, those to the token of the best score first."""
    merges = []
    for i in keys.of(NORMAL, UNUSED):
        token = keys.tokens[i]
        if keys.ids[token] != i or len(token) > LONGEST:
            continue
        for cut in range(1, len(token)):
            left, right = keys.ids.get(token[:cut]), keys.ids.get(token[cut:])
            if left is not None and right is not None:
                merges.append((-scores[i], i, left, right))
    return [(keys.tokens[left], keys.tokens[right]) for *_, left, right in sorted(merges)]


def _vocabulary(
    keys: _Keys,
    backend: Backend,
    spelling: Spelling,
    add_bos: bool,
    bos: int | None = None,
    eos: int | None = None,
) -> Vocabulary:
    """What both kinds share: special tokens, beginning and end, the chat template."""
    control, written = keys.of(CONTROL, UNKNOWN), keys.of(USER_DEFINED)
    for ids, special in ((control, True), (written, False)):
        texts = dict.fromkeys(keys.tokens[i] for i in ids)
        added = [AddedToken(t, special=special, normalized=False) for t in texts if t]
        guarded("tokenizer.ggml.tokens", partial(backend.add_tokens, added))
    bos_id, eos_id = keys.id("bos_token_id", bos), keys.id("eos_token_id", eos)
    firsts, lasts = _present(bos_id), _present(eos_id)
    ends = {*lasts, *_present(keys.id("eot_token_id")), *_present(keys.id("eom_token_id"))}
    ends |= {i for i in control + written if keys.tokens[i] in ENDS}
    return Vocabulary(
        backend,
        spelling,
        dict(enumerate(keys.tokens)),
        plain=frozenset(control + written),
        special=frozenset({*control, *ends, *firsts}),
        bos_id=bos_id,
        eos_ids=frozenset(ends),
        begin=firsts if keys.flag("add_bos_token", add_bos) else [],
        end=lasts if keys.flag("add_eos_token", False) else [],
        template=_template(keys, {"bos_token": bos_id, "eos_token": eos_id}),
    )


def _present(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _template(keys: _Keys, tokens: dict[str, int | None]) -> ChatTemplate | None:
    source = keys.keys.get("tokenizer.chat_template")
    if source is None:
        return None
    if not isinstance(source, str):
        raise TilusValueError("tokenizer.chat_template is not a text")
    named = {"unk_token": keys.id("unknown_token_id"), "pad_token": keys.id("padding_token_id")}
    ids = {**named, **tokens}
    return ChatTemplate(source, {k: keys.tokens[i] for k, i in ids.items() if i is not None})
