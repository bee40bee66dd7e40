"""Tokenizers from folders and GGUF metadata: beside `transformers`, and beside what they mean."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

from tilus.errors import TilusError, TilusTypeError, TilusValueError
from tilus.llm.checkpoints import TokenizerSource
from tilus.llm.gguf_vocabulary import BYTE, CONTROL, NORMAL, SPLITS, UNKNOWN, USER_DEFINED
from tilus.llm.tokenizer import Tokenizer
from tilus.llm.vocabulary import SPACE

BOS, EOS, END = "<|begin|>", "<|end_of_text|>", "<|eot_id|>"
TEXT = (
    "The quick brown fox jumps over the lazy dog. It's what they'll say: 12345 + 678 = 13023!\n"
    "def f(x):\n    return x * 2  # äöü ß\n\n\n\tÜber 東京 und mehr, isn't it?\r\n" * 3
)
EMOJI = "\U0001f642"
TEXTS = [
    *("", " ", "a", "hello", " hello", "  two  spaces ", "\n\n\n x", "tail   ", "It's I'LL don'T"),
    *(
        "1234567 12 3",
        "naïve café",
        "e\u0301 \u212b",
        f"x{EMOJI}y",
        "東京",
        "a\x00b",
        "\t\ttab\r\n",
    ),
    *("snake_case CamelCase HTTPServer", "a<b>&c|d~^e", "...!?  ...", "\u00a0nbsp\u3000", "'s 'S"),
    *(f"{BOS}x", f"x{EOS}{END}", f"a {END} b", "<|python_tag|>", "\u2581raw", "<0x41>"),
]


def fuzz(count: int) -> list[str]:
    """Random texts of what tokenizers treat in different ways."""
    rng = random.Random(0)
    parts = ["a", "the", "The", "'s", "'LL", " ", "  ", "\n", "\r\n", "\t", "1", "2345", ".", "_-"]
    parts += ["é", "e\u0301", "ß", "東", EMOJI, BOS, END, "\u00a0", "$<", "<|", "\u2581", "x/"]
    return ["".join(rng.choices(parts, k=rng.randrange(1, 12))) for _ in range(count)]


@cache
def byte_level(pre: str) -> Backend:
    """A tokenizer as a model of that family has it in its tokenizer.json."""
    split = SPLITS[pre]
    backend = Backend(models.BPE(ignore_merges=split.whole))
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in split.patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        [TEXT],
        BpeTrainer(
            vocab_size=420,
            special_tokens=[AddedToken(t, special=True) for t in (BOS, EOS, END)],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    backend.add_tokens([AddedToken("<|python_tag|>", normalized=False)])
    if split.bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
        )
    return backend


def sentencepiece(prefix: bool) -> tuple[Backend, list[tuple[str, float, int]]]:
    """A tokenizer as Llama 2 has it, and its tokens with scores and types."""
    tokens = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    tokens += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    tokens.append(("<user>", 0.0, USER_DEFINED))
    trained = Backend(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    trainer = BpeTrainer(vocab_size=250, show_progress=False, limit_alphabet=70)
    trained.train_from_iterator([TEXT.replace("\n", " ").replace("\t", " ")], trainer)
    merges = [tuple(m) for m in json.loads(trained.to_str())["model"]["merges"]]
    letters = {t for t in trained.get_vocab() if len(t) == 1} | {SPACE}
    joined = enumerate(dict.fromkeys(["".join(m) for m in merges]))
    normal = [(token, -float(rank), NORMAL) for rank, token in joined]
    normal += [(t, -1000.0, NORMAL) for t in sorted(letters)]
    tokens += random.Random(0).sample(normal, len(normal))  # scores count, not places
    ids = {t: i for i, (t, *_) in enumerate(tokens)}
    backend = Backend(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([AddedToken("<user>", normalized=False)])
    first = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend, tokens


def write(folder: Path, backend: Backend, **files: object) -> Path:
    """A model's folder with a tokenizer; `tokenizer_config={...}` becomes a JSON file."""
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    files.setdefault("tokenizer_config", {"tokenizer_class": "PreTrainedTokenizerFast"})
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def from_folder(folder: Path) -> Tokenizer:
    return Tokenizer.load(TokenizerSource(folder=folder))


