# shellcheck shell=bash
# The private Slurm: one controller and $NODES nodes on this machine, each with fake GPUs, cores and
# memory. Sourced by `up` and `service`; works in $SLURM.

ME=$(id -un)
HOST=$(hostname -s)
# What stands in for the GPUs of a node: each has to be another device.
DEVICES=(/dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty)

start_munge() {
    if [ "$AUTH" = none ]; then
        AUTH_LINES=$'AuthType=auth/none\nCredType=cred/none\nAuthInfo=cred_expire=5'
        return
    fi
    mkdir -p "$SLURM/munge"
    chmod 700 "$SLURM/munge"
    [ -s "$SLURM/munge/key" ] || (umask 277 && head -c 1024 /dev/urandom >"$SLURM/munge/key")
    if ! alive "$(cat "$SLURM/run/munged.pid" 2>/dev/null)"; then
        # --force: it would rather have a socket that every user can reach; this cluster has one
        # user.
        daemon munged --force --key-file="$SLURM/munge/key" --socket="$SLURM/run/munge.sock" \
            --pid-file="$SLURM/run/munged.pid" --log-file="$SLURM/munge/munged.log" \
            --seed-file="$SLURM/munge/seed" --num-threads=2 2>"$SLURM/log/munged.out" || return 1
    fi
    # Slurm starts a requeued job again after twice this time (120 s with the default of munge).
    AUTH_LINES=$"AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$SLURM/run/munge.sock,cred_expire=5"
}

start_accounting() {
    ACCOUNTING_LINES='AccountingStorageType=accounting_storage/none'
    [ "$DBD" = 1 ] || return 0
    local db_user=()
    [ "$ME" != root ] || db_user=(--user=root)
    rm -rf "$SLURM/db"
    mariadb-install-db --no-defaults "${db_user[@]}" --datadir="$SLURM/db" \
        --auth-root-authentication-method=normal --skip-test-db \
        >"$SLURM/log/db-install.log" 2>&1 || return 1
    exec_daemon mariadbd --no-defaults "${db_user[@]}" --datadir="$SLURM/db" \
        --socket="$SLURM/run/db.sock" --pid-file="$SLURM/run/mariadbd.pid" \
        --bind-address=127.0.0.1 --port="$DB_PORT" \
        --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
        --innodb-flush-log-at-trx-commit=0 >"$SLURM/log/mariadb.log" 2>&1 &
    wait_until 60 mariadb-admin --no-defaults -uroot -S "$SLURM/run/db.sock" ping \
        >/dev/null 2>&1 || return 1
    mariadb --no-defaults -uroot -S "$SLURM/run/db.sock" <<SQL || return 1
create database slurm_acct;
create user slurm@127.0.0.1 identified by 'slurm';
create user slurm@localhost identified by 'slurm';
grant all on slurm_acct.* to slurm@127.0.0.1;
grant all on slurm_acct.* to slurm@localhost;
SQL
    (
        umask 077
        cat >"$SLURM/slurmdbd.conf" <<CONF
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=$DBD_PORT
SlurmUser=$ME
$(grep -v '^CredType' <<<"$AUTH_LINES")
PidFile=$SLURM/run/slurmdbd.pid
LogFile=$SLURM/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DB_PORT
StorageLoc=slurm_acct
StorageUser=slurm
StoragePass=slurm
CONF
    )
    ACCOUNTING_LINES="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$DBD_PORT
$([ "$AUTH" = none ] || echo "AccountingStoragePass=$SLURM/run/munge.sock")
AccountingStorageTRES=gres/gpu"
}

# How Slurm contains and measures a job. With cgroups (root only) too much memory is OUT_OF_MEMORY,
# as on a real cluster; without them Slurm itself looks at the processes once a second and kills the
# job.
containment() {
    if [ "$CGROUP" != 1 ]; then
        CONTAINMENT_LINES=$'ProctrackType=proctrack/pgid\nTaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherParams=OverMemoryKill'
        return
    fi
    [ -w /sys/fs/cgroup/memory ] ||
        die 'CGROUP=1 needs root and a writable cgroup v1 in /sys/fs/cgroup/memory'
    CONTAINMENT_LINES=$'ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup'
    cat >"$SLURM/cgroup.conf" <<'CONF'
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainCores=no
ConstrainDevices=no
CONF
}

