"""Mistral: a sliding window in every layer (version 0.1), and no biases."""

from tilus.llm.config import LONGEST, Keys
from tilus.llm.models.common import Family


class Mistral(Family):
    """Llama with a window."""

    name = "mistral"
    architecture = "MistralForCausalLM"

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """None, whatever the keys say."""
        return False, False, False

    def windows(self, keys: Keys, layers: int) -> tuple[int | None, ...]:
        """`sliding_window` for all layers, null for none; a config without the key means 4096."""
        if "sliding_window" in keys.values and keys.values["sliding_window"] is None:
            return (None,) * layers
        return (keys.integer("sliding_window", LONGEST, 4096),) * layers


FAMILY = Mistral()
