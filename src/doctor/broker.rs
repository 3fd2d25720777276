//! RabbitMQ: the connection, the login, the queues, the largest message that it takes.

use std::time::Duration;

use super::link::{Server, address, reach};
use super::row::{Row, Rows, within};
use base::text::file_size;
use contract::broker::BrokerConfig;
use contract::broker::{
    Broker, BrokerError, ControlAccess, DEFAULT_REPLY_QUEUE, Hello, JOBS_QUEUE, QueueFacts,
};
use contract::wire::conversation::CONTROL_QUEUE;

/// Logging in and looking at two queues.
const DEADLINE: Duration = Duration::from_secs(60);
const AFTER_THE_WAY: [&str; 6] =
    ["broker", "login", JOBS_QUEUE, DEFAULT_REPLY_QUEUE, CONTROL_QUEUE, "message limit"];

fn server(config: &BrokerConfig) -> Server {
    let address = &config.address;
    Server {
        variable: "RABBITMQ_HOST",
        host: address.host.clone(),
        port: address.port,
        tls: address.tls,
        is_exposed: address.is_exposed(),
        with_tls: address.with_tls(),
        amqp: true,
        identity: config.identity.clone(),
    }
}

/// Everything about RabbitMQ; on a compute node only whether it can be reached and takes the login.
pub(super) async fn rows(group: &str, config: Option<&BrokerConfig>, on_node: bool) -> Vec<Row> {
    let mut rows = Rows::new(group);
    let Some(config) = config else {
        rows.skip("address", "RABBITMQ_HOST can't be used, see above");
        return rows.done();
    };
    let server = server(config);
    if !on_node {
        address(&mut rows, &server);
    }
    let reached = reach(&mut rows, &server).await;
    if !reached.is_open {
        let names = if on_node { &AFTER_THE_WAY[1..2] } else { &AFTER_THE_WAY[..] };
        rows.skip_all(names, "RabbitMQ can't be reached");
        return rows.done();
    }
    let hello = reached.hello;
    if let Some(hello) = hello.as_ref().filter(|_| !on_node) {
        product(&mut rows, hello);
    }
    if config.user.is_empty() || config.password.expose().is_empty() {
        rows.skip("login", "RABBITMQ_USER or RABBITMQ_PASSWORD is not set");
        return rows.done();
    }
    let Some(()) = within(DEADLINE, log_in(&mut rows, config, hello.as_ref(), on_node)).await
    else {
        rows.fail(
            "RabbitMQ",
            "it stopped answering",
            "look at the broker's log; it may be out of memory or disk",
        );
        return rows.done();
    };
    rows.done()
}

fn product(rows: &mut Rows, hello: &Hello) {
    let seen = format!("{} {}", hello.product, hello.version);
    match hello.product.as_str() {
        "RabbitMQ" => rows.pass("broker", seen),
        _ => rows.warn("broker", seen, "it is not RabbitMQ, with which alone this is tested"),
    }
}

async fn log_in(rows: &mut Rows, config: &BrokerConfig, hello: Option<&Hello>, on_node: bool) {
    let mut broker = match Broker::connect(config).await {
        Ok(broker) => broker,
        Err(error) => {
            refused(rows, config, &error);
            if !on_node {
                rows.skip_all(&AFTER_THE_WAY[2..], "without a login there is nothing to see");
            }
            return;
        }
    };
    rows.pass("login", format!("as {}, vhost {}", config.user, config.address.vhost));
    if !on_node {
        let wants_durable = wants_durable(hello);
        jobs(rows, wants_durable, broker.inspect(JOBS_QUEUE).await);
        results(rows, config, hello, broker.inspect(DEFAULT_REPLY_QUEUE).await);
        control(rows, broker.control_access().await);
        limit(rows, config, hello);
    }
    broker.close().await;
}

fn refused(rows: &mut Rows, config: &BrokerConfig, error: &BrokerError) {
    let user = &config.user;
    match error {
        BrokerError::Login { .. } => rows.fail(
            "login",
            format!("RabbitMQ refuses user or password of {user}"),
            "check RABBITMQ_USER and RABBITMQ_PASSWORD with the administrator of the broker",
        ),
        BrokerError::Vhost { vhost, .. } => rows.fail(
            "login",
            format!("{user} may not use the vhost '{vhost}', or there is none of this name"),
            "check the path of RABBITMQ_HOST, and the user's permissions: rabbitmqctl \
            list_permissions",
        ),
        error => rows.fail_with("login", error, "look at the broker's log"),
    }
}

/// RabbitMQ 4.3 refuses new queues that are neither durable nor exclusive.
fn wants_durable(hello: Option<&Hello>) -> bool {
    hello.and_then(Hello::numbers).is_some_and(|version| version >= (4, 3))
}

