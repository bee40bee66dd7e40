"""Native CPU code: a block is one thread, whose tiles are LLVM vectors or scratch memory."""
