#!/usr/bin/env bash
# Everything that wants a GPU, in steps of minutes: step times, seconds an epoch, the headline rows of the first paper, and the six
# binary cards of the second one with their deck (published: one card 94.87 % clean and 88.32 % corrupted, the deck 95.09 and 90.15).
#   benchmarks/gpu.sh DIR-WITH-CIFAR-10 OUT     works for at most LIMIT seconds (540), then stops: start it again and it goes on
#   TOY=1 benchmarks/gpu.sh DIR OUT             the same steps in little, on the CPU (DIR should hold a few images only)
# Leaves OUT/steps.txt (ratios), OUT/runs/results.csv (two rows a network: chosen on validation data, and on the test set as in the
# papers, whose column "Current Val Top 1" is the test accuracy of the last epoch), OUT/hand.robustness.* (cards and deck on corrupted
# images) and OUT/done, what is finished.
set -euo pipefail
data=${1:?usage: benchmarks/gpu.sh DIR-WITH-CIFAR-10 OUT} out=${2:?usage: benchmarks/gpu.sh DIR-WITH-CIFAR-10 OUT}
mkdir -p "$out"
data=$(realpath "$data") out=$(realpath "$out")
cd "$(dirname "$0")/.."
touch "$out/done"
python=${PYTHON:-python}
deadline=$((SECONDS + ${LIMIT:-540}))
if [[ ${TOY:-} ]]; then
    device=cpu
    training=(--networks Conv4 --activations float --batches 8 --rounds 2)
    options=(--device cpu --epochs 2 --batch-size 20 --width-mult 1)
    size=small_card rate_of_cards=0.5 seeds=(0) measured=(--device cpu --images 20 --severities 5)
else
    device=cuda
    training=(--device cuda --batches 256 --rounds 31)
    options=(--device cuda)
    size=card rate_of_cards=0.05 seeds=(0 1 2) measured=(--device cuda)
fi

finished() { grep -qxF "$1" "$out/done"; }

# step NAME COMMAND...: run it unless it is done; out of time, stop here.
step() {
    local name=$1 left=$((deadline - SECONDS)) code=0
    shift
    if finished "$name"; then return; fi
    if ((left < 10)); then
        echo "time is up before $name: start me again"
        exit 0
    fi
    echo "== $name: $*" | tee -a "$out/log.txt"
    timeout --signal INT "$left" "$@" 2>&1 | tee -a "$out/log.txt" || code=$?
    if ((code == 124 || code == 130)); then
        echo "time is up in $name: start me again"
        exit 0
    fi
    if ((code)); then
        echo "$name failed with code $code; the next start tries again" | tee -a "$out/log.txt"
    else
        echo "$name" >>"$out/done"
    fi
}

# search NAME CONFIG PRUNE-RATE [options]: a run that goes on from its last whole epoch.
search() {
    local name=$1 config=$2 rate=$3 last
    shift 3
    last=$(find "$out/runs/$config" -path "*/$name/checkpoints/epoch_most_recent.state" 2>/dev/null || true)
    if [[ $last && -f ${last%/checkpoints/*}/result.json ]] && ! finished "$name"; then
        echo "$name" >>"$out/done" # stopped after its last act
    fi
    if [[ $last ]]; then
        step "$name" "$python" -m biprop find --resume "$last"
    else
        # A run that has no checkpoint yet left an empty folder: its name is free again.
        finished "$name" || find "$out/runs/$config" -depth -path "*/$name*" -delete 2>/dev/null || true
        step "$name" "$python" -m biprop find --config "$config" --prune-rate "$rate" --set CIFAR10 --data "$data" --name "$name" \
            --log-dir "$out/runs" "${options[@]}" "$@"
    fi
}

ratios() { "$python" benchmarks/training.py "$@" | tee -a "$out/steps.txt"; }
export -f ratios
export python out

step ratios-bf16 bash -o pipefail -c 'ratios "$@"' - "${training[@]}" --amp bf16 --channels-last
step ratios-float32 bash -o pipefail -c 'ratios "$@"' - "${training[@]}"
step pipeline bash -o pipefail -c 'ratios pipeline "$@"' - "${training[@]}" --amp bf16 --channels-last
if [[ $device == cuda ]]; then
    step tests "$python" -m pytest -q -m gpu
fi

# The papers' recipe, in float32: (configuration, fraction kept, published test accuracy).
while read -r config rate published batch_norm; do
    for select in test validation; do
        # shellcheck disable=SC2086  # no option where the batch norm does not learn
        search "$config-$select" "$config" "$rate" --select-on "$select" $batch_norm
    done
    echo "$config at $rate: published $published"
done <<'ROWS'
vgg_small_kn_unsigned 0.05 91.48
resnet18-kn-unsigned 0.2 94.66
resnet18-affine-kn-unsigned 0.2 94.8 --learn-batchnorm
wide10_vgg_small_BinAct_kn_unsigned 0.25 89.11
wide10_vgg_small_affine_BinAct_kn_unsigned 0.25 91.9 --learn-batchnorm
ROWS

tickets=()
for seed in "${seeds[@]}"; do
    for kind in augmix gaussian; do
        card=$kind-$seed
        search "$card" "${size}_$kind" "$rate_of_cards" --seed "$seed"
        run=$(find "$out/runs/${size}_$kind" -type d -name "$card" 2>/dev/null | head -n 1 || true)
        step "pack-$card" "$python" -m biprop pack "$run" -o "$out/$card.mpt"
        tickets+=("$out/$card.mpt")
    done
done
step deck "$python" -m biprop deck build "${tickets[@]}" -o "$out/hand.deck" --data "$data"
step robustness "$python" -m biprop robustness "$out/hand.deck" --data "$data" "${measured[@]}"

if grep -q "failed with code" "$out/log.txt"; then
    echo "some steps failed at least once: see $out/log.txt, and start me again until none is missing in $out/done"
fi
echo "all done: $out/steps.txt, $out/runs/results.csv"
