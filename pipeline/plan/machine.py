"""What of this machine a run is planned for: its device, and the precision that suits it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pipeline.errors import UserError, must_be
from pipeline.plan.settings import RunSettings

DEVICES = ("auto", "cpu", "cuda")
NVIDIA = Path("/proc/driver/nvidia/version")
CPU = Path("/proc/cpuinfo")
KEPT_MIB = 384
"""about 35 frames of 480p with their flow"""


def with_precision(settings: RunSettings, device: str) -> RunSettings:
    """Settings with the precision that `auto` stands for on this machine.

    bf16 on a GPU and on a CPU with instructions for it; elsewhere it is emulated and
    slower than fp32. The machine that plans a run decides for all that share in it.
    UserError for another device than those of DEVICES.
    """
    _check(device)
    if settings.run.precision != "auto":
        return settings
    gpu = device == "cuda" or (device == "auto" and NVIDIA.exists())
    flags = CPU.read_text() if CPU.exists() and not gpu else ""
    fast = gpu or "avx512_bf16" in flags or "amx_bf16" in flags
    chosen = replace(settings.run, precision="bf16" if fast else "fp32")
    return replace(settings, run=chosen)


@lru_cache(maxsize=1)
def device(asked: str) -> str:
    """`auto` as cuda where there is one.

    UserError for cuda where there is none, and for another than those of DEVICES.
    """
    import torch

    _check(asked)
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise UserError("--device cuda: this machine has no CUDA device; use --device cpu or auto")
    return "cuda" if asked != "cpu" and found else "cpu"


def _check(device: str) -> None:
    if device not in DEVICES:
        raise UserError(f"--device {device}: {must_be(device, DEVICES)}")


def kept_bytes() -> int:
    """Bytes of features and flow that a process may keep between stages: [cache] kept_mib.

    UserError if luigi.cfg has something else than a number there.
    """
    from luigi.configuration import get_config

    text = get_config().get("cache", "kept_mib", str(KEPT_MIB))
    if not text.isdecimal():
        raise UserError(f"luigi.cfg: [cache] kept_mib = {text}: must be MiB, 0 or more")
    return int(text) * 2**20
