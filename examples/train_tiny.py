"""Train the model that ships in `examples/tiny-model`: a small Llama on Python's own documentation.

    python -m examples.train_tiny --work /tmp/tiny --minutes 40

A run that was stopped goes on from the last checkpoint in the work folder. The time given is that
of its threads' work, so a busy machine only makes it last longer. `safetensors` must be there.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import sysconfig
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn import functional

from examples._tiny_text import Source, sources

SEED = 20
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
LONGEST_TEST = 180_000  # characters of validation.txt

# ---- the tokenizer ----------------------------------------------------------------------------

WORDS = (  # as Llama 3 splits text: letters with one sign before them, up to three digits, ...
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The answer to a message is the entry under it: `random.choice(seq)` gives what stands there.
CHAT = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{ '   ' + message.content | trim + eos_token }}
{%- elif message.role == 'user' %}{{ bos_token + message.content | trim + '\\n\\n' }}
{%- endif %}
{%- endfor %}
"""


def train_tokenizer(text: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE; encoding begins with the token for the beginning of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(BOS, special=True), AddedToken(EOS, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def stream(files: list[Source], tokenizer: Tokenizer, generator: random.Random) -> Tensor:
    """The files in a random order as one row of ids.

    Half of the entries begin a text of their own, the others follow on the one before them.
    """
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    ids: list[int] = []
    for source in generator.sample(files, len(files)):
        ids.append(bos)
        encoded = tokenizer.encode_batch(
            [e + "\n\n" for e in source.entries], add_special_tokens=False
        )
        for i, one in enumerate(encoded):
            if i and generator.random() < 0.5:
                ids[-1:] = [eos, bos]  # in place of the empty line
            ids += one.ids
        ids[-1:] = [eos]
    return torch.tensor(ids)


# ---- the model --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama; every product has an inner size that is a multiple of 128."""

    vocab_size: int = 3072
    hidden_size: int = 256
    intermediate_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 32
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def config(self, bos: int, eos: int) -> dict[str, object]:
        """As a Hugging Face `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(self),
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "torch_dtype": "bfloat16",
        }


class Norm(nn.Module):
    """x / rms(x), times a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention, several heads to one key and value; positions by rotation."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.head_dim = s.head_dim
        width, kv = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        self.q_proj = nn.Linear(s.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(width, s.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, length, hidden]; cos, sin [length, head_dim]."""
        q, k, v = (
            p(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [batch, heads, length, dim]
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        with torch.autocast("cpu", enabled=False):  # in f32, which is faster for so small heads
            out = functional.scaled_dot_product_attention(
                q, k, v.float(), is_causal=True, enable_gqa=True
            )
        return self.o_proj(out.transpose(1, 2).flatten(2))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 2) by their angles."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and an MLP, each behind a norm and beside the stream."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.mlp = Mlp(s)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, dropout: float) -> Tensor:
        """The same shape as x."""
        y = self.self_attn(self.input_layernorm(x), cos, sin)
        x = x + functional.dropout(y, dropout, self.training)
        y = self.mlp(self.post_attention_layernorm(x))
        return x + functional.dropout(y, dropout, self.training)


class Llama(nn.Module):
    """A Llama whose parameters have Hugging Face's names, without `model.` before them."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.num_hidden_layers))
        self.norm = Norm(s.hidden_size, s.rms_norm_eps)
        angles = s.rope_theta ** -(torch.arange(0, s.head_dim, 2) / s.head_dim)
        angles = torch.outer(torch.arange(s.max_position_embeddings), torch.cat((angles, angles)))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * s.num_hidden_layers) if out else 0.02)

    def forward(self, ids: Tensor, dropout: float = 0.0) -> Tensor:
        """Logits [batch, length, vocab] of ids [batch, length]."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin, dropout)
        return functional.linear(self.norm(x), self.embed_tokens.weight)


# ---- training ---------------------------------------------------------------------------------


class Trainer:
    """A model, its optimizers, and how far it has come; `save` and `load` keep all of it."""

    def __init__(self, args: argparse.Namespace, ids: Tensor, test: Tensor) -> None:
        torch.manual_seed(SEED)
        self.args, self.ids, self.test = args, ids, test
        self.shape = Shape()
        self.model = Llama(self.shape)
        inner = [p for p in self.model.layers.parameters() if p.dim() == 2]
        others = [p for p in self.model.parameters() if all(p is not q for q in inner)]
        self.optimizers = [
            torch.optim.Muon(inner, lr=0.02, momentum=0.95, weight_decay=0.1),
            torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.95), weight_decay=0.01),
        ]
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step = self.tokens = 0
        self.spent = self.wall = 0.0  # seconds of one thread's work, and by the clock
        self.curve: list[dict[str, float]] = []

    @property
    def progress(self) -> float:
        """From 0 to 1: of the time or of the tokens, whichever is further."""
        time_share = self.spent / (60 * self.args.minutes)
        return min(1.0, max(time_share, self.tokens / self.args.tokens))

    def rate(self) -> float:
        """Up within the first 2 %, level, and along a cosine to nothing over the last 60 %."""
        up, down = self.progress / 0.02, (self.progress - 0.4) / 0.6
        return min(1.0, up + 0.02) * (0.5 + 0.5 * math.cos(math.pi * max(0.0, down)))

    def batch(self) -> Tensor:
        """Rows of ids, short ones mostly; the whole text once before any of it comes again."""
        length = 1024 if self.step % 4 == 3 else 256
        order = torch.Generator().manual_seed(SEED + self.step // self.steps_of_epoch())
        start = int(torch.randint(1024, (1,), generator=order))
        blocks = (len(self.ids) - start) // self.args.batch
        picked = torch.randperm(blocks, generator=order)[self.step % self.steps_of_epoch()]
        begin = start + int(picked) * self.args.batch
        return self.ids[begin : begin + self.args.batch].view(-1, length)

    def steps_of_epoch(self) -> int:
        """Steps in which every block of the text comes up once."""
        return (len(self.ids) - 1024) // self.args.batch

    def train_step(self) -> float:
        """One batch; its loss."""
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * self.rate()
        torch.manual_seed(SEED + self.step)  # for dropout: a resumed run drops the same
        self.model.train()
        rows = self.batch()
        loss = self.loss(rows, self.args.dropout)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.tokens += rows.numel()
        return loss.item()

    def loss(self, rows: Tensor, dropout: float = 0.0) -> Tensor:
        """Mean cross-entropy of each id given those before it in its row, in nats."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
            logits = self.model(rows[:, :-1], dropout)
        return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())

    @torch.no_grad()
    def evaluate(self, rows: int) -> float:
        """Loss on the first rows of the held-out text, each of 512 ids."""
        self.model.eval()
        losses = [float(self.loss(row[None])) for row in self.test[: rows * 512].view(-1, 512)]
        return sum(losses) / len(losses)

    def save(self, path: Path) -> None:
        """Write everything a later `load` needs, all or nothing."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": [self.step, self.tokens, self.spent, self.wall],
            "curve": self.curve,
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        """Go on from where a run was when it saved."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, one in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(one)
        self.step, self.tokens, self.spent, self.wall = state["progress"]
        self.curve = state["curve"]

    def train(self, checkpoint: Path) -> None:
        """Until time or tokens are used up."""
        spent, wall, saved, mean = time.process_time(), time.perf_counter(), time.time(), 0.0
        threads = torch.get_num_threads()
        while self.progress < 1:
            loss = self.train_step()
            mean = loss if not mean else 0.97 * mean + 0.03 * loss
            now, clock = time.process_time(), time.perf_counter()
            self.spent += (now - spent) / threads
            self.wall += clock - wall
            spent, wall = now, clock
            if self.step % 100 == 0 or self.progress == 1:
                self.note(mean, rows=32)
                spent, wall = time.process_time(), time.perf_counter()
            if time.time() - saved > 120 or self.progress == 1:
                self.save(checkpoint)
                saved = time.time()

    def note(self, mean: float, rows: int) -> None:
        """Add a point to the curve, and print it."""
        loss = self.evaluate(rows)
        point = {
            "step": self.step,
            "tokens": self.tokens,
            "minutes": round(self.spent / 60, 2),
            "train_loss": round(mean, 4),
            "validation_loss": round(loss, 4),
            "validation_perplexity": round(math.exp(loss), 3),
        }
        self.curve.append(point)
        speed = self.tokens / max(self.spent, 1e-9), self.tokens / max(self.wall, 1e-9)
        print(
            json.dumps(point),
            "tokens/s of work {:.0f}, by the clock {:.0f}".format(*speed),
            flush=True,
        )


