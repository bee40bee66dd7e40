"""Text to the ids of tokens and back, whole or as ids come; conversations by a model's template."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from tilus.errors import TilusTypeError, TilusValueError
from tilus.llm.checkpoints.checkpoint import TokenizerSource
from tilus.llm.checkpoints.limits import is_count
from tilus.llm.gguf_vocabulary import from_gguf
from tilus.llm.vocabulary import Vocabulary, from_folder, guarded


class Tokenizer:
    """The tokenizer of one model.

    Attributes:
        vocab_size: one more than the largest id.
        bos_id: the token for the beginning of a text, if there is one.
        eos_ids: the tokens that end a text or a turn.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._parts = vocabulary
        self.vocab_size = max(vocabulary.texts) + 1
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.eos_ids

    @staticmethod
    def load(source: TokenizerSource) -> Tokenizer:
        """The tokenizer that a checkpoint has, in its folder or in its GGUF metadata."""
        if source.folder is not None:
            return Tokenizer(from_folder(source.folder))
        if source.gguf is not None:
            return Tokenizer(from_gguf(source.gguf))
        raise TilusValueError("`source` names neither a folder nor GGUF metadata")

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text. Special tokens that are written out in it become their ids.

        Args:
            text: of any length.
            special: whether to add what the model expects around a text, mostly a token for its
                beginning; one that stands there already is not added again. What `chat` gives is
                complete: it is encoded without.
        """
        if not isinstance(text, str):
            raise TilusTypeError(f"`text` is a {type(text).__name__}, not a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TilusValueError(
                f"`text` has half of a surrogate pair at character {error.start}"
            ) from None
        parts = self._parts
        if special and parts.begin is None:
            ids = self._encode(text, True)
            if len(ids) > 1 and ids[0] == ids[1] in parts.special:  # perhaps its beginning twice
                plain = self._encode(text, False)
                ids = plain if plain == ids[1:] else ids
            return ids
        ids = self._encode(text, False)
        if special and parts.begin is not None:
            ids = [*([] if ids[:1] == parts.begin else parts.begin), *ids, *parts.end]
        return ids

    def _encode(self, text: str, special: bool) -> list[int]:
        backend = self._parts.backend
        encode = partial(backend.encode, text, add_special_tokens=special)
        ids: list[int] = guarded("`text` cannot be encoded", encode).ids
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids from its beginning on: the inverse of `encode`.

        Ids that go on with a text are the business of `stream`, which keeps their first space.

        Args:
            ids: of tokens; those of no token stand for nothing.
            special: whether special tokens are shown.
        """
        text = b"".join(self._piece(i, special) for i in ids).decode(errors="replace")
        return text.removeprefix(" ") if self._parts.spelling.prefix else text

    def stream(self) -> Stream:
        """A new decoder for ids that come one after another."""
        return Stream(self)

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        """A conversation as text, special tokens written out: encode it with `special=False`.

        Args:
            messages: each with a `role`, mostly `user` or `assistant`, and a `content`.
            answer: whether the text ends where the model's answer begins.
        """
        if self._parts.template is None:
            raise TilusValueError(
                "this model has no chat template", help="give it a prompt as plain text"
            )
        return self._parts.template.render(messages, answer)

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a template to make a conversation a text."""
        return self._parts.template is not None

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        """The bytes of every token."""
        parts = self._parts
        return {
            i: text.encode() if i in parts.plain else parts.spelling.read(text)
            for i, text in parts.texts.items()
        }

    def _piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token."""
        if not is_count(token):
            raise TilusTypeError(f"`ids` has {token!r}, which is not the id of a token")
        if token in self._parts.special and not special:
            return b""
        return self._pieces.get(token, b"")


class Stream:
    """Text from ids that come one after another, in whole characters only.

    A character may take several tokens: its text comes with the last of them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that are complete with this token; often none or several."""
        return self._decoder.decode(self._tokenizer._piece(token))

    def end(self) -> str:
        """What is left: U+FFFD for a character that was cut off."""
        return self._decoder.decode(b"", final=True)
