"""The short way to launch a kernel: arguments of kinds that were launched with before.

A launch with torch tensors, ints and constants is described by a key (element types, alignments,
divisibility, constants); the long way (`tilus.lang.launch`) checks all and enters the kernel it
made under the key. What the short way does not know, it leaves to the long way.
"""

from __future__ import annotations

from typing import Any

import torch

from tilus.lang.frame import Trace
from tilus.lang.signature import Role, Signature
from tilus.runtime.program import CpuKernel

ALIGNMENT = 16  # what pointers (in bytes) and integers are specialised on

Arguments = tuple[tuple[Any, ...], list[int]]  # (key, words of the kernel)


class Quick:
    """The kernels of one function, by the kinds of their arguments."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._count = sum(p.role is not Role.CONSTEXPR for p in signature.parameters)
        self._roles: dict[Any, tuple[tuple[Role, int], ...] | None] = {}
        self._known: dict[tuple[Any, ...], tuple[CpuKernel, Trace]] = {}

    def arguments(
        self, args: tuple[Any, ...], keywords: dict[str, Any], features: object
    ) -> Arguments | None:
        """The key and the words of a launch; None if it must go the long way."""
        shape = (len(args), *keywords)
        if shape not in self._roles:
            self._roles[shape] = self._roles_of(shape)
        roles = self._roles[shape]
        if roles is None:
            return None
        key: list[Any] = [shape, features]
        words = [0] * self._count
        for x, (role, place) in zip((*args, *keywords.values()), roles, strict=True):
            kind = type(x)
            if role is Role.CONSTEXPR:
                if kind is float:  # 0.0 and -0.0 are equal
                    return None
                key += (kind, x)
            elif role is Role.POINTER:
                if kind is not torch.Tensor or not x.is_cpu:
                    return None
                address = words[place] = x.data_ptr()
                key += (x.dtype, address % ALIGNMENT == 0)
            elif kind is int:
                words[place] = x
                key.append(1 if x == 1 else x % ALIGNMENT == 0 and ALIGNMENT)
            else:
                return None
        return tuple(key), words

    def _roles_of(self, shape: tuple[Any, ...]) -> tuple[tuple[Role, int], ...] | None:
        """Role, and place among the words, of each argument given; None unless all fits."""
        parameters = self.signature.parameters
        places = [p for p in parameters if not p.keyword_only][: shape[0]]
        by_name = {p.name: p for p in parameters if not p.positional_only}
        given = [*places, *(by_name.get(n) for n in shape[1:])]
        runtime = [p for p in parameters if p.role is not Role.CONSTEXPR]
        missing = [p for p in parameters if p not in given and (p in runtime or p.required)]
        if len(places) != shape[0] or None in given or missing or len(set(given)) != len(given):
            return None
        order = {p: i for i, p in enumerate(runtime)}
        return tuple((p.role, order.get(p, 0)) for p in given if p is not None)

    def find(self, key: tuple[Any, ...]) -> CpuKernel | None:
        """The kernel for a key, if what it was made from still is the same."""
        try:
            found = self._known.get(key)
        except TypeError:  # a constant that cannot be hashed
            return None
        return found[0] if found is not None and found[1].is_current() else None

    def enter(self, key: tuple[Any, ...], kernel: CpuKernel, trace: Trace) -> None:
        """Remember the kernel for a key."""
        self._known[key] = kernel, trace