def gguf_keys(backend: Backend, pre: str) -> dict[str, Any]:
    """The same tokenizer as a converter writes it to GGUF."""
    model = json.loads(backend.to_str())["model"]
    added = backend.get_added_tokens_decoder()
    ids = {i: t for t, i in backend.get_vocab(with_added_tokens=True).items()}
    kinds = [CONTROL if i in added and added[i].special else NORMAL for i in range(len(ids))]
    kinds = [USER_DEFINED if i in added and k == NORMAL else k for i, k in enumerate(kinds)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [ids[i] for i in range(len(ids))],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(m) for m in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def llama_keys(prefix: bool) -> dict[str, Any]:
    _, tokens = sentencepiece(prefix)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [t for t, _, _ in tokens],
        "tokenizer.ggml.scores": [s for _, s, _ in tokens],
        "tokenizer.ggml.token_type": [k for _, _, k in tokens],
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def from_gguf(keys: dict[str, Any]) -> Tokenizer:
    return Tokenizer.load(TokenizerSource(gguf=keys))


# ---- beside transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2", "smollm", "tekken", "default"])
def test_byte_level_gives_the_ids_of_transformers(pre: str, tmp_path: Path) -> None:
    folder = write(tmp_path, byte_level(pre))
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = from_folder(folder)
    packed = from_gguf(gguf_keys(byte_level(pre), pre))
    for text in [*TEXTS, *fuzz(300)]:
        plain = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, special=False) == plain, text
        assert packed.encode(text, special=False) == plain, text
        if not text.startswith(BOS):
            assert ours.encode(text) == theirs.encode(text), text
        assert packed.encode(text) == ours.encode(text), text
        for one in ours, packed:
            assert one.decode(plain) == theirs.decode(plain, skip_special_tokens=True), text
            assert one.decode(plain, special=True) == theirs.decode(plain), text


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_gives_the_ids_of_transformers(prefix: bool, tmp_path: Path) -> None:
    folder = write(tmp_path, sentencepiece(prefix)[0])
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = from_folder(folder)
    packed = from_gguf(llama_keys(prefix))
    for text in [*TEXTS, *fuzz(300)]:
        plain = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, special=False) == plain, text
        assert packed.encode(text, special=False) == plain, text
        assert packed.encode(text) == ours.encode(text) == theirs.encode(text), text
        for one in ours, packed:
            assert one.decode(plain) == theirs.decode(plain, skip_special_tokens=True), text


def by_score(text: str, tokens: list[tuple[str, float, int]]) -> list[int]:
    """SentencePiece's BPE as it is defined: join the neighbours of the best score, leftmost."""
    ids = {t: i for i, (t, *_) in enumerate(tokens)}
    parts = list(text.replace(" ", SPACE))
    while True:
        known = [
            (-tokens[ids[a + b]][1], i)
            for i, (a, b) in enumerate(pairwise(parts))
            if a + b in ids and tokens[ids[a + b]][2] == NORMAL
        ]
        if not known:
            break
        _, i = min(known)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    found: list[int] = []
    for part in parts:
        found += [ids[part]] if part in ids else [3 + b for b in part.encode()]
    return found


def test_sentencepiece_is_what_its_scores_say() -> None:
    _, tokens = sentencepiece(False)
    ours = from_gguf(llama_keys(False))
    texts = [t for t in [*TEXTS, *fuzz(300)] if "<" not in t]
    joined = 0
    for text in texts:
        assert ours.encode(text, special=False) == by_score(text, tokens), text
        joined += len(by_score(text, tokens)) < len(text)
    assert joined > 50


def test_a_whole_word_needs_no_merges() -> None:
    for pre, whole in ("llama-bpe", True), ("tekken", True), ("qwen2", False):
        keys = gguf_keys(byte_level(pre), pre)
        keys["tokenizer.ggml.tokens"] += ["xyzzy"]
        keys["tokenizer.ggml.token_type"] += [NORMAL]
        ours = from_gguf(keys)
        assert (ours.encode("xyzzy", special=False) == [ours.vocab_size - 1]) is whole


# ---- what is around a text --------------------------------------------------------------------


