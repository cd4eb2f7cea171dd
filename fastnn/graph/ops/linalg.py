"""Matrix products: one op, whose attributes say what is transposed and what its epilogue does."""

from __future__ import annotations

from ...kernels.table import packed_size
from ..tensor import Out, Tensor, size_of
from . import OPS, PRODUCT_FLOPS, Instr, Op, apply
from .elementwise import unbroadcast
from .unary import KINDS

# Epilogues of the products (kernels/gemm.pxi, conv.pxi).
NONE, ACTIVATION, GRADIENT, SLOPE, ADAM = 0, 1, 2, 3, 4


def matrix_extents(a: Tensor, b: Tensor, ta: bool, tb: bool) -> tuple[int, int, int]:
    """m, n, k of one product."""
    m, k = a.shape[-2:] if not ta else a.shape[:-3:-1]
    return m, b.shape[-2] if tb else b.shape[-1], k


def _matmul_infer(inputs, attrs) -> list[Out]:
    """a (…, m, k) · b (k, n) → (…, m, n), or batches (B, m, k) · (B, k, n); ta, tb: stored transposed."""
    a, b = inputs[:2]
    m, n, k = matrix_extents(a, b, attrs["ta"], attrs["tb"])
    kb = b.shape[-1] if attrs["tb"] else b.shape[-2]
    if k != kb:
        raise ValueError(
            f"matmul of {a.shape}{'ᵀ' if attrs['ta'] else ''} and {b.shape}{'ᵀ' if attrs['tb'] else ''}: "
            f"{k} columns meet {kb} rows"
        )
    if b.ndim > 2 and a.shape[:-2] != b.shape[:-2]:
        raise ValueError(f"matmul of {a.shape} and {b.shape}: the batch axes differ")
    out = Out((*a.shape[:-2], m, n))
    return [out, out] if attrs.get("pre") else [out]


def _strides(x: Tensor, transposed: bool) -> tuple[int, int]:
    """Element strides along the product's rows and columns of one stored matrix."""
    return (1, x.shape[-1]) if transposed else (x.shape[-1], 1)


def dotted(m: int, n: int, k: int) -> bool:
    """Whether A[m,k]·B[k,n] of a B that is stored transposed is dot products, by its few rows or columns: gemv.pxi."""

    def enough(few: int, k: int) -> bool:
        return few == 1 or (few <= 12 and k >= (16 * few if few <= 8 else 96))

    return enough(n, k - 1) or (m <= n and enough(m, k))


def _matmul_lower(node: Tensor) -> list[Instr]:
    if node.size == 0:                           # the kernel divides rows among tiles: there must be some
        return [Instr("fill", ((node, 0),), (0,), (0.0,))]
    a, b = node.inputs[:2]
    attrs = node.attrs
    ta = attrs["ta"]
    packed = b.op == "pack"
    stored = b.inputs[0] if packed else b
    m, n, k = matrix_extents(a, stored, ta, attrs["tb"])
    batch, shared = size_of(a.shape[:-2]), stored.ndim == 2
    a_batch = 0 if a.ndim == 2 else a.shape[-1] * a.shape[-2]
    b_batch = 0 if shared else b.size // size_of(stored.shape[:-2])
    if batch > 1 and shared and not ta:          # rows of all batch items against one matrix: one product
        m, batch = m * batch, 1
    a_m, a_k = _strides(a, ta)
    b_k, b_n = (0, 1) if packed else _strides(stored, attrs["tb"])
    bias, saved, kind, act, alpha = epilogue(node)
    pre = (node, 1) if attrs.get("pre") else None
    sizes = (m, n, k, n, a_m, a_k, b_k, b_n, batch, m * n, a_batch, b_batch, 0, kind, act)
    if "update" in attrs:                        # of the parameters whose gradient this is: graph/update.py
        p, _, mean, square, *_ = attrs["update"].ptrs
        sizes = (*sizes[:-2], ADAM, 0, *attrs["update"].sizes[1:])
        return [Instr("gemm", (p, mean, a, b, None, square), sizes, attrs["update"].scalars)]
    return [Instr("gemm", ((node, 0), pre, a, b, bias, saved), sizes, (alpha,))]


def epilogue(node: Tensor) -> tuple[Tensor | None, Tensor | None, int, int, float]:
    """Bias, saved operand of an activation's gradient, epilogue, activation and its parameter of a product."""
    attrs = node.attrs
    extra = list(node.inputs[2:])
    bias = extra.pop(0) if attrs.get("bias") else None
    saved = extra.pop(0) if attrs.get("epilogue") == GRADIENT else None
    act = KINDS[attrs["act"]].number if attrs.get("act") else 0
    return bias, saved, attrs.get("epilogue", NONE), act, attrs.get("alpha", 0.0)


def _flat(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else apply("reshape", x, shape=(x.size // x.shape[-1], x.shape[-1]))


def matmul(a: Tensor, b: Tensor, ta: bool = False, tb: bool = False) -> Tensor:
    """The bare product of (…, m, k) and (k, n) or (B, k, n)."""
    return apply("matmul", a, b, ta=ta, tb=tb)


def _matmul_vjp(node: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """dA = dY·Bᵀ and dB = Aᵀ·dY, with the stored transpositions carried through."""
    a, b = node.inputs
    ta, tb = node.attrs["ta"], node.attrs["tb"]
    if ta and a.ndim == b.ndim:
        da = matmul(b, dy, tb, True)
    else:
        da = matmul(dy, b, False, not tb)
        if ta:                                   # one matrix for all batch items: it can only stand on the right
            last = a.ndim - 1
            da = apply("transpose", da, axes=(*range(last - 1), last, last - 1))
    if b.ndim == 2 and a.ndim > 2 and not ta:    # every row of every batch item met the same matrix
        a, dy = _flat(a), _flat(dy)
    db = matmul(dy, a, True, ta) if tb else matmul(a, dy, not ta, False)
    return unbroadcast(da, node.inputs[0].shape), unbroadcast(db, b.shape)


def _pack_infer(inputs, attrs) -> list[Out]:
    (b,) = inputs
    k, n = b.shape[-2:] if not attrs["tb"] else b.shape[:-3:-1]
    return [Out((*b.shape[:-2], packed_size(n, k)))]


def _pack_lower(node: Tensor) -> list[Instr]:
    (b,) = node.inputs
    k, n = b.shape[-2:] if not node.attrs["tb"] else b.shape[:-3:-1]
    b_k, b_n = _strides(b, node.attrs["tb"])
    return [Instr("pack", ((node, 0), b), (n, k, b_k, b_n, size_of(b.shape[:-2]), n * k))]


OPS["matmul"] = Op(infer=_matmul_infer, lower=_matmul_lower, vjp=_matmul_vjp)
OPS["pack"] = Op(infer=_pack_infer, lower=_pack_lower)
PRODUCT_FLOPS["gemm"] = lambda sizes: 2.0 * sizes[0] * sizes[1] * sizes[2] * sizes[8]
