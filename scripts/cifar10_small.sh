#!/usr/bin/env bash
# Conv2 and Conv4, MPT-1/32, 10,000 training images of CIFAR-10, 5 epochs, 3 seeds: an hour or two on a CPU.
#   scripts/cifar10_small.sh DIR [options of biprop sweep, e.g. --log-dir runs]
set -euo pipefail
data=${1:?usage: scripts/cifar10_small.sh DIR-WITH-CIFAR-10 [options of biprop sweep]}
exec biprop sweep --set CIFAR10 --data "$data" --name cifar10-small --low-data 0.22222 --epochs 5 --channels-last \
    --grid config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.1,0.2,0.5 seed=0,1,2 "${@:2}"
