"""An answer as text while its tokens come: complete characters, up to a text that ends it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from tilus.errors import TilusValueError
from tilus.llm.generate import GREEDY, STOP, Generator, Sampling
from tilus.llm.tokenizer import Tokenizer


class Answer:
    """What a model writes after a prompt.

    Args:
        generator: what computes.
        tokenizer: of the model.
        stop: texts that end the answer, and are not part of it.

    Attributes:
        tokens: so far; of those that made a stop text, too.
        text: so far.
        finish: at the end: stop, length or context.
    """

    def __init__(
        self, generator: Generator, tokenizer: Tokenizer, stop: Collection[str] = ()
    ) -> None:
        if "" in stop:
            raise TilusValueError("`stop` has a text without characters")
        self.generator = generator
        self.tokenizer = tokenizer
        self.stop = stop
        self.tokens: list[int] = []
        self.text = ""
        self.finish = ""

    def pieces(
        self, prompt: Sequence[int], *, max_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[str]:
        """The text, as it comes; see `Generator.stream`. The model's own stop tokens end it."""
        stream, until = self.tokenizer.stream(), Until(self.stop)
        steps = self.generator.steps(
            [prompt], max_tokens=max_tokens, sampling=sampling, stop=self.tokenizer.eos_ids
        )
        for step in steps:
            if step.token is None:
                self.finish = step.finish or ""
                break
            self.tokens.append(step.token)
            yield self._add(until.push(stream.push(step.token)))
            if until.found:
                self.finish = STOP
                return
        rest = until.push(stream.end())
        yield self._add(rest if until.found else rest + until.held)

    def _add(self, piece: str) -> str:
        self.text += piece
        return piece


class Until:
    """Text up to the first of some texts; what may be the beginning of one is held back."""

    def __init__(self, stop: Collection[str]) -> None:
        self.stop = stop
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What is sure to come before a stop."""
        text = self.held + text
        places = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        begun = (n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        sure = len(text) - max(begun, default=0)
        self.held = text[sure:]
        return text[:sure]
