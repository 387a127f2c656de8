#!/usr/bin/env bash
# Prepares a run and starts the trainer, as scripts for clusters do.
set -euo pipefail
echo "on $(uname -s), in $PWD"
lr=0.1 epochs=3
for word in "$@"; do
  case $word in
    lr=*) lr=${word#lr=} ;;
    epochs=*) epochs=${word#epochs=} ;;
    *) echo "unknown setting: $word" >&2; exit 2 ;;
  esac
done
python "$(dirname "$0")/fit.py" "$lr" "$epochs"
echo "finished"
