"""A small model with a tokenizer on disk, for the commands about models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from tilus import dtypes
from tilus.llm.shapes import RandomModel

BOS, EOS = "<|begin|>", "<|end|>"
TEXT = "The quick brown fox jumps over the lazy dog. äöü 東京 it's 12345, said the dog.\n" * 4
CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 65536,
    "tie_word_embeddings": False,
}


def tokenizer() -> Tokenizer:
    """Byte-level, 300 tokens: a random model's text has pieces of characters."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[AddedToken(t, special=True) for t in (BOS, EOS)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, made.token_to_id(BOS))]
    )
    return made


def write_model(folder: Path, chat: bool = True, eos: int | None = None, **config: Any) -> Path:
    """A Llama with random weights, which never ends a text unless `eos` is one of its tokens."""
    folder.mkdir()
    vocabulary, config = tokenizer(), CONFIG | config
    shapes = RandomModel(config, dtypes.f32)
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.randn(shapes.shape(name), generator=generator) * 0.2
        if len(shapes.shape(name)) == 2
        else torch.ones(shapes.shape(name))
        for name in shapes.names
    }
    tensors["lm_head.weight"][vocabulary.token_to_id(EOS)] = 0
    save_file(tensors, folder / "model.safetensors")
    vocabulary.save(str(folder / "tokenizer.json"))
    about = {"bos_token": BOS, "eos_token": EOS} | ({"chat_template": CHAT} if chat else {})
    if eos is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos]}))
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "validation.txt").write_text(TEXT, encoding="utf-8")
    (folder / "LICENSE-MODEL").write_text("free")
    return folder
