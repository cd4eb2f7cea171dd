# Every kernel family. Each instruction set's unit includes this file behind its vector type and tile table.

cdef enum:
    MAX_KERNELS = 256

cdef struct Entry:
    const char *name
    size_t address

cdef Entry _entries[MAX_KERNELS]
cdef Entry *_end = _entries


# Each family adds its own kernels. Code that filled a dict line by line would take 15 KB more.
cdef inline void kernel(const char *name, size_t address) noexcept:
    global _end
    _end.name = name
    _end.address = address
    _end += 1


include "activations.pxi"
include "elementwise.pxi"
include "random.pxi"
include "pack.pxi"
include "reduce.pxi"
include "softmax.pxi"
include "loss.pxi"
include "embedding.pxi"
include "generation.pxi"
include "optim.pxi"
include "data.pxi"
include "augment.pxi"
include "gemm.pxi"
include "conv.pxi"
include "conv_weight.pxi"
include "depthwise_slide.pxi"
include "depthwise_stride2.pxi"
include "depthwise.pxi"
include "depthwise_weight.pxi"
include "pool.pxi"
include "attention.pxi"
include "recurrent.pxi"
include "attention_grad.pxi"
include "rotary.pxi"
include "norm.pxi"
include "norm_pool.pxi"
include "winograd.pxi"
include "winograd_weight.pxi"
include "layer_norm.pxi"
include "int8.pxi"
include "int8_images.pxi"

# Kernel name → address.
KERNELS = {_entries[i].name.decode(): _entries[i].address for i in range(_end - _entries)}
VECTOR_LANES = <int>VL
