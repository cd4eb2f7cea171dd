# Every kernel family. Each instruction set's unit includes this file behind its vector type and tile table.

# Kernel name → address; each family adds its own.
KERNELS = {}

include "activations.pxi"
include "elementwise.pxi"
include "random.pxi"
include "reduce.pxi"
include "loss.pxi"
include "embedding.pxi"
include "generation.pxi"
include "optim.pxi"
include "data.pxi"
include "augment.pxi"
include "pack.pxi"
include "gemm.pxi"
include "conv.pxi"
include "conv_weight.pxi"
include "depthwise.pxi"
include "pool.pxi"
include "attention.pxi"
include "recurrent.pxi"
include "attention_grad.pxi"
include "rotary.pxi"
include "norm.pxi"
include "layer_norm.pxi"
include "int8.pxi"
include "int8_images.pxi"