def test_a_text_begins_once(tmp_path: Path) -> None:
    keys = gguf_keys(byte_level("llama-bpe"), "llama-bpe")
    for ours in from_folder(write(tmp_path, byte_level("llama-bpe"))), from_gguf(keys):
        assert ours.encode("a")[0] == 0 and ours.encode("a", special=False)[0] != 0
        assert ours.encode(f"{BOS}a") == ours.encode("a")
        assert ours.encode("") == [0]
        assert ours.encode(f"{BOS}{BOS}", special=False) == [0, 0]


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, True), (True, True)])
def test_settings_say_what_is_added(bos: bool, eos: bool, tmp_path: Path) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bos,
        "add_eos_token": eos,
        "bos_token": {"__type": "AddedToken", "content": BOS},
        "eos_token": EOS,
    }
    folder = write(tmp_path, byte_level("llama-bpe"), tokenizer_config=config)
    keys = gguf_keys(byte_level("llama-bpe"), "llama-bpe")
    keys |= {"tokenizer.ggml.add_bos_token": bos, "tokenizer.ggml.add_eos_token": eos}
    for ours in from_folder(folder), from_gguf(keys):
        plain = ours.encode("a b", special=False)
        assert ours.encode("a b") == [0] * bos + plain + [1] * eos


LISTED = {"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": [1, 2]}}
NAMED = {"tokenizer_config": {"eos_token": {"content": END}}, "config": {"eos_token_id": 1}}


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({}, None, set()),
        ({"config": {"bos_token_id": 0, "eos_token_id": 1}}, 0, {1}),
        (LISTED, None, {1, 2}),
        (NAMED, None, {1, 2}),
        ({"tokenizer_config": {"bos_token": BOS, "eos_token": END}}, 0, {2}),
        ({"tokenizer_config": {"bos_token": None}, "config": {"bos_token_id": 0}}, None, set()),
        ({"config": {"bos_token_id": None, "eos_token_id": None}}, None, set()),
    ],
)
def test_ends_of_a_folder(
    files: dict[str, Any], bos: int | None, eos: set[int], tmp_path: Path
) -> None:
    ours = from_folder(write(tmp_path, byte_level("qwen2"), **files))
    assert (ours.bos_id, ours.eos_ids) == (bos, eos)
    assert ours.vocab_size == byte_level("qwen2").get_vocab_size()


def test_ends_of_gguf() -> None:
    keys = gguf_keys(byte_level("qwen2"), "qwen2")
    assert from_gguf(keys).eos_ids == {1, 2}  # the name of 2 is known
    assert from_gguf(keys | {"tokenizer.ggml.eot_token_id": 5}).eos_ids == {1, 2, 5}
    assert from_gguf(llama_keys(True)).eos_ids == {2}
    assert from_gguf(llama_keys(True)).bos_id == 1
    assert from_gguf(keys).encode("a") == from_gguf(keys).encode("a", special=False)


# ---- text as it comes -------------------------------------------------------------------------


def all_kinds() -> list[Tokenizer]:
    keys = gguf_keys(byte_level("llama-bpe"), "llama-bpe")
    return [from_gguf(keys), from_gguf(llama_keys(True)), from_gguf(llama_keys(False))]


def test_an_emoji_arrives_whole() -> None:
    for ours in all_kinds():
        ids = ours.encode(f"a{EMOJI}", special=False)[-4:]
        stream = ours.stream()
        assert [stream.push(i) for i in ids] == ["", "", "", EMOJI]
        assert stream.end() == ""
        stream = ours.stream()
        assert [stream.push(i) for i in ids[:3]] == ["", "", ""]
        assert stream.end() == "\ufffd"
        stream = ours.stream()
        after = ours.encode("yy", special=False)[-1]
        assert stream.push(ids[0]) + stream.push(after) == f"\ufffd{ours.decode([after])}"


def test_a_stream_is_the_text() -> None:
    rng = random.Random(0)
    for ours in all_kinds():
        for text in [*TEXTS, *fuzz(100)]:
            stream = ours.stream()
            ids = ours.encode(text)
            out = "".join(stream.push(i) for i in ids) + stream.end()
            assert out.removeprefix(" " * ours._parts.spelling.prefix) == ours.decode(ids)
        for _ in range(100):  # ids that no text has
            ids = [rng.randrange(ours.vocab_size + 3) for _ in range(20)]
            stream = ours.stream()
            out = "".join(stream.push(i) for i in ids) + stream.end()
            assert out.removeprefix(" " * ours._parts.spelling.prefix) == ours.decode(ids)


def test_a_stream_keeps_its_first_space() -> None:
    ours = from_gguf(llama_keys(True))
    ids = ours.encode("the fox")
    whole = ours.decode(ids)
    assert whole == "the fox"
    first = next(i for i in range(len(ids)) if ours.decode(ids[: i + 1]) == "the")
    stream = ours.stream()
    assert "".join(map(stream.push, ids[first + 1 :])) == " fox"


