#!/usr/bin/env bash
# What launching costs on this machine: eight jobs, two at a time, by `hairpin launch` and by two plain loops; and one job's way to its first step.
#   xtask/launching.sh target/release/hairpin [STEPS]
set -euo pipefail
hairpin=$(realpath "$1") steps=${2:-300}
source "$(dirname "$(realpath "$0")")/project.sh"
folder=$(mktemp -d) && cd "$folder" && trap 'rm -rf "$folder"' EXIT
project launching 60
cat >>hairpin.toml <<'END'
[recipe]
[[phases]]
name = "one"
data_fraction = 1.0
recipe = { model = { depth = 1 } }
END
cat >small.toml <<END
name = "small"
[model]
depth = 2
[batch]
sequences = 8
micro_batch = 8
context = 64
[train]
steps = $steps
[checkpoint]
every_steps = 100000
[eval]
every_steps = 100000
windows = 4
[optim]
kind = "adamw"
lr = 1e-3
END
"$hairpin" data >/dev/null 2>&1
now() { date +%s%N; }
# The queue of jobs ends when they have; asking often would take the time that is measured.
ended() { tail --pid="$(pgrep -f "supervise --store $folder/jobs" | head -1)" -s 0.05 -f /dev/null; }
ms() { echo $((($2 - $1) / 1000000)); }
seeds=$(seq 8)
cores=$(nproc)
for round in 1 2; do
    # Two plain loops of four.
    rm -rf plain jobs
    begin=$(now)
    for lane in 0 1; do
        for seed in $seeds; do
            [ $((seed % 2)) = "$lane" ] || continue
            RAYON_NUM_THREADS=$((cores / 2 > 0 ? cores / 2 : 1)) "$hairpin" train small.toml --out "plain/$seed" --set "seed=$seed" >/dev/null 2>&1 || echo "seed $seed failed"
        done &
    done
    wait
    plain=$(ms "$begin" "$(now)")
    begin=$(now)
    "$hairpin" launch small.toml --sweep seed=1..8 --at-once 2 >/dev/null 2>&1
    launched=$(ms "$begin" "$(now)")
    ended
    all=$(ms "$begin" "$(now)")
    done=$(grep -l '"state": "done"' jobs/*/job.json | wc -l)
    echo "round $round: plain loops $plain ms, launched $all ms ($done done, the command itself $launched ms): ratio $(awk "BEGIN {printf \"%.3f\", $all / $plain}"), $(awk "BEGIN {printf \"%.0f\", ($all - $plain) * 2 / 8}") ms a job"
done
for round in 1 2 3; do
    rm -rf jobs plain
    begin=$(now)
    "$hairpin" launch small.toml --name one >/dev/null 2>&1
    while ! [ -s jobs/one/run/metrics.jsonl ]; do sleep 0.002; done
    launched=$(ms "$begin" "$(now)")
    ended
    begin=$(now)
    "$hairpin" train small.toml --out plain >/dev/null 2>&1 &
    while ! [ -s plain/metrics.jsonl ]; do sleep 0.002; done
    echo "first step after: launched $launched ms, plain $(ms "$begin" "$(now)") ms"
    wait
done
