#!/usr/bin/env bash
# `hairpin launch --on slurm` against a real Slurm of four nodes: a job whose node is killed in the middle, a job that is stopped and resumed, a sweep as
# one array of which one element loses its node and one is stopped before it starts, warm and cold starts, and a ladder of which one phase loses its
# node. As root; see cluster.sh for what has to be installed.
#   xtask/slurm/run.sh target/release/hairpin
set -euo pipefail
hairpin=$(realpath "$1") here=$(dirname "$(realpath "$0")")
source "$here/../project.sh"
folder=$(mktemp -d) cluster=$(mktemp -d)
cd "$folder"
trap '"$here/cluster.sh" down "$cluster"; rm -rf "$folder" "$cluster"' EXIT
"$here/cluster.sh" up "$cluster" 4
export SLURM_CONF=$cluster/slurm.conf
project slurm 30
cat >>hairpin.toml <<'END'
[recipe]
batch = { sequences = 4, micro_batch = 4, context = 32 }
checkpoint = { every_steps = 50 }
train = { threads = 1 }
[[phases]]
name = "one"
data_fraction = 1.0
recipe = { model = { depth = 1 }, train = { steps = 200 } }
[[phases]]
name = "two"
data_fraction = 1.0
recipe = { model = { depth = 2 }, train = { steps = 2000 } }
END
printf 'name = "small"\n[model]\ndepth = 1\n[batch]\nsequences = 4\nmicro_batch = 4\ncontext = 32\n[train]\nsteps = 6000\nthreads = 1\n[checkpoint]\nevery_steps = 100\n' >small.toml
"$hairpin" data >/dev/null 2>&1

state() { "$hairpin" jobs --json | python3 -c 'import json, sys; print(next(j["state"] + " " + str(j["step"]) for j in json.load(sys.stdin) if j["name"] == sys.argv[1]))' "$1"; }
until_state() { while [ "$(state "$1" | cut -d' ' -f1)" != "$2" ]; do sleep 1; done; }
until_step() { while [ "$(state "$1" | cut -d' ' -f2)" -lt "$2" ]; do sleep 0.5; done; }
lose() { # JOB: the node on which it runs, and bring it back
    local node
    node=$(squeue -h -t R -n "$1" -o %N)
    "$here/cluster.sh" kill "$cluster" "$node"
    (sleep 30 && "$here/cluster.sh" revive "$cluster" "$node") &
    echo "$1 lost $node at step $(state "$1" | cut -d' ' -f2)"
}
weights() { find "$1" -name '*.safetensors' -path '*step-*' | sort | tail -1 | xargs sha256sum | cut -d' ' -f1; }

"$hairpin" launch small.toml --on slurm:1 --name lost >/dev/null 2>&1
"$hairpin" launch small.toml --on slurm:1 --name stopped --set seed=2 >/dev/null 2>&1
until_step lost 500 && lose lost
until_step stopped 500 && "$hairpin" stop stopped && until_state stopped stopped && "$hairpin" resume stopped
until_state stopped done && until_state lost done
"$hairpin" jobs
"$hairpin" train small.toml --out plain >/dev/null 2>&1
[ "$(weights jobs/lost/run)" = "$(weights plain)" ] && echo "the bits of a run that nobody disturbed"

"$hairpin" launch small.toml --sweep seed=11..15 --on slurm:1 --at-once 2 --name swept --set train.steps=3000 >/dev/null 2>&1
until [ "$(squeue -h --array -t R,PD -o %K | grep -c '^[0-4]$')" = 5 ]; do sleep 0.2; done
echo "one array: $(squeue -h -o '%F %j %K' | sort -u | tr '\n' ' ')"
until_step swept-1 300
[ "$(squeue -h --array -t R -o %K | wc -l)" = 2 ] && echo "two at a time"
array=$(squeue -h --array -t R -o %j | head -1)
"$here/cluster.sh" kill "$cluster" "$(squeue -h --array -t R -n "$array" -o '%K %N' | sed -n 's/^0 //p')"
(sleep 30 && for i in 1 2 3 4; do squeue -h >/dev/null && sinfo -h -n "n$i" -o %T | grep -q down && "$here/cluster.sh" revive "$cluster" "n$i"; done) &
echo "element 0 lost its node"
"$hairpin" stop swept-5
until_state swept-5 stopped && "$hairpin" resume swept-5
for i in 1 2 3 4 5; do until_state "swept-$i" done; done
"$hairpin" jobs
"$hairpin" launch small.toml --sweep seed=11..15 --on slurm:1 --at-once 2 --name swept --set train.steps=3000 2>/dev/null | grep -c 'was launched before'
for i in 1 5; do
    "$hairpin" train small.toml --out "plain-$i" --set "seed=1$i" --set train.steps=3000 >/dev/null 2>&1
    [ "$(weights "jobs/swept-$i/run")" = "$(weights "plain-$i")" ] && echo "element $i: the bits of a run that nobody disturbed"
done

allocation=$(salloc --no-shell --nodes 1 2>&1 | sed -n 's/.*Granted job allocation \([0-9]*\).*/\1/p')
first() { # NAME [WORDS]: to its first step
    local name=$1 begin
    shift
    begin=$(date +%s%N)
    "$hairpin" launch small.toml --name "$name" --set train.steps=20 "$@" >/dev/null 2>&1
    while ! [ -s "jobs/$name/run/metrics.jsonl" ]; do sleep 0.005; done
    echo "$name: $((($(date +%s%N) - begin) / 1000000)) ms to the first step"
    until_state "$name" done
}
for i in 1 2 3; do first "cold$i" --on slurm:1 --set "seed=1$i"; done
for i in 1 2 3; do first "warm$i" --on slurm:1 --set "seed=2$i" --place "allocation=$allocation"; done
scancel "$allocation"

"$hairpin" climb . --on slurm:1 >climb.log 2>&1 &
climb=$!
while ! squeue -h -t R -o %j | grep -q '^two'; do sleep 0.5; done
sleep 5
job=$(squeue -h -t R -o %j | grep '^two')
node=$(squeue -h -t R -n "$job" -o %N)
"$here/cluster.sh" kill "$cluster" "$node"
echo "the phase $job lost $node"
wait $climb
tail -8 climb.log