def test_special_tokens_are_shown_on_demand() -> None:
    for ours in all_kinds():
        ids = [ours.bos_id or 0, *ours.encode("a", special=False), *sorted(ours.eos_ids)[:1]]
        assert ours.decode(ids) == "a"
        assert ours.decode(ids, special=True) != "a"
        assert ours.decode([ours.vocab_size + 7]) == ""


def test_tokens_that_are_written_as_they_are(tmp_path: Path) -> None:
    backend = byte_level("llama-bpe")
    keys = gguf_keys(backend, "llama-bpe")
    keys["tokenizer.ggml.tokens"] += ["<\u00e9>"]  # spelled byte by byte it would be <\xe9>
    keys["tokenizer.ggml.token_type"] += [USER_DEFINED]
    other = Backend.from_str(backend.to_str())
    other.add_tokens(["<\u00e9>"])
    for ours in from_gguf(keys), from_folder(write(tmp_path, other)):
        assert ours.decode(ours.encode("a<\u00e9>b")) == "a<\u00e9>b"


def test_bytes_are_read_where_there_is_a_fallback(tmp_path: Path) -> None:
    backend, _ = sentencepiece(False)
    assert from_folder(write(tmp_path, backend)).decode([3 + 0x41]) == "A"
    backend.decoder = decoders.Replace(SPACE, " ")
    assert from_folder(write(tmp_path, backend)).decode([3 + 0x41]) == "<0x41>"


# ---- conversations ----------------------------------------------------------------------------

TURNS = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"


def test_chat(tmp_path: Path) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS}
    messages = [{"role": "user", "content": "a"}]
    several = [{"name": "tool", "template": "x"}, {"name": "default", "template": TURNS}]
    for template in TURNS, several:
        folder = write(
            tmp_path, byte_level("llama-bpe"), tokenizer_config=config | {"chat_template": template}
        )
        assert from_folder(folder).chat(messages) == f"{BOS}[a]"
    theirs = AutoTokenizer.from_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ eos_token }}" + TURNS)
    ours = from_folder(folder)
    assert ours.chat(messages) == f"{EOS}{BOS}[a]"
    assert ours.encode(f"{BOS}[a]", special=False) == theirs.apply_chat_template(
        messages, chat_template=TURNS, return_dict=False
    )
    keys = gguf_keys(byte_level("llama-bpe"), "llama-bpe")
    with pytest.raises(TilusValueError, match="no chat template"):
        from_gguf(keys).chat(messages)
    assert from_gguf(keys | {"tokenizer.chat_template": TURNS}).chat(messages) == f"{BOS}[a]"


# ---- what is refused --------------------------------------------------------------------------


def one_line(error: TilusError) -> str:
    line = error.first.message
    assert "\n" not in line and len(line) < 400
    return line


@pytest.mark.parametrize("text", ["a\ud800b", 3, None, b"bytes"])
def test_texts_that_are_none(text: object) -> None:
    for ours in all_kinds():
        with pytest.raises(TilusError, match="`text`"):
            ours.encode(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[-1], [1.0], [True], ["a"], [None]])
def test_ids_that_are_none(ids: list[Any]) -> None:
    for ours in all_kinds():
        with pytest.raises(TilusTypeError, match="`ids`"):
            ours.decode(ids)
        with pytest.raises(TilusTypeError, match="`ids`"):
            ours.stream().push(ids[0])


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """A tokenizer.json after a change."""
    data = json.loads(byte_level("llama-bpe").to_str())
    change(data)
    return json.dumps(data)


