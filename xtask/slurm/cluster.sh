#!/usr/bin/env bash
# A real Slurm of several nodes on one machine, for tests of `hairpin launch --on slurm`: slurmctld, and one slurmd for each node.
#   apt-get install slurm-wlm munge openmpi-bin
#   xtask/slurm/cluster.sh up FOLDER [NODES]     start (as root)
#   xtask/slurm/cluster.sh kill FOLDER NODE      end a node and all that runs on it, as a power cut does
#   xtask/slurm/cluster.sh revive FOLDER NODE
#   xtask/slurm/cluster.sh down FOLDER
# All state is in FOLDER; `export SLURM_CONF=FOLDER/slurm.conf` points Slurm's commands there.
set -euo pipefail
what=$1 folder=$(realpath -m "$2")
export SLURM_CONF=$folder/slurm.conf
host=$(hostname -s)
# Others than Slurm's own, so that it stands beside a real one.
port=17000

node() { # NAME: its slurmd, whose process id is kept
    slurmd -N "$1" -D >"$folder/$1.log" 2>&1 &
    echo $! >"$folder/$1.pid"
}

case $what in
up)
    nodes=${3:-4}
    mkdir -p "$folder"/{state,spool}
    if ! munge -n </dev/null >/dev/null 2>&1; then
        [ -s /etc/munge/munge.key ] || mungekey --create --force
        chown -R munge: /etc/munge /var/lib/munge /var/log/munge
        mkdir -p /run/munge && chown munge: /run/munge
        su -s /bin/sh munge -c 'munged --force' || true
    fi
    cpus=$(nproc) memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SlurmctldPort=$port
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
KillWait=20
MinJobAge=600
ReturnToService=2
JobRequeue=1
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
END
    for i in $(seq "$nodes"); do
        echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus RealMemory=$memory State=UNKNOWN" >>"$SLURM_CONF"
    done
    echo "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO" >>"$SLURM_CONF"
    slurmctld -D >"$folder/slurmctld.log" 2>&1 &
    echo $! >"$folder/slurmctld.own.pid"
    for i in $(seq "$nodes"); do node "n$i"; done
    for _ in $(seq 100); do
        [ "$(sinfo -h -o %T 2>/dev/null | sort -u)" = idle ] && break
        sleep 0.2
    done
    sinfo
    ;;
kill)
    # The daemon, the keepers of its jobs (who would tell how they ended) and the jobs, in this order and at once.
    kill -KILL "$(cat "$folder/$3.pid")"
    for inode in $(awk -v at="$folder/spool/$3/" 'index($8, at) == 1 {print $7}' /proc/net/unix); do
        for fd in $(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null); do
            kill -KILL "$(cut -d/ -f3 <<<"$fd")" 2>/dev/null || true
        done
    done
    for task in $(grep -lz "^SLURMD_NODENAME=$3\$" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do
        kill -KILL "$task" 2>/dev/null || true
    done
    ;;
revive)
    node "$3"
    ;;
down)
    for pid in "$folder"/n*.pid "$folder"/slurmctld.own.pid; do kill "$(cat "$pid")" 2>/dev/null || true; done
    ;;
esac
