"""Train one model: `python train.py [data.txt] [--flags]`, also under `wandb agent`."""

import sys

from fundamentallm.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