MALFORMED = {
    "empty": "",
    "cut": changed(lambda d: None)[:-100],
    "list": "[]",
    "nothing": "{}",
    "twice": '{"model": {}, "model": {}}',
    "deep": '{"decoder": ' + '{"type": "Sequence", "decoders": [' * 300 + "]}" * 300 + "}",
    "too deep": "[" * 100_000,
    "no model": changed(lambda d: d.pop("model")),
    "model a list": changed(lambda d: d.update(model=[])),
    "model unknown": changed(lambda d: d.update(model={"type": "Other"})),
    "no decoder": changed(lambda d: d.update(decoder=None)),
    "decoder unknown": changed(lambda d: d.update(decoder={"type": "CTC"})),
    "decoder a text": changed(lambda d: d.update(decoder="ByteLevel")),
    "vocab a list": changed(lambda d: d["model"].update(vocab=["a"])),
    "vocab of texts": changed(lambda d: d["model"].update(vocab={"a": "b"})),
    "vocab negative": changed(lambda d: d["model"].update(vocab={"a": -1}, merges=[])),
    "vocab large": changed(lambda d: d["model"]["vocab"].update(a=2**32 - 1)),
    "vocab too large": changed(lambda d: d["model"]["vocab"].update(a=2**70)),
    "merges unknown": changed(lambda d: d["model"].update(merges=[["qq", "zz"]])),
    "merges of numbers": changed(lambda d: d["model"].update(merges=[[1, 2]])),
    "merges of one": changed(lambda d: d["model"].update(merges=["a"])),
    "pattern wrong": changed(
        lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a"})
    ),
    "added wrong": changed(lambda d: d.update(added_tokens=[{"id": "x"}])),
    "added beyond": changed(lambda d: d["added_tokens"][0].update(id=2**31)),
    "processor wrong": changed(lambda d: d.update(post_processor={"type": "TemplateProcessing"})),
    "version": changed(lambda d: d.update(version=3)),
    "binary": "\x80",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_tokenizer_json(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(MALFORMED[name], encoding="latin-1")
    with pytest.raises(TilusError) as caught:
        from_folder(tmp_path)
    assert "tokenizer.json" in one_line(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("config", {"eos_token_id": "2"}, "eos_token_id"),
        ("config", {"eos_token_id": [1, None]}, "eos_token_id"),
        ("config", {"bos_token_id": True}, "bos_token_id"),
        ("generation_config", {"eos_token_id": -1}, "eos_token_id"),
        ("generation_config", {"eos_token_id": 2**40}, "eos_token_id"),
        ("tokenizer_config", {"eos_token": 3}, "eos_token"),
        ("tokenizer_config", {"eos_token": {"content": []}}, "eos_token"),
        ("tokenizer_config", {"add_bos_token": "yes"}, "add_bos_token"),
        ("tokenizer_config", {"chat_template": 7}, "chat_template"),
        ("tokenizer_config", [], "not a JSON object"),
    ],
)
def test_malformed_settings(file: str, content: object, word: str, tmp_path: Path) -> None:
    write(tmp_path, byte_level("llama-bpe"), **{file: content})
    with pytest.raises(TilusValueError, match=word) as caught:
        from_folder(tmp_path)
    assert f"{file}.json" in one_line(caught.value)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TilusValueError, match=r"no tokenizer\.json"):
        from_folder(tmp_path)
    with pytest.raises(TilusValueError, match="neither a folder nor GGUF"):
        Tokenizer.load(TokenizerSource())


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("model", "bert", "known are gpt2, llama"),
        ("model", 3, "known are gpt2, llama"),
        ("pre", "other", "known are llama-bpe"),
        ("pre", [], "known are llama-bpe"),
        ("tokens", [], "missing or empty"),
        ("tokens", [1, 2], "array of str"),
        ("tokens", "abc", "array of str"),
        ("token_type", [1], "1 values for"),
        ("token_type", ["a"], "array of int"),
        ("merges", ["ab"], "number 0, 'ab'"),
        ("merges", ["qq zz"], "does not join"),
        ("merges", [["a", "b"]], "array of str"),
        ("bos_token_id", 10**6, "tokens"),
        ("eos_token_id", -1, "tokens"),
        ("eot_token_id", "x", "tokens"),
        ("add_bos_token", 1, "true or false"),
    ],
)
def test_malformed_gguf(key: str, value: object, word: str) -> None:
    keys = gguf_keys(byte_level("llama-bpe"), "llama-bpe") | {f"tokenizer.ggml.{key}": value}
    with pytest.raises(TilusError, match=word) as caught:
        from_gguf(keys)
    assert one_line(caught.value).startswith(f"tokenizer.ggml.{key} ".replace("merges ", "merges"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("scores", []), ("scores", [float("nan")] * 9), ("scores", [1]), ("unknown_token_id", 10**6)],
)
def test_malformed_scores(key: str, value: object) -> None:
    with pytest.raises(TilusError, match=f"tokenizer.ggml.{key}"):
        from_gguf(llama_keys(True) | {f"tokenizer.ggml.{key}": value})


def test_a_vocabulary_may_repeat_itself() -> None:
    keys = gguf_keys(byte_level("llama-bpe"), "llama-bpe")
    before = from_gguf(keys).encode("a")
    keys["tokenizer.ggml.tokens"] += ["a", "", END]
    keys["tokenizer.ggml.token_type"] += [NORMAL, CONTROL, CONTROL]
    ours = from_gguf(keys)
    assert ours.encode("a") == before
    assert ours.decode([ours.vocab_size - 3]) == "a"
