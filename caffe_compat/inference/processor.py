"""What computes here: its name, and whether it has bfloat16."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

__all__ = ["has_bfloat16", "processor"]


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # another system than Linux
    return platform.processor() or platform.machine()


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16, rather than converting every number to and fro."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    # oneDNN says yes to AVX-512 alone, where it only converts.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
