"""Qwen3: an RMS norm of each head's query and key before rotation, and heads of their own size."""

from tilus.llm.config import Keys
from tilus.llm.models.common import Family, layer_windows


class Qwen3(Family):
    """Qwen2 with norms in the place of biases."""

    name = "qwen3"
    architecture = "Qwen3ForCausalLM"
    qk_norm = True
    default_head_dim = 128

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """All of attention's, or none."""
        attention = keys.flag("attention_bias", False)
        return attention, attention, False

    def windows(self, keys: Keys, layers: int) -> tuple[int | None, ...]:
        """Of the layers that `layer_types` or `max_window_layers` names."""
        return layer_windows(keys, layers)


FAMILY = Qwen3()
