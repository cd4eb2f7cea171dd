KERNELS: dict[str, int]
"""Kernel name -> address of its C function (`kernel_t` in abi.pxd)."""

VECTOR_LANES: int
"""Floats in a vector."""
