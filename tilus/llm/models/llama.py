"""Llama 2 and 3.x, and the many models that are built like them."""

from tilus.llm.models.common import Family


class Llama(Family):
    """The common rules, without a change."""

    name = "llama"
    architecture = "LlamaForCausalLM"


FAMILY = Llama()
