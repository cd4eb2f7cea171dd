"""The build matrix: Cython directives, one kernel module per instruction set, build flavours.

Flavours, chosen with FASTNN_BUILD: `release` (default), `debug` (all Cython checks, ASan and UBSan)
and `coverage` (line tracing).
"""

import os
import platform

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAVOUR = os.environ.get("FASTNN_BUILD", "release")
if FLAVOUR not in ("release", "debug", "coverage"):
    raise SystemExit(f"FASTNN_BUILD must be release, debug or coverage, not {FLAVOUR!r}")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": FLAVOUR == "debug",
    "wraparound": False,
    "initializedcheck": FLAVOUR == "debug",
    "cdivision": True,
    "linetrace": FLAVOUR == "coverage",
}

# Never -ffast-math or -Ofast: they may switch the whole process to flush-to-zero.
# The two --param keep GCC from unrolling register tiles before it has vectorised them.
COMMON = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-pthread"]
LINK = ["-Wl,-s", "-pthread"] if platform.system() == "Linux" else []
MACROS = []
# Register tiles are one inline function, instantiated by calls with literal extents: slow unless inlined.
INLINE = [("CYTHON_INLINE", "inline __attribute__((always_inline))")]
if FLAVOUR == "debug":
    COMMON = ["-O1", "-g", "-ffp-contract=fast", "-fno-omit-frame-pointer", "-pthread", "-fsanitize=address,undefined"]
    LINK = ["-pthread", "-fsanitize=address,undefined"]
if FLAVOUR == "coverage":
    MACROS = [("CYTHON_TRACE_NOGIL", "1")]

# Each instruction set is the same sources under other flags; CPUID picks one at import.
ISAS = {
    "x86_64": {
        "_baseline": ["-march=x86-64"],
        "_avx2": ["-march=x86-64-v3"],
        "_avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    },
    "aarch64": {"_neon": ["-march=armv8-a"]},
}
MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
if MACHINE not in ISAS:
    raise SystemExit(f"fastnn builds on x86-64 and aarch64; this machine is {platform.machine()!r}")


def extension(name, flags=(), macros=()):
    return Extension(
        f"fastnn.{name}",
        [f"fastnn/{name.replace('.', '/')}.pyx"],
        extra_compile_args=[*COMMON, *flags],
        extra_link_args=LINK,
        define_macros=[*MACROS, *macros],
    )


class BuildBeside(build_ext):
    """Leaves the compiled modules beside their sources, too.

    `python -m fastnn` in a checkout finds the checkout's fastnn/ before the installed one, so that must work.
    """

    def run(self):
        super().run()
        if not self.inplace:
            self.copy_extensions_to_source()


extensions = [extension(f"kernels.{isa}", flags, INLINE) for isa, flags in ISAS[MACHINE].items()]
extensions += [extension("kernels.cpu"), extension("engine.executor")]

setup(
    cmdclass={"build_ext": BuildBeside},
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, nthreads=os.cpu_count() or 1),
)
