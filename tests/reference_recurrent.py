"""Recurrent layers in float64, one time after the other, as their formulas stand in the papers."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrent(kind, x, w_ih, w_hh, b_ih=0.0, b_hh=0.0, h0=None, c0=None, reverse=False):
    """h of all times, (T, B, H); of an LSTM also the last c."""
    n = w_hh.shape[1]
    h = np.zeros((x.shape[1], n)) if h0 is None else h0
    c = np.zeros((x.shape[1], n)) if c0 is None else c0
    y = np.zeros((*x.shape[:2], n))
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        a, u = x[t] @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        if kind == "lstm":
            i, f, g, o = np.split(a + u, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        elif kind == "gru":
            r, z = sigmoid(a[:, :n] + u[:, :n]), sigmoid(a[:, n : 2 * n] + u[:, n : 2 * n])
            h = (1 - z) * np.tanh(a[:, 2 * n :] + r * u[:, 2 * n :]) + z * h
        else:
            h = np.tanh(a + u) if kind == "rnn_tanh" else np.maximum(a + u, 0)
        y[t] = h
    return (y, c) if kind == "lstm" else y
