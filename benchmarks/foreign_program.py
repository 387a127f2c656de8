"""Program of a user that sweep_throughput.py starts: a small network in PyTorch that logs to W&B.

`--steps N` is its work, and nothing else about it changes. Without W&B it prints how many of its
steps one thread takes in a second.
"""

from __future__ import annotations

import argparse
import time

import torch
import wandb


def train(steps: int, seed: int, log: wandb.Run | None) -> None:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = torch.randn(512, 64)
    targets = inputs.square().mean(1, keepdim=True)
    for step in range(steps):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if log is not None and (step + 1) % max(1, steps // 10) == 0:
            log.log({"loss": loss.item()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.steps is not None:
        with wandb.init(config=arguments) as run:
            train(arguments.steps, arguments.seed, run)
        return
    torch.set_num_threads(1)
    train(100, 0, None)
    start = time.perf_counter()
    train(1000, 0, None)
    print(1000 / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
