# shellcheck shell=bash
# The private RabbitMQ: one plain and one TLS port on 127.0.0.1, its own CA, its own epmd, a pool of
# vhosts. Sourced by `up` and `service`; works in $BROKER.

BROKER_USER=tester

# The server itself: the wrappers in /usr/sbin refuse every user but root and rabbitmq.
RABBITMQ_SERVER=/usr/lib/rabbitmq/bin/rabbitmq-server

make_certificates() {
    local tls=$BROKER/tls
    [ -s "$tls/server.pem" ] && return
    mkdir -p "$tls"
    (
        umask 077
        cd "$tls" || exit
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
            -subj "/CN=hpc-trainer test CA" -keyout ca.key -out ca.pem \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
            -subj "/CN=localhost" -keyout server.key -out server.csr
        printf '%s\n' subjectAltName=DNS:localhost,IP:127.0.0.1 extendedKeyUsage=serverAuth \
            >extensions
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
            -extfile extensions -out server.pem
        # For a broker that asks its clients for one; all others take no notice.
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
            -subj "/CN=hpc-trainer" -keyout client.key -out client.csr
        printf 'extendedKeyUsage=clientAuth\n' >client-extensions
        openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile client-extensions -out client.pem
    ) >"$BROKER/log/openssl.log" 2>&1
}

# Users, vhosts and permissions are read at boot: a hundred vhosts in one go, where `rabbitmqctl
# add_vhost` takes a second for each. When the ports answer, they all exist.
write_definitions() {
    local vhost names='' permissions='' salt hash
    # shellcheck disable=SC2153 # VHOSTS is a setting of `up`
    for vhost in / $(seq -f 'test-%.0f' "$VHOSTS"); do
        names+="${names:+,}{\"name\":\"$vhost\"}"
        permissions+="${permissions:+,}{\"user\":\"$BROKER_USER\",\"vhost\":\"$vhost\","
        permissions+='"configure":".*","write":".*","read":".*"}'
    done
    # RabbitMQ's format: base64(salt + sha256(salt + password)), with a salt of four bytes.
    salt=7331c0de
    hash=$({
        printf '%b' "\\x${salt:0:2}\\x${salt:2:2}\\x${salt:4:2}\\x${salt:6:2}"
        {
            printf '%b' "\\x${salt:0:2}\\x${salt:2:2}\\x${salt:4:2}\\x${salt:6:2}"
            printf '%s' "$BROKER_PASSWORD"
        } | openssl dgst -sha256 -binary
    } | base64 -w0)
    cat >"$BROKER/definitions.json" <<JSON
{"users":[{"name":"$BROKER_USER","password_hash":"$hash",
           "hashing_algorithm":"rabbit_password_hashing_sha256","tags":["administrator"]}],
 "vhosts":[$names],"permissions":[$permissions],"topic_permissions":[],"parameters":[],
 "global_parameters":[],"policies":[],"queues":[],"exchanges":[],"bindings":[]}
JSON
}

write_broker_config() {
    cat >"$BROKER/rabbitmq.conf" <<CONF
listeners.tcp.local = 127.0.0.1:$AMQP_PORT
listeners.ssl.local = 127.0.0.1:$AMQPS_PORT
ssl_options.cacertfile = $BROKER/tls/ca.pem
ssl_options.certfile   = $BROKER/tls/server.pem
ssl_options.keyfile    = $BROKER/tls/server.key
ssl_options.verify     = verify_none
ssl_options.fail_if_no_peer_cert = false
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
load_definitions = $BROKER/definitions.json
vm_memory_high_watermark.absolute = 3GB
disk_free_limit.absolute = 50MB
log.file.level = info
${MAX_MESSAGE_SIZE:+max_message_size = $MAX_MESSAGE_SIZE}
${BROKER_EXTRA:-}
CONF
    echo '[].' >"$BROKER/enabled_plugins"
    # Busy waiting of the Erlang schedulers would take the cores from the trainings under test.
    cat >"$BROKER/env.sh" <<ENV
export HOME='$BROKER/home'
export RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_NODENAME=test@localhost
export RABBITMQ_CONFIG_FILE='$BROKER/rabbitmq.conf'
export RABBITMQ_ADVANCED_CONFIG_FILE='$BROKER/advanced.config'
export RABBITMQ_GENERATED_CONFIG_DIR='$BROKER/config'
export RABBITMQ_SCHEMA_DIR='$BROKER/schema'
export RABBITMQ_ENABLED_PLUGINS_FILE='$BROKER/enabled_plugins'
export RABBITMQ_MNESIA_BASE='$BROKER/mnesia'
export RABBITMQ_LOG_BASE='$BROKER/log'
export RABBITMQ_PID_FILE='$BROKER/pid'
export RABBITMQ_DIST_PORT=$DIST_PORT
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} \
+sbwt none +sbwtdcpu none +sbwtdio none'
export ERL_EPMD_PORT=$EPMD_PORT
export ERL_EPMD_ADDRESS=127.0.0.1
ENV
    # For a person who looks into the running broker: DIR/broker/ctl list_queues -p test-1
    cat >"$BROKER/ctl" <<CTL