write_slurm_config() {
    local i port=("$@")
    cat >"$SLURM/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$CONTROLLER_PORT
SlurmUser=$ME
SlurmdUser=$ME
$AUTH_LINES
StateSaveLocation=$SLURM/state
SlurmdSpoolDir=$SLURM/run/spool.%n
SlurmctldPidFile=$SLURM/run/slurmctld.pid
SlurmdPidFile=$SLURM/run/slurmd.%n.pid
SlurmctldLogFile=$SLURM/log/slurmctld.log
SlurmdLogFile=$SLURM/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
$CONTAINMENT_LINES
TaskProlog=$SLURM/task_prolog
Epilog=$SLURM/epilog
MailProg=$SLURM/mail
JobAcctGatherFrequency=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=0,sched_interval=2,batch_sched_delay=0
KillWait=$KILL_WAIT
MinJobAge=$MIN_JOB_AGE
InactiveLimit=0
SlurmdTimeout=60
DefMemPerCPU=100
PriorityType=priority/basic
JobCompType=jobcomp/none
$ACCOUNTING_LINES
${SLURM_EXTRA:-}
CONF
    : >"$SLURM/gres.conf"
    for ((i = 1; i <= NODES; i++)); do
        echo "NodeName=node$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=${port[i - 1]}" \
            "CPUs=$CPUS RealMemory=$MEMORY_MB Gres=gpu:$GPUS State=UNKNOWN" >>"$SLURM/slurm.conf"
        for ((g = 0; g < GPUS; g++)); do
            echo "NodeName=node$i Name=gpu Count=1 File=${DEVICES[g]}" >>"$SLURM/gres.conf"
        done
    done
    echo 'PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP' \
        >>"$SLURM/slurm.conf"

    # What a site's prolog does: scratch space of the job's own. The mark lets `down` find a job's
    # processes too.
    cat >"$SLURM/task_prolog" <<SCRIPT
#!/bin/sh
mkdir -p "$SLURM/scratch/\$SLURM_JOB_ID"
echo "export SLURM_TMPDIR=$SLURM/scratch/\$SLURM_JOB_ID"
echo "export $MARK=$DIR"
SCRIPT
    cat >"$SLURM/epilog" <<SCRIPT
#!/bin/sh
/bin/rm -rf "$SLURM/scratch/\${SLURM_JOB_ID:?}"
SCRIPT
    # Mail that Slurm would send, one line for each: -s SUBJECT ADDRESS.
    cat >"$SLURM/mail" <<SCRIPT
#!/bin/sh
/bin/cat >/dev/null
echo "\$*" >>"$SLURM/log/mail.txt"
SCRIPT
    chmod 755 "$SLURM/task_prolog" "$SLURM/epilog" "$SLURM/mail"
}

controller_answers() {
    alive "$(cat "$SLURM/run/slurmctld.pid" 2>/dev/null)" && port_answers "$CONTROLLER_PORT"
}

all_nodes_idle() {
    [ "$(timeout 10 sinfo -h -N -o %t 2>/dev/null | grep -cx idle)" = "$NODES" ]
}

stop_slurm_daemons() {
    local pid
    for pid in "$SLURM"/run/{slurmctld,slurmd.*,slurmdbd,mariadbd}.pid; do
        [ ! -s "$pid" ] || kill -KILL "$(cat "$pid")" 2>/dev/null
        rm -f "$pid"
    done
}

start_slurm() {
    local ports i
    stop_slurm_daemons
    read -r CONTROLLER_PORT DBD_PORT DB_PORT ports <<<"$(free_ports $((3 + NODES)))"
    rm -rf "$SLURM/state" "$SLURM"/run/spool.*
    mkdir -p "$SLURM"/{state,log,run,scratch}
    export SLURM_CONF=$SLURM/slurm.conf
    start_munge && containment && start_accounting || return 1
    # shellcheck disable=SC2086 # one word for each node
    write_slurm_config $ports
    if [ "$DBD" = 1 ]; then
        daemon slurmdbd && wait_until 60 port_answers "$DBD_PORT" || return 1
        sacctmgr -i -Q add cluster test >/dev/null || return 1
    fi
    daemon slurmctld -c || return 1
    for ((i = 1; i <= NODES; i++)); do
        daemon slurmd -N "node$i" || return 1
    done
    wait_until 60 controller_answers && wait_until 60 all_nodes_idle || return 1
    cat >"$SLURM/exports" <<ENV
export SLURM_CONF='$SLURM/slurm.conf'
export HPC_TRAINER_TEST_NODES=$NODES
export HPC_TRAINER_TEST_ACCOUNTING=$DBD
export HPC_TRAINER_TEST_CGROUP=$CGROUP
export HPC_TRAINER_TEST_MAIL='$SLURM/log/mail.txt'
ENV
}
