#!/usr/bin/env bash
# Start or stop a SLURM cluster whose only node is this machine, with Debian's slurm-wlm and munge, for
# tests/cli/test_slurm.py. "slurm.sh start FOLDER" keeps all files in FOLDER; set SLURM_CONF to FOLDER/slurm.conf for
# sbatch and srun. "slurm.sh stop FOLDER" ends it.
set -euo pipefail
action=$1 folder=$2
if [ "$action" = stop ]; then
    for name in slurmd slurmctld munged; do
        [ ! -s "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
    done
    exit 0
fi
host=$(hostname -s)
cpus=$(getconf _NPROCESSORS_ONLN)
[ "$cpus" -ge 2 ] || cpus=2   # a test runs two tasks
read -r control node < <(python3 -c 'import socket
sockets = [socket.socket(), socket.socket()]
for free in sockets: free.bind(("127.0.0.1", 0))
print(*(free.getsockname()[1] for free in sockets))')
mkdir -p "$folder/state" "$folder/spool"
head -c 1024 /dev/urandom > "$folder/munge.key" && chmod 600 "$folder/munge.key"
cat > "$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10   # seconds that a requeued job waits
CredType=cred/munge
SlurmctldPort=$control
SlurmdPort=$node
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
export SLURM_CONF=$folder/slurm.conf
slurmctld -i
slurmd
for _ in $(seq 60); do
    [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && exit 0
    sleep 1
done
tail -n 5 "$folder"/*.log >&2
exit 1
