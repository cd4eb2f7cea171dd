"""NumPy's references run on one thread: OpenBLAS's own threads spin, and several test processes on a busy machine then
wait for one another, a test of 0.1 s up to 20."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")          # before anything imports NumPy
