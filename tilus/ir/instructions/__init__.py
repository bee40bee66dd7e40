"""Every instruction of the VM, one module a family; importing this fills the registry."""

from tilus.ir.instructions import arith, debug, matrix, memory, reduce, sync, tiles, view

__all__ = ["arith", "debug", "matrix", "memory", "reduce", "sync", "tiles", "view"]
