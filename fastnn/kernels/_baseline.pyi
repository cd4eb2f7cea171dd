KERNELS: dict[str, int]
"""Kernel name -> address of its C function (`kernel_t` in abi.pxd)."""

def packed_size(n: int, k: int) -> int:
    """Floats that the panels of one B[k, n] take, as the kernels `pack` and `gemm` lay them out."""
