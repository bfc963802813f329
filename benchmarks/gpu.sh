#!/usr/bin/env bash
# Fifteen minutes on one GPU: checks, step times, the choice of an update rule, and tickets of CIFAR-10; see gpu.py.
#   benchmarks/gpu.sh DIR-WITH-CIFAR-10 OUT [WORK]     works for at most LIMIT seconds (540), then stops: start it again and it goes on
#   TOY=1 benchmarks/gpu.sh DIR OUT                    the same steps in little, on the CPU (DIR should hold a few images only)
# Needs a checkout, and PyTorch for the GPU beside the other packages of pyproject.toml; nothing has to be installed or compiled.
# OUT gets log.txt, summary.md, results.json and the tickets. WORK (OUT/work) has what the next start needs, checkpoints too.
set -euo pipefail
data=${1:?usage: benchmarks/gpu.sh DIR-WITH-CIFAR-10 OUT [WORK]} out=${2:?usage: benchmarks/gpu.sh DIR-WITH-CIFAR-10 OUT [WORK]}
work=${3:-$out/work}
mkdir -p "$out" "$work"
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$here/../src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
"${PYTHON:-python3}" "$here/gpu.py" "$data" "$out" "$work" 2>&1 | tee -a "$out/log.txt"
