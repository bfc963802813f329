#!/usr/bin/env bash
# The CIFAR-10 grid of the first paper: Conv2/4/6/8, MPT-1/32 and MPT-1/1, 80 to 10 % of the weights kept.
# If it is interrupted, the same command continues.
#   scripts/cifar10_grid.sh DIR [options of biprop sweep, e.g. --seed 1 --name grid1, or --slurm]
set -euo pipefail
data=${1:?usage: scripts/cifar10_grid.sh DIR-WITH-CIFAR-10 [options of biprop sweep]}
exec biprop sweep --set CIFAR10 --data "$data" --name cifar10-grid "${@:2}"
