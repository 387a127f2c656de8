"""GPUs that trials may share out, told without torch, for it takes seconds to load."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path


def visible_gpus(device: str, root: Path = Path("/")) -> list[str]:
    """GPUs that trials may share out, as CUDA_VISIBLE_DEVICES names them; of cuda:N, that one.

    `root` is where /proc and /sys are.
    """
    kind, _, index = device.partition(":")
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ["0"] if kind in ("auto", "mps") else []
    if kind not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    else:
        found = [str(i) for i in range(_count(root))]
    return found[int(index) :][:1] if index.isdigit() else found


def _count(root: Path) -> int:
    """GPUs that this build of torch can use, as NVIDIA's or AMD's driver tells."""
    built = _torch_is_built_for()
    if "hip" in built and "cuda" not in built:
        nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
        return sum(map(_is_gpu, nodes))
    if "cuda" not in built:
        return 0
    found = len(list((root / "proc/driver/nvidia/gpus").glob("*")))
    if not found and shutil.which("nvidia-smi"):  # under WSL, where the driver is that of Windows
        with suppress(OSError, subprocess.SubprocessError):
            words = ["nvidia-smi", "--list-gpus"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
            found = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return found


def _is_gpu(node: Path) -> bool:
    """Whether a node of AMD's is a GPU that may be used: a processor has 0, others are not read."""
    try:
        return node.read_text("ascii").strip() not in ("", "0")
    except OSError:
        return False


def _torch_is_built_for() -> set[str]:
    """`cuda`, `hip` or neither; both where torch does not tell."""
    with suppress(ImportError, OSError):
        place = find_spec("torch")
        if place is not None and place.origin is not None:
            text = Path(place.origin).with_name("version.py").read_text("utf-8")
            return set(re.findall(r"^(cuda|hip)\b.*=\s*[\"']", text, flags=re.M))
    return {"cuda", "hip"}
