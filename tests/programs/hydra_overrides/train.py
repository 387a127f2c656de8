"""Take overrides on the command line as Hydra does, with its real command line."""

from __future__ import annotations

import hydra
import wandb
from omegaconf import DictConfig, OmegaConf
from truth import note


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    weight = 0.0
    with wandb.init(config=OmegaConf.to_container(config, resolve=True)) as run:
        for epoch in range(config.epochs):
            weight -= config.optimizer.lr * 2 * (weight - 3)
            row = {"epoch": epoch, "eval/loss": (weight - 3) ** 2}
            note(row, epoch)
            run.log(row)


if __name__ == "__main__":
    main()