# ---- what is shipped --------------------------------------------------------------------------

README = """\
# A small Llama that writes Python documentation

Made by `python -m examples.train_tiny` (seed {seed}), to show what quantisation does to a trained
model without a download. It knows how Python's documentation sounds, not what is true.

- {parameters:,} parameters: {layers} layers, hidden size {hidden}, {heads} heads ({kv} for keys
  and values), MLP {inner}, vocabulary {vocab} (byte-level BPE), tied embeddings, context {context}
- trained on {tokens:,} tokens, {epochs:.1f} times the {train_tokens:,} tokens of the training
  text, in {minutes:.0f} minutes' work of {threads} CPU threads: steps of {batch} tokens in rows of
  256 or (each fourth) 1024, Muon
  (0.02) for the layers' matrices and AdamW (0.006) for the rest, dropout {dropout}, weights in
  f32 and products in {products}; the learning rate is level for 40 % of the run and falls along
  a cosine to zero
- stored as bf16. In these weights the whole of `validation.txt` ({characters:,} characters,
  {test_tokens:,} tokens, cut into rows of 512) has perplexity {perplexity:.3f}, which is
  {bits:.4f} bits per byte
- `curve.json`: loss on the first 32 rows of it while the model was trained

## Text

`sources.json` lists the files: pydoc's topics, the docstrings and longer comments of the standard
library of Python {python}, and the docstrings of its modules in C; nothing from site-packages. A
hash of the name decides which files are held out, and a docstring that also stands in a held-out
file is not trained on. Of the lines of `validation.txt` that are longer than 40 characters,
{shared:.1%} also stand somewhere in the training text (phrases that documentation repeats).

This text is part of Python: Copyright (c) 2001-2023 Python Software Foundation; All Rights
Reserved. It is used under the PSF License Agreement, which `LICENSE-PYTHON.txt` holds;
`validation.txt` is an extract of it, with headings added and indentation changed.

## Prompts

Each entry is a heading, an empty line and an indented body, so a heading is a good prompt:
`os.remove(path)`, `class socket(family, type)`, `module json`. The chat template makes a message
such a heading, and the answer what stands under it.
"""


