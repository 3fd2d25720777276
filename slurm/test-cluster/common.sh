# shellcheck shell=bash
# Shared by `up`, `down` and `service`: messages, free ports, and which processes belong to a test
# directory.

# Every daemon starts with this variable in its environment, set to its directory. That is how
# `down` finds what it has to end, even where `up` was killed before a pid file was written.
MARK=HPC_TRAINER_TEST_CLUSTER_OF

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# daemon COMMAND…: run it marked as ours, without our terminal and without the directory's lock
# (fd 9).
daemon() {
    (exec_daemon "$@")
}
exec_daemon() {
    exec env "$MARK=$DIR" setsid "$@" </dev/null 9>&-
}

# Process ids (not zombies: their environment is empty) that belong to $DIR.
our_processes() {
    grep -lzxF -- "$MARK=$DIR" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}

port_answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# free_ports N: N distinct ports that nobody listens on, below the range the kernel gives to
# outgoing connections. Another process can still be quicker, so whoever uses them starts again with
# others when a daemon stays down.
free_ports() {
    local chosen=() port
    while [ "${#chosen[@]}" -lt "$1" ]; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        case " ${chosen[*]} " in *" $port "*) continue ;; esac
        port_answers "$port" || chosen+=("$port")
    done
    echo "${chosen[@]}"
}

# wait_until SECONDS COMMAND…: poll until it succeeds. Ends a background part whose script ($$) was
# killed.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        alive $$ || exit 1
        sleep 0.1
    done
}

# alive PID: whether it runs and is no zombie. Asked ten times a second, so it starts no process.
alive() {
    local stat
    [ -n "$1" ] && { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    # The state is the word behind the name, which has brackets around it, and may have some itself.
    stat=${stat##*) }
    [ "${stat%% *}" != Z ]
}

# three_times FUNCTION LOGS…: a start can lose a race for its ports; the third failure is a real
# one.
three_times() {
    local what=$1 attempt
    for attempt in 1 2 3; do
        if "$what"; then return 0; fi
        echo "$(basename "$0"): attempt $attempt of $what did not come up" >&2
    done
    return 1
}
