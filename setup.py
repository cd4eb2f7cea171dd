"""The build matrix: Cython directives, one kernel module per instruction set, build flavours.

Flavours, chosen with FASTNN_BUILD: `release` (default), `debug` (all Cython checks, ASan and UBSan)
and `coverage` (line tracing).
"""

import os
import platform
import subprocess
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

FLAVOUR = os.environ.get("FASTNN_BUILD", "release")
if FLAVOUR not in ("release", "debug", "coverage"):
    raise SystemExit(f"FASTNN_BUILD must be release, debug or coverage, not {FLAVOUR!r}")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": FLAVOUR == "debug",
    "wraparound": False,
    "initializedcheck": FLAVOUR == "debug",
    "cdivision": True,
    "auto_pickle": False,              # objects that hold addresses cannot be pickled anyway
    "linetrace": FLAVOUR == "coverage",
}

# Never -ffast-math or -Ofast: they may switch the whole process to flush-to-zero.
COMMON = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-pthread",
          "-fno-asynchronous-unwind-tables", "-Werror=implicit-function-declaration"]  # fmt: skip
LINK = ["-Wl,-s", "-Wl,-z,noseparate-code", "-pthread"] if platform.system() == "Linux" else []
# What made no kernel faster (digits step, GEMM, convolutions, elementwise: within 1 %), only larger, by 5 %: copies of
# functions and loops, which only GCC makes, padding between segments, tables to unwind C by.
SMALLER = ["-fno-split-loops", "-fno-ipa-cp-clone"]
# The same for a CPU that hardly anybody has left: 8 % smaller than by -O3, steps of networks take 0 to 3 % longer.
SMALLER_BASELINE = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-fpeel-loops"]
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
# Not platform.machine(): sysconfig also knows the target of a cross build.
TARGET = sysconfig.get_platform().rpartition("-")[2]
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(TARGET, TARGET)
if MACHINE not in ISAS:
    raise SystemExit(f"fastnn builds on x86-64 and aarch64; the target is {TARGET!r}")


# For Python 3.11 and later the limited API, so that one wheel serves them all: calls and training steps took the same
# time as with the whole API (1.80 and 44.6 µs, against 1.81 and 44.5). Python 3.10 has no buffers in its limited API.
# Builds in place use it too: what it lacks is then missed there first. Tracing needs the whole API.
LIMITED = FLAVOUR == "release" and sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")
if LIMITED:
    MACROS = [*MACROS, ("Py_LIMITED_API", "0x030B0000")]


def extension(name, flags=(), macros=()):
    return Extension(
        f"fastnn.{name}",
        [f"fastnn/{name.replace('.', '/')}.pyx"],
        extra_compile_args=[*COMMON, *flags],
        extra_link_args=LINK,
        define_macros=[*MACROS, *macros],
        py_limited_api=LIMITED,
    )


class BuildBeside(build_ext):
    """Leaves the compiled modules beside their sources, too.

    `python -m fastnn` in a checkout finds the checkout's fastnn/ before the installed one, so that must work.
    """

    def run(self):
        super().run()
        if not self.inplace:
            self.copy_extensions_to_source()
        self.remove_shadows()

    def build_extensions(self):
        version = subprocess.run([self.compiler.compiler_so[0], "--version"], capture_output=True, text=True).stdout
        if "clang" not in version:
            for module in self.extensions:
                if module.name.startswith("fastnn.kernels._"):
                    module.extra_compile_args += SMALLER
                if module.name.endswith("_baseline") and FLAVOUR == "release":
                    module.extra_compile_args += SMALLER_BASELINE
        super().build_extensions()

    def remove_shadows(self):
        """An older build for this interpreter alone would be found before one of the limited API."""
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for module in self.extensions if LIMITED else ():
            shadow = module.name.replace(".", os.sep) + suffix
            if os.path.exists(shadow):
                os.remove(shadow)


class WholeSource(sdist):
    """The sdist holds everything that builds and tests fastnn, and nothing that a build left beside it."""

    def make_distribution(self):
        for folder in ("fastnn", "tests", "bench"):
            self.filelist.recursive_include(folder, "*")
        for leftover in ("*.c", "*.so", "*.html"):
            self.filelist.recursive_exclude("fastnn", leftover)
        self.filelist.global_exclude("*.py[cod]")
        super().make_distribution()


extensions = [extension(f"kernels.{isa}", flags, INLINE) for isa, flags in ISAS[MACHINE].items()]
# What calls the kernels is glue, not arithmetic: for size, which is a third less.
extensions += [extension("kernels.cpu", ["-Os"]), extension("engine.executor", ["-Os"])]

setup(
    cmdclass={"build_ext": BuildBeside, "sdist": WholeSource},
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, nthreads=os.cpu_count() or 1),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
