"""What a benchmark ran on: beside every figure."""

from __future__ import annotations

import platform

import torch

SETS = {
    "amx_int8": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "i8mm": "I8MM",
    "dotprod": "DotProd",
}
"""PyTorch's names of instruction sets, and those that processors' makers use."""


def processor() -> str:
    """Name and vector instructions of the processor: "AMD EPYC (AVX-512 BF16, AVX-512, AVX2)"."""
    known = torch.cpu.get_capabilities()
    name = known.get("cpu_name") or platform.processor() or platform.machine()
    sets = ", ".join(words for key, words in SETS.items() if known.get(key))
    return f"{name} ({sets})" if sets else str(name)
