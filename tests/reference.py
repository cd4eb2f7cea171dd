"""Every op in plain NumPy and float64, written from its definition and not from the kernels.

These functions are the measure of the kernels: slow, obvious, and independent of fastnn. Arguments and names are
those of `fastnn.functional`; gradients have no reference, they are differenced from these.
"""

from __future__ import annotations

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def relu(x):
    return np.where(np.isnan(x), x, np.maximum(x, 0))


def leaky_relu(x, slope=0.01):
    return np.where(x < 0, slope * x, x)


def elu(x, alpha=1.0):
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def erf(x):
    return _erf(x)


def gelu(x):
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def silu(x):
    return x * sigmoid(x)


def softplus(x, beta=1.0, threshold=20.0):
    return np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta)


def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def power(a, b):
    return np.power(a, b)


def where(condition, a, b):
    return np.where(condition != 0, a, b)


def truth(compare):
    """Comparisons give 0.0 and 1.0."""
    return lambda a, b: compare(a, b).astype(np.float64)


def softmax(x, dim=-1):
    e = np.exp(x - x.max(axis=dim, keepdims=True))
    return e / e.sum(axis=dim, keepdims=True)


def log_softmax(x, dim=-1):
    shifted = x - x.max(axis=dim, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))


def linear(x, weight, bias=None):
    y = np.matmul(x, weight.T)
    return y if bias is None else y + bias


def cross_entropy_rows(x, labels, weight=None, label_smoothing=0.0, ignore_index=-100):
    """Loss and weight of each row, by the formula in PyTorch's documentation of CrossEntropyLoss."""
    rows, classes = x.shape
    weight = np.ones(classes) if weight is None else weight
    minus_log = -log_softmax(x)
    loss, weights = np.zeros(rows), np.zeros(rows)
    for row, label in enumerate(labels):
        if label != ignore_index:
            loss[row] = (1 - label_smoothing) * weight[label] * minus_log[row, label]
            if label_smoothing:
                loss[row] += label_smoothing / classes * sum(weight[c] * minus_log[row, c] for c in range(classes))
            weights[row] = weight[label]
    return loss, weights


def pick(x, labels, ignore_index=-100):
    keep = labels != ignore_index
    safe = np.where(keep, labels, 0)
    values = x[safe] if x.ndim == 1 else x[np.arange(len(x)), safe]
    return np.where(keep, values, 0.0)


def pointwise_loss(x, target, kind, beta=1.0):
    e = x - target
    a = np.abs(e)
    if kind == "square":
        return e**2
    if kind == "absolute":
        return a
    if kind == "smooth_l1":
        return a if beta == 0 else np.where(a < beta, e**2 / (2 * beta), a - beta / 2)
    if kind == "huber":
        return np.where(a <= beta, e**2 / 2, beta * (a - beta / 2))
    return np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x)))


# -- random numbers ---------------------------------------------------------------------------------------------------


def philox4x32(counter, key):
    """Philox4x32-10 of Salmon et al. (SC 2011): four 32-bit words for a counter of four words and a key of two."""
    mask = 0xFFFFFFFF
    x, (k0, k1) = list(counter), key
    for _ in range(10):
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(b >> 32) ^ x[1] ^ k0, b & mask, (a >> 32) ^ x[3] ^ k1, a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return x


def random_words(n, c2, c3, seed):
    """The n 32-bit words of stream (c2, c3): 64 at a time, the first words of 16 counters, then the second ones, …"""
    words = []
    for block in range(-(-n // 64)):
        lanes = [philox4x32((block * 16 + j, 0, c2, c3), (seed & 0xFFFFFFFF, seed >> 32)) for j in range(16)]
        words += [lane[word] for word in range(4) for lane in lanes]
    return words[:n]


def permutation(n, seed, epoch):
    """Fisher and Yates, from the last place down; 53 bits a draw, from words 32 apart."""
    words, order = random_words(64 * -(-max(n, 1) // 32), epoch, 0x5348FFFF, seed), list(range(n))
    for k, i in enumerate(range(n - 1, 0, -1)):
        at = k // 32 * 64 + k % 32
        j = int((((words[at] << 21) ^ (words[at + 32] >> 11)) / 2**53) * (i + 1))
        order[i], order[j] = order[j], order[i]
    return order


# -- optimizers: one update of p by gradient g at step t = 1, 2, …; `s` is the state, changed in place -----------------


def sgd(p, g, s, t, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    g = g + weight_decay * p
    if momentum:
        s["v"] = g if t == 1 else momentum * s["v"] + (1 - dampening) * g
        g = g + momentum * s["v"] if nesterov else s["v"]
    return p - lr * g


def rmsprop(p, g, s, t, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
    g = g + weight_decay * p
    s["s"] = alpha * s.get("s", 0) + (1 - alpha) * g**2
    spread = s["s"]
    if centered:
        s["a"] = alpha * s.get("a", 0) + (1 - alpha) * g
        spread = spread - s["a"] ** 2
    change = g / (np.sqrt(spread) + eps)
    if momentum:
        change = s["b"] = momentum * s.get("b", 0) + change
    return p - lr * change


def adagrad(p, g, s, t, lr, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10):
    g = g + weight_decay * p
    s["s"] = s.get("s", initial_accumulator_value) + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["s"]) + eps)


def adam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled=False,
         eps_first=False):
    if decoupled:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    v = s["v"]
    if amsgrad:
        v = s["top"] = np.maximum(s.get("top", 0), v)
    root = np.sqrt(1 - betas[1] ** t)
    divisor = (np.sqrt(v) + eps) / root if eps_first else np.sqrt(v) / root + eps
    return p - lr * (s["m"] / (1 - betas[0] ** t)) / divisor


def adamw(p, g, s, t, lr, weight_decay=1e-2, **options):
    return adam(p, g, s, t, lr, weight_decay=weight_decay, decoupled=True, **options)