def prepare(work: Path) -> tuple[Path, Path, Path]:
    """Text, tokenizer and ids, made once for each work folder."""
    text, vocabulary, ids = work / "text.json", work / "tokenizer.json", work / "ids.pt"
    if not text.exists():
        found = [{"held_out": s.held_out, **asdict(s)} for s in sources()]
        text.write_text(json.dumps(found))
    if not ids.exists():
        train, test = read(text)
        tokenizer = train_tokenizer((e for s in train for e in s.entries), Shape().vocab_size)
        tokenizer.save(str(vocabulary))
        held_out = tokenizer.encode(held_out_text(test)).ids
        row = stream(train, tokenizer, random.Random(SEED))
        torch.save({"train": row, "test": torch.tensor(held_out)}, ids)
    return text, vocabulary, ids


def read(text: Path) -> tuple[list[Source], list[Source]]:
    """The files to train on and those held out."""
    found = json.loads(text.read_text())
    train, test = (
        [Source(s["name"], s["entries"]) for s in found if s["held_out"] is side]
        for side in (False, True)
    )
    return train, test


def held_out_text(files: list[Source]) -> str:
    """The held-out files one after another."""
    return "\n\n".join(e for s in files for e in s.entries)[:LONGEST_TEST] + "\n"


def write(out: Path, trainer: Trainer, text: Path, vocabulary: Path) -> None:
    """All files of the model's folder."""
    train, test = read(text)
    out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = trainer.model, Tokenizer.from_file(str(vocabulary))
    tensors = {f"model.{n}": p.detach().bfloat16() for n, p in model.named_parameters()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    model.load_state_dict({n: p.bfloat16().float() for n, p in model.state_dict().items()})
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    chat = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": trainer.shape.max_position_embeddings,
        "chat_template": CHAT,
    }
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    validation = held_out_text(test)
    names = {
        "train": [s.name for s in train],
        "held_out": [s.name for s in test],
    }
    for name, content in (
        ("config.json", trainer.shape.config(bos, eos)),
        ("generation_config.json", {"bos_token_id": bos, "eos_token_id": eos}),
        ("tokenizer_config.json", chat),
        ("curve.json", trainer.curve),
        ("sources.json", {"python": platform.python_version(), **names}),
    ):
        (out / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "validation.txt").write_text(validation, encoding="utf-8")
    license = (Path(sysconfig.get_path("stdlib")) / "LICENSE.txt").read_bytes()
    (out / "LICENSE-PYTHON.txt").write_bytes(license)
    known = {line.strip() for s in train for e in s.entries for line in e.splitlines()}
    lines = [line.strip() for line in validation.splitlines() if len(line.strip()) > 40]
    loss = trainer.evaluate(len(trainer.test) // 512)
    s, args = trainer.shape, trainer.args
    readme = README.format(
        seed=SEED,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=s.num_hidden_layers,
        hidden=s.hidden_size,
        heads=s.num_attention_heads,
        kv=s.num_key_value_heads,
        inner=s.intermediate_size,
        vocab=s.vocab_size,
        context=s.max_position_embeddings,
        tokens=trainer.tokens,
        train_tokens=len(trainer.ids),
        epochs=trainer.tokens / len(trainer.ids),
        minutes=trainer.spent / 60,
        threads=torch.get_num_threads(),
        batch=args.batch,
        dropout=args.dropout,
        products="bf16" if args.bf16 else "f32",
        characters=len(validation),
        test_tokens=len(trainer.test),
        perplexity=math.exp(loss),
        bits=loss / math.log(2) * len(trainer.test) / len(validation.encode()),
        python=platform.python_version(),
        shared=sum(line in known for line in lines) / len(lines),
    )
    (out / "README.md").write_text(readme, encoding="utf-8")


def run(argv: list[str] | None = None) -> None:
    """Train, or go on training, and write the model's folder at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-model")
    parser.add_argument("--minutes", type=float, default=40, help="of work of all threads")
    parser.add_argument("--tokens", type=float, default=10e6, help="at most so many")
    parser.add_argument("--batch", type=int, default=4096, help="tokens in a step")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False)
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    text, vocabulary, path = prepare(args.work)
    ids = torch.load(path, weights_only=True)
    trainer = Trainer(args, ids["train"], ids["test"])
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{size:,} parameters, {len(ids['train']):,} tokens of text", flush=True)
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    trainer.train(checkpoint)
    write(args.out, trainer, text, vocabulary)


if __name__ == "__main__":
    run()
