"""Qwen2 and Qwen2.5: biases on q, k and v alone; windows in the last layers, if at all."""

from tilus.llm.config import Keys
from tilus.llm.models.common import Family, layer_windows


class Qwen2(Family):
    """Llama with biases that config.json does not mention."""

    name = "qwen2"
    architecture = "Qwen2ForCausalLM"

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """On q, k and v, always."""
        return True, False, False

    def windows(self, keys: Keys, layers: int) -> tuple[int | None, ...]:
        """Of the layers that `layer_types` or `max_window_layers` names."""
        return layer_windows(keys, layers)


FAMILY = Qwen2()
