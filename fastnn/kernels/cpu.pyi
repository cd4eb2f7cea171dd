def supported_isas() -> list[str]:
    """Instruction sets this processor and operating system can run, best first.

    ``"avx512"`` means x86-64-v4, ``"avx2"`` x86-64-v3, ``"baseline"`` any x86-64, ``"neon"`` aarch64.
    """
