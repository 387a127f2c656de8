"""GPUs to share among trials, found without torch, which takes seconds to load."""

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
    """Return the GPUs to share among trials, as in CUDA_VISIBLE_DEVICES; for cuda:N, that one.

    `root` is the folder that holds /proc and /sys.
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
    """Count the GPUs that this build of torch can use, by NVIDIA's or AMD's driver."""
    built = _torch_is_built_for()
    if "hip" in built and "cuda" not in built:
        nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
        return sum(map(_is_gpu, nodes))
    if "cuda" not in built:
        return 0
    found = len(list((root / "proc/driver/nvidia/gpus").glob("*")))
    if not found and shutil.which("nvidia-smi"):  # under WSL, which has the driver of Windows
        with suppress(OSError, subprocess.SubprocessError):
            words = ["nvidia-smi", "--list-gpus"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
            found = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return found


def _is_gpu(node: Path) -> bool:
    """Return whether an AMD node is a usable GPU: processors have 0, others are unreadable."""
    try:
        return node.read_text("ascii").strip() not in ("", "0")
    except OSError:
        return False


def _torch_is_built_for() -> set[str]:
    """Return `cuda`, `hip` or neither; both if torch does not say."""
    with suppress(ImportError, OSError):
        place = find_spec("torch")
        if place is not None and place.origin is not None:
            text = Path(place.origin).with_name("version.py").read_text("utf-8")
            return set(re.findall(r"^(cuda|hip)\b.*=\s*[\"']", text, flags=re.M))
    return {"cuda", "hip"}
