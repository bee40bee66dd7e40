"""Instructions that order memory accesses."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tilus import dtypes
from tilus.errors import TilusTypeError
from tilus.ir import machine
from tilus.ir.expr import Expr, Value
from tilus.ir.inst import Effect, Inst
from tilus.ir.instructions.memory import check_memory, check_offsets
from tilus.ir.types import GlobalType, ScalarType

if TYPE_CHECKING:
    from tilus.ir.interpreter import Block


class Sync(Inst, opcode="sync", effects=Effect.SYNC, threads=True):
    """All threads of the block wait for each other; what they wrote is then seen by all of them."""

    is_barrier = True

    def infer(self) -> None:
        return None

    def interpret(self, block: Block) -> None:
        block.barrier()


class Fence(Inst, opcode="fence", effects=Effect.SYNC):
    """What the block wrote to global memory is seen by others before what it writes next."""

    def infer(self) -> None:
        return None

    def interpret(self) -> None:
        return None


class Semaphore(Inst):
    """A semaphore: an i32 or u32 element of global memory that blocks pass on to each other."""

    sem: Value
    offsets: tuple[Expr, ...]
    value: Expr
    is_barrier: ClassVar[bool] = True

    def infer(self) -> None:
        sem = check_memory(self, "sem", GlobalType)
        if sem.dtype not in (dtypes.i32, dtypes.u32):
            raise TilusTypeError(f"{self.opcode}: `sem` must hold i32 or u32, not {sem.dtype}")
        check_offsets(self, self.offsets, sem.rank)
        if not isinstance(self.value.type, ScalarType) or not self.value.dtype.is_integer:
            raise TilusTypeError(
                f"{self.opcode}: `value` must be an integer scalar, not {self.value.type}"
            )


class SemaphoreAcquire(
    Semaphore, opcode="semaphore_acquire", effects=Effect.SYNC, reads=("sem",), threads=True
):
    """Wait until the semaphore is `value`; what its releaser wrote before is then seen.

    A block may wait only for blocks of lower index.
    """

    def interpret(
        self, block: Block, sem: machine.GlobalView, offsets: tuple[int, ...], value: int
    ) -> None:
        block.acquire(sem, offsets, value)


class SemaphoreRelease(
    Semaphore, opcode="semaphore_release", effects=Effect.SYNC, writes=("sem",), threads=True
):
    """Set the semaphore to `value` after all that the block's threads wrote."""

    def interpret(
        self, block: Block, sem: machine.GlobalView, offsets: tuple[int, ...], value: int
    ) -> None:
        block.release(sem, offsets, value)
