"""Compiling exported networks, and running them on this machine and on emulated microcontrollers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastnn.export import c99

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
HERE = Path(__file__).parent / "cortex_m"
BOARDS = {
    "cortex-m3": ("mps2-an385", ["-mcpu=cortex-m3"]),
    "cortex-m4f": ("mps2-an386", ["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]),
}
DTYPES = {"float": np.float32, "int8_t": np.int8, "int64_t": np.int64}

HOST = """\
#include <stdio.h>
#include "net.h"
static INPUT_TYPE input[NET_INPUT_SIZE];
static OUTPUT_TYPE output[NET_OUTPUT_SIZE];
#if NET_WORK_BYTES
static net_work work;
#endif
int main(void)
{
    while (fread(input, sizeof(input), 1, stdin) == 1) {
#if NET_WORK_BYTES
        net(input, output, &work);
#else
        net(input, output);
#endif
        if (fwrite(output, sizeof(output), 1, stdout) != 1) {
            return 1;
        }
    }
    return 0;
}
"""


def tool(name: str) -> str:
    """Path of a program; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(command, **kwargs):
    """Run a command; its messages are the failure."""
    result = subprocess.run([str(c) for c in command], capture_output=True, timeout=120, **kwargs)
    assert result.returncode == 0, f"{command}: {result.stderr.decode()}{result.stdout.decode()[:500]}"
    return result.stdout


class Exported:
    """A network "net" in a folder; its prototype is read off the header."""

    def __init__(self, folder: Path):
        self.folder, self.header, self.source = folder, folder / "net.h", folder / "net.c"
        self.text = self.header.read_text()
        self.code = self.source.read_text()
        prototype = re.search(r"net\(const (\w+) input\[\w+\], (\w+) output", self.text)
        self.input_type, self.output_type = prototype.groups()
        self.types = [f"-DINPUT_TYPE={self.input_type}", f"-DOUTPUT_TYPE={self.output_type}"]
        self.libraries = ["-lm"] if "<math.h>" in self.code else []

    @classmethod
    def of(cls, model, input_shape, folder: Path, batch_size: int = 1) -> Exported:
        """Export a model and take it from there."""
        c99(model, "net", input_shape, folder, batch_size=batch_size)
        return cls(folder)

    def macro(self, name: str) -> int:
        """Value of an integer macro of the header."""
        return int(re.search(rf"#define NET_{name} (\d+)", self.text).group(1))

    def _outputs(self, data: bytes, n: int) -> np.ndarray:
        return np.frombuffer(data, DTYPES[self.output_type]).reshape(n, -1)

    def on_host(self, x: np.ndarray, compiler: str, *flags: str) -> np.ndarray:
        """Outputs of every sample (or batch of samples) of x."""
        main, program = self.folder / "main.c", self.folder / f"main-{compiler}{''.join(flags)}"
        main.write_text(HOST)
        options = ["-std=c99", *flags, *WARNINGS, *self.types]
        run([tool(compiler), *options, main, self.source, "-o", program, *self.libraries])
        return self._outputs(run([program], input=x.astype(DTYPES[self.input_type]).tobytes()), len(x))

    def on_board(self, x: np.ndarray, board: str, flash: int = 1 << 21, ram: int = 1 << 20):
        """Outputs under QEMU; the image's (text, data, bss) and the deepest stack, in bytes."""
        compiler, emulator, size = tool("arm-none-eabi-gcc"), tool("qemu-system-arm"), tool("arm-none-eabi-size")
        machine, cpu = BOARDS[board]
        image = self.folder / f"{board}.elf"
        # Without -lm nothing of the C library is linked, not even start-up code.
        libraries = [*self.libraries, "-lc", "-lnosys"] if self.libraries else []
        run([
            compiler, *cpu, "-mthumb", "-std=c99", "-Os", *WARNINGS, *self.types, f"-I{self.folder}",
            "-fno-tree-loop-distribute-patterns", "-ffunction-sections", "-fdata-sections", "-nostdlib",
            f"-Wl,--gc-sections,--defsym=FLASH_BYTES={flash},--defsym=RAM_BYTES={ram}", "-T", HERE / "image.ld",
            HERE / "image.c", self.source, *libraries, "-lgcc", "-o", image,
        ])
        (self.folder / "input.bin").write_bytes(x.astype(DTYPES[self.input_type]).tobytes())
        run([emulator, "-M", machine, "-display", "none", "-monitor", "none", "-serial", "none",
             "-semihosting-config", "enable=on,target=native", "-kernel", image], cwd=self.folder)
        sizes = tuple(map(int, run([size, image]).split(b"\n")[1].split()[:3]))
        stack = int(np.frombuffer((self.folder / "stack.bin").read_bytes(), np.uint32)[0])
        return self._outputs((self.folder / "output.bin").read_bytes(), len(x)), sizes, stack
