"""What all LLVM targets share: scalars, control flow, elementwise arithmetic, conversions."""