fn jobs(rows: &mut Rows, wants_durable: bool, found: Result<Option<QueueFacts>, BrokerError>) {
    match found {
        Err(error) => rows.fail(
            JOBS_QUEUE,
            error.to_string(),
            "give the user the permissions to read and to write: rabbitmqctl set_permissions",
        ),
        Ok(None) if wants_durable => rows.warn(
            JOBS_QUEUE,
            "there is no such queue, and this broker refuses one that is not durable, as an old \
             Rodan declares it",
            "declare it durable (rodan/ does): rabbitmqadmin declare queue name=hpc-jobs \
            durable=true",
        ),
        Ok(None) => rows.warn(
            JOBS_QUEUE,
            "there is no such queue: Rodan has not declared it yet",
            "start a workflow in Rodan once; if it stays so, compare broker and vhost with Rodan's",
        ),
        Ok(Some(QueueFacts { consumers, messages, .. })) if consumers > 0 => rows.warn(
            JOBS_QUEUE,
            format!("jobs that wait: {messages}; others that take jobs from it: {consumers}"),
            "find out who reads it: each job goes to one reader only",
        ),
        Ok(Some(QueueFacts { differs: Some(differs), messages, .. })) if is_durable(&differs) => {
            rows.pass(
                JOBS_QUEUE,
                format!(
                    "jobs that wait: {messages}; durable, which a Rodan from before 2023 can't \
                declare"
                ),
            )
        }
        Ok(Some(QueueFacts { differs: Some(differs), .. })) => rows.warn(
            JOBS_QUEUE,
            format!("it differs from the queue that Rodan declares: {differs}"),
            "delete it when it is empty; Rodan declares it anew",
        ),
        Ok(Some(QueueFacts { messages, .. })) => {
            rows.pass(JOBS_QUEUE, format!("jobs that wait: {messages}; declared as Rodan does"));
        }
    }
}

/// True where a queue differs from Rodan's by what a restart of the broker leaves, or by its type.
fn is_durable(differs: &str) -> bool {
    ["arg 'durable'", "arg 'x-queue-type'"].iter().any(|argument| differs.contains(argument))
}

fn control(rows: &mut Rows, found: Result<ControlAccess, BrokerError>) {
    match found {
        Ok(ControlAccess::Readable(waiting)) => {
            rows.pass(CONTROL_QUEUE, format!("requests that wait: {waiting}"));
        }
        Ok(ControlAccess::Untried(waiting)) => rows.pass(
            CONTROL_QUEUE,
            format!(
                "requests that wait: {waiting}; reading was not tried: each look counts in \
                this queue"
            ),
        ),
        Ok(ControlAccess::Unreadable) => rows.warn(
            CONTROL_QUEUE,
            "this account may not read it: nobody can cancel a job from outside",
            "give the user the permission to read it: rabbitmqctl set_permissions",
        ),
        Ok(ControlAccess::Absent) => rows.pass(
            CONTROL_QUEUE,
            "there is none; whoever comes first declares it, check too \
                where it may",
        ),
        Err(error @ BrokerError::Unreadable { .. }) => {
            rows.warn(CONTROL_QUEUE, error.to_string(), "the next pass of check drops it");
        }
        Err(error) => rows.warn(CONTROL_QUEUE, error.to_string(), "look at the broker's log"),
    }
}

fn results(
    rows: &mut Rows,
    config: &BrokerConfig,
    hello: Option<&Hello>,
    found: Result<Option<QueueFacts>, BrokerError>,
) {
    let wants_durable = wants_durable(hello);
    match found {
        Err(error) => rows.warn(
            DEFAULT_REPLY_QUEUE,
            error.to_string(),
            "give the user the permissions to read and to write: rabbitmqctl set_permissions",
        ),
        Ok(None) if wants_durable && !config.reply_queue_durable => rows.warn(
            DEFAULT_REPLY_QUEUE,
            "there is none, and this broker refuses a new one that is not durable",
            "set REPLY_QUEUE_DURABLE=1",
        ),
        Ok(None) => rows.pass(DEFAULT_REPLY_QUEUE, "there is none; the first reply makes it"),
        Ok(Some(QueueFacts { messages, consumers, .. })) => {
            rows.pass(
                DEFAULT_REPLY_QUEUE,
                format!("replies that wait: {messages}, readers: {consumers}"),
            );
        }
    }
}

fn limit(rows: &mut Rows, config: &BrokerConfig, hello: Option<&Hello>) {
    let own = hello.and_then(Hello::message_limit);
    match (own, config.max_reply_bytes) {
        (Some(own), Some(set)) if set > own => rows.warn(
            "message limit",
            format!(
                "MAX_REPLY_BYTES is {}, and this broker takes {} by default",
                file_size(set),
                mib(own)
            ),
            "lower it, unless max_message_size of the broker has been raised",
        ),
        (_, Some(set)) => {
            rows.pass("message limit", format!("{} (MAX_REPLY_BYTES)", file_size(set)))
        }
        (Some(own), None) => rows
            .pass("message limit", format!("{} for this version, unless set otherwise", mib(own))),
        (None, None) => {
            rows.skip("message limit", "not known for this broker; it says so when it refuses")
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
