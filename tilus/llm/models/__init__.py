"""Model families: one module each, found by the `model_type` of a config.json.

A new family is a new module here with a `FAMILY`, which says what differs from `common.Family`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from tilus.errors import TilusValueError
from tilus.llm.models.common import Family


def _found() -> dict[str, Family]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names if name != "common"]
    return {module.FAMILY.name: module.FAMILY for module in modules}


FAMILIES: Mapping[str, Family] = _found()  # by model_type


def family_of(config: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family of a config.json; an error with all their names if it is not known."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    asked = config.get("architectures")
    classes = [name for name in asked if isinstance(name, str)] if isinstance(asked, list) else []
    for family in FAMILIES.values():
        if kind is None and family.architecture in classes:
            return family
    given = kind if isinstance(kind, str) else ", ".join(classes)
    said = f"is of the family {given[:60]!r}" if given else "has no `model_type`"
    raise TilusValueError(f"{where} {said}; the known families are {', '.join(FAMILIES)}")


__all__ = ["FAMILIES", "Family", "family_of"]
