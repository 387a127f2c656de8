"""Sources of results as people give them."""

from __future__ import annotations

import pytest

from fundamentallm.cli.result_sources import read_wandb_source
from fundamentallm.errors import FundamentallmError


@pytest.mark.parametrize(
    "page",
    [
        "https://wandb.ai/me/my%20p/sweeps/ab12",
        "https://wandb.ai/me/my%20p/sweeps/ab12?nw=nwuserme",
        "http://localhost:8080/me/my%20p/sweeps/ab12/",
        "me/my p/ab12",
    ],
)
def test_a_page_copied_from_a_browser_is_its_sweep(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing answers there
    with pytest.raises(FundamentallmError, match=r"^me/my p/ab12: cannot be read from W&B"):
        read_wandb_source(page, "")