#!/bin/sh
. '$BROKER/env.sh'
cd '$BROKER' && exec /usr/lib/rabbitmq/bin/rabbitmqctl "\$@"
CTL
    chmod 700 "$BROKER/ctl"
}

broker_answers_or_died() {
    { port_answers "$AMQP_PORT" && port_answers "$AMQPS_PORT"; } || ! alive "$BROKER_PID"
}

# Another program may have taken a port first. Then our server ends (plain port) or shows no
# certificate of our CA.
broker_is_ours() {
    alive "$BROKER_PID" && openssl s_client -connect "127.0.0.1:$AMQPS_PORT" -verify_return_error \
        -CAfile "$BROKER/tls/ca.pem" -cert "$BROKER/tls/client.pem" \
        -key "$BROKER/tls/client.key" </dev/null >"$BROKER/log/openssl.log" 2>&1
}

stop_broker() {
    [ ! -s "$BROKER/pid" ] || kill -KILL "$(cat "$BROKER/pid")" 2>/dev/null
    rm -rf "$BROKER/pid" "$BROKER/mnesia"
}

# The server with the files that are there, until it answers on its ports.
launch_broker() {
    (
        # shellcheck source=/dev/null
        . "$BROKER/env.sh"
        cd "$BROKER" || exit
        exec_daemon "$RABBITMQ_SERVER" >>"$BROKER/log/server.out" 2>&1
    ) &
    BROKER_PID=$!
    wait_until 300 broker_answers_or_died && broker_is_ours
}

start_broker() {
    read -r AMQP_PORT AMQPS_PORT DIST_PORT EPMD_PORT <<<"$(free_ports 4)"
    stop_broker
    mkdir -p "$BROKER"/{mnesia,log,home}
    chmod 700 "$BROKER/home"
    [ -s "$BROKER/home/.erlang.cookie" ] ||
        (umask 277 && openssl rand -hex 16 >"$BROKER/home/.erlang.cookie")
    make_certificates
    write_definitions
    write_broker_config
    : >"$BROKER/log/server.out"
    launch_broker || return 1
    mkdir -p "$DIR/vhosts"
    cat >"$BROKER/exports" <<ENV
export HPC_TRAINER_TEST_AMQP_HOST=127.0.0.1
export HPC_TRAINER_TEST_AMQP_PORT=$AMQP_PORT
export HPC_TRAINER_TEST_AMQPS_PORT=$AMQPS_PORT
export HPC_TRAINER_TEST_AMQP_USER=$BROKER_USER
export HPC_TRAINER_TEST_AMQP_PASSWORD=$BROKER_PASSWORD
export HPC_TRAINER_TEST_CA='$BROKER/tls/ca.pem'
export HPC_TRAINER_TEST_CLIENT='$BROKER/tls/client.pem'
export HPC_TRAINER_TEST_CLIENT_KEY='$BROKER/tls/client.key'
export HPC_TRAINER_TEST_VHOSTS=$VHOSTS
ENV
}
