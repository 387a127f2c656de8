"""GPUs to share among trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from fundamentallm.machine import gpus
from fundamentallm.machine.gpus import visible_gpus


@pytest.mark.parametrize(
    ("device", "found"),
    [
        ("auto", ["2", "GPU-ab", "5"]),
        ("cuda", ["2", "GPU-ab", "5"]),
        ("cuda:0", ["2"]),
        ("cuda:1", ["GPU-ab"]),
        ("cuda:3", []),
        ("cpu", []),
        ("mps", []),
    ],
)
def test_cuda_visible_devices_names_the_gpus(
    device: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-ab,5,-1")
    assert visible_gpus(device) == found


@pytest.mark.parametrize(("built", "count"), [({"cuda"}, 2), ({"hip"}, 1), (set(), 0)])
def test_gpus_that_this_torch_can_use_are_counted(
    built: set[str], count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_torch_is_built_for", lambda: built)
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / bus).mkdir(parents=True)
    for node, number in enumerate((0, 4711)):  # the first is the processor
        folder = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "gpu_id").write_text(f"{number}\n")
    assert visible_gpus("auto", tmp_path) == [str(i) for i in range(count)]


def test_gpus_under_wsl_are_listed_by_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_torch_is_built_for", lambda: {"cuda"})
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA X (UUID: GPU-1)'\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert visible_gpus("auto", tmp_path) == ["0"]
