//! A vhost of the private RabbitMQ for one test, and Rodan's side of the queues in it.
//!
//! Every call opens a connection of its own: a test may rest for minutes between two of them.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;

use super::services::Services;

/// The queue that Rodan publishes jobs to.
pub(crate) const JOBS: &str = "hpc-jobs";
/// The queue that Rodan reads replies from.
pub(crate) const RESULTS: &str = "hpc-results";
/// The queue of an asker's requests.
pub(crate) const CONTROL: &str = "hpc-control";

/// One test's own vhost: no other test uses it meanwhile.
pub(crate) struct Vhost {
    name: String,
    /// The file that says that it is taken.
    lock: PathBuf,
    /// The queues that the test has declared beside Rodan's.
    queues: Mutex<BTreeSet<String>>,
    /// The test has made something that only it knows, such as an exchange.
    peculiar: AtomicBool,
    host: String,
    port: String,
    tls_port: String,
    user: String,
    password: String,
    ca_file: PathBuf,
}

/// A message as it was found in a queue.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
    pub(crate) redelivered: bool,
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn correlation_id(&self) -> Option<&str> {
        self.properties.correlation_id().as_ref().map(|id| id.as_str())
    }
}

impl Vhost {
    /// Takes the first vhost that no test has. Test processes run side by side, and a file that
    /// can be made only once decides.
    pub(crate) fn lease(services: &Services) -> Self {
        let variable = |name: &str| services.variable(name).to_owned();
        let pool: u32 = variable("HPC_TRAINER_TEST_VHOSTS").parse().expect("a number of vhosts");
        let lock = |number: u32| services.directory().join("vhosts").join(format!("test-{number}"));
        let taken = |number: &u32| {
            OpenOptions::new().write(true).create_new(true).open(lock(*number)).is_ok()
        };
        let number = (1..=pool + 1000).find(taken).expect("a vhost that is still free");
        let name = format!("test-{number}");
        if number > pool {
            add_vhost(services, &name);
        }
        Self {
            name,
            lock: lock(number),
            queues: Mutex::default(),
            peculiar: AtomicBool::new(number > pool),
            host: variable("HPC_TRAINER_TEST_AMQP_HOST"),
            port: variable("HPC_TRAINER_TEST_AMQP_PORT"),
            tls_port: variable("HPC_TRAINER_TEST_AMQPS_PORT"),
            user: variable("HPC_TRAINER_TEST_AMQP_USER"),
            password: variable("HPC_TRAINER_TEST_AMQP_PASSWORD"),
            ca_file: services.ca_file().to_owned(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the vhost to the next test, as new: its queues are deleted, and the models in them
    /// with them, which would fill the broker's memory. One in which a test has made something
    /// else, or whose broker is away, is left alone.
    ///
    /// Nobody may be about to publish to it any more.
    pub(crate) fn give_back(&self) {
        if self.peculiar.load(Ordering::Relaxed) {
            return;
        }
        let url = self.with_login(&self.url());
        let mut queues = self.queues.lock().expect("no test panics here").clone();
        queues.extend([JOBS, RESULTS, CONTROL].map(str::to_owned));
        let cleared = on_channel(&url, OwnedTLSConfig::default(), |channel| async move {
            let mut all = true;
            for queue in queues {
                let deleted =
                    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
                all &= deleted.await.is_ok();
            }
            all
        });
        if cleared.is_ok_and(|all| all) {
            drop(fs::remove_file(&self.lock));
        }
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// `RABBITMQ_HOST` for the plain port, without user and password.
    pub(crate) fn url(&self) -> String {
        format!("amqp://{}:{}/{}", self.host, self.port, self.name)
    }

    /// The plain port, as `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// `RABBITMQ_HOST` for the TLS port; the certificate is good for `localhost` and its address.
    pub(crate) fn tls_url(&self) -> String {
        format!("amqps://{}:{}/{}", self.host, self.tls_port, self.name)
    }

    fn with_login(&self, url: &str) -> String {
        url.replacen("://", &format!("://{}:{}@", self.user, self.password), 1)
    }

    /// Does something on a channel over the plain port that declares or fills this queue.
    pub(crate) fn on_channel_of<T, F: Future<Output = T>>(
        &self,
        queue: &str,
        work: impl FnOnce(Channel) -> F,
    ) -> T {
        self.queues.lock().expect("no test panics here").insert(queue.to_owned());
        self.on_plain_channel(work)
    }

    /// Does something on a channel over the plain port that leaves more than queues, or queues
    /// that this vhost does not know.
    pub(crate) fn on_channel<T, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Channel) -> F,
    ) -> T {
        self.peculiar.store(true, Ordering::Relaxed);
        self.on_plain_channel(work)
    }

    fn on_plain_channel<T, F: Future<Output = T>>(&self, work: impl FnOnce(Channel) -> F) -> T {
        on_channel(&self.with_login(&self.url()), OwnedTLSConfig::default(), work)
            .expect("the broker answers")
    }

    /// The same over the TLS port, trusting `ca` (PEM) alone beside the system's roots.
    pub(crate) fn on_tls_channel<T, F: Future<Output = T>>(
        &self,
        ca: &str,
        work: impl FnOnce(Channel) -> F,
    ) -> lapin::Result<T> {
        self.peculiar.store(true, Ordering::Relaxed);
        let config = OwnedTLSConfig { identity: None, cert_chain: Some(ca.to_owned()) };
        on_channel(&self.with_login(&self.tls_url()), config, work)
    }

    /// Declares both queues with Rodan's arguments.
    pub(crate) fn declare_queues(&self) {
        self.on_plain_channel(|channel| async move { declare_as_rodan(&channel).await })
    }

    /// Publishes a job exactly as Rodan does, answers to go to `hpc-results`: both queues
    /// declared, the properties `reply_to` and `correlation_id` and no others. Gives the
    /// correlation id.
    pub(crate) fn publish_job(&self, job: &Value) -> String {
        let correlation_id = uuid::Uuid::new_v4().to_string();
        let properties = BasicProperties::default()
            .with_reply_to(RESULTS.into())
            .with_correlation_id(correlation_id.as_str().into());
        self.publish(JOBS, job.to_string().as_bytes(), properties);
        correlation_id
    }

    /// The same job many times, over one connection.
    pub(crate) fn publish_jobs(&self, job: &Value, count: usize) -> Vec<String> {
        let ids: Vec<String> = (0..count).map(|_| uuid::Uuid::new_v4().to_string()).collect();
        self.on_plain_channel(|channel| {
            let (ids, body) = (ids.clone(), job.to_string());
            async move {
                declare_as_rodan(&channel).await;
                channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
                for id in ids {
                    let properties = BasicProperties::default()
                        .with_reply_to(RESULTS.into())
                        .with_correlation_id(id.as_str().into());
                    let options = BasicPublishOptions::default();
                    let publish = channel.basic_publish(
                        "".into(),
                        JOBS.into(),
                        options,
                        body.as_bytes(),
                        properties,
                    );
                    publish.await.expect("the publish is sent").await.expect("the broker confirms");
                }
            }
        });
        ids
    }

    /// Publishes as [`Vhost::publish`] through another door (`host:port`) to the plain port.
    pub(crate) fn publish_at(
        &self,
        door: &str,
        queue: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        let url = self.with_login(&self.url().replacen(&self.address(), door, 1));
        let published = on_channel(&url, OwnedTLSConfig::default(), |channel| async move {
            channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
            let options = BasicPublishOptions::default();
            let publish = channel.basic_publish("".into(), queue.into(), options, body, properties);
            publish.await.expect("the publish is sent").await.expect("the broker confirms");
        });
        published.expect("the broker answers");
    }

    /// Publishes many such messages over one connection.
    pub(crate) fn publish_all(&self, queue: &str, messages: Vec<(BasicProperties, Vec<u8>)>) {
        self.on_plain_channel(|channel| async move {
            declare_as_rodan(&channel).await;
            channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
            for (properties, body) in messages {
                let options = BasicPublishOptions::default();
                let publish =
                    channel.basic_publish("".into(), queue.into(), options, &body, properties);
                publish.await.expect("the publish is sent").await.expect("the broker confirms");
            }
        });
    }

    /// Publishes any bytes with any properties, after declaring Rodan's queues. Returns when the
    /// broker has them.
    pub(crate) fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        self.on_plain_channel(|channel| async move {
            declare_as_rodan(&channel).await;
            channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
            let confirm = channel
                .basic_publish(
                    "".into(),
                    queue.into(),
                    BasicPublishOptions::default(),
                    body,
                    properties,
                )
                .await
                .expect("the publish is sent");
            confirm.await.expect("the broker confirms");
        })
    }

    /// Waits for the reply to a job as Rodan does: consumes `hpc-results`, takes what has its
    /// correlation id and puts every other message back, again and again.
    ///
    /// # Panics
    /// When none comes within `limit`.
    #[track_caller]
    pub(crate) fn receive_reply(&self, correlation_id: &str, limit: Duration) -> Message {
        self.try_receive_reply(correlation_id, limit)
            .unwrap_or_else(|| panic!("no reply for {correlation_id} within {limit:?}"))
    }

    /// [`Vhost::receive_reply`], `None` where no reply came.
    pub(crate) fn try_receive_reply(
        &self,
        correlation_id: &str,
        limit: Duration,
    ) -> Option<Message> {
        let wait = async |channel: Channel| {
            declare_as_rodan(&channel).await;
            let mut replies = channel
                .basic_consume(
                    RESULTS.into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                )
                .await
                .expect("a consumer");
            while let Some(delivery) = replies.next().await {
                let delivery = delivery.expect("the broker goes on delivering");
                if delivery
                    .properties
                    .correlation_id()
                    .as_ref()
                    .is_some_and(|id| id.as_str() == correlation_id)
                {
                    delivery.ack(BasicAckOptions::default()).await.expect("ack");
                    return message(delivery);
                }
                // Rodan does not wait here; a test should not take a core while it does.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let again = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                delivery.nack(again).await.expect("nack");
            }
            panic!("the broker ended the consumer of {RESULTS}")
        };
        self.on_plain_channel(|channel| async move {
            tokio::time::timeout(limit, wait(channel)).await.ok()
        })
    }

    /// Takes replies out of `hpc-results` as they come, and gives `see` each, until there were
    /// `count`.
    ///
    /// # Panics
    /// When they don't come within `limit`.
    pub(crate) fn receive_all(&self, count: usize, limit: Duration, mut see: impl FnMut(Message)) {
        let mut receive = async |channel: Channel| {
            declare_as_rodan(&channel).await;
            let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
            channel.basic_qos(1, Default::default()).await.expect("one at a time");
            let mut replies = channel
                .basic_consume(RESULTS.into(), "".into(), options, table)
                .await
                .expect("a consumer");
            for _ in 0..count {
                let delivery =
                    replies.next().await.expect("a delivery").expect("the broker goes on");
                delivery.ack(BasicAckOptions::default()).await.expect("ack");
                see(message(delivery));
            }
        };
        self.on_plain_channel(|channel| async move {
            tokio::time::timeout(limit, receive(channel)).await.expect("all replies in time");
        });
    }

    /// What lies in a queue, in order; it stays there (marked as redelivered). Empty for a queue
    /// that does not exist.
    pub(crate) fn leftovers(&self, queue: &str) -> Vec<Message> {
        if !self.queue_exists(queue) {
            return Vec::new();
        }
        self.on_plain_channel(|channel| async move {
            let mut messages = Vec::new();
            // Unacknowledged messages go back to the head of the queue, in order, when the channel
            // closes.
            while let Some(found) = channel
                .basic_get(queue.into(), BasicGetOptions::default())
                .await
                .expect("basic_get")
            {
                messages.push(message(found.delivery));
            }
            messages
        })
    }

    /// How many messages wait in a queue; `None` where there is no such queue.
    pub(crate) fn waiting(&self, queue: &str) -> Option<u32> {
        self.on_plain_channel(|channel| async move {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue =
                channel.queue_declare(queue.into(), passive, FieldTable::default()).await.ok()?;
            Some(queue.message_count())
        })
    }

    pub(crate) fn queue_exists(&self, queue: &str) -> bool {
        self.waiting(queue).is_some()
    }

    /// Declares a queue with arguments of the test's choice.
    pub(crate) fn declare(&self, queue: &str, options: QueueDeclareOptions) -> lapin::Result<()> {
        self.on_channel_of(queue, |channel| async move {
            channel.queue_declare(queue.into(), options, FieldTable::default()).await.map(drop)
        })
    }

    /// Declares a quorum queue that takes each message back so many times, and drops it then.
    pub(crate) fn declare_quorum(&self, queue: &str, limit: i32) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(limit));
        // Compared before the type, where somebody asks for that.
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1000));
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.on_channel_of(queue, |channel| async move {
            channel.queue_declare(queue.into(), options, arguments).await.expect("a quorum queue");
        });
    }

    /// Publishes to a queue as it is.
    pub(crate) fn publish_to(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        self.on_channel_of(queue, |channel| async move {
            channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let publish = channel.basic_publish("".into(), queue.into(), options, body, properties);
            let confirmed =
                publish.await.expect("the publish is sent").await.expect("the broker confirms");
            assert!(confirmed.take_message().is_none(), "there is no queue {queue}");
        });
    }

    /// Declares a queue that takes `length` messages and refuses the next with a negative
    /// confirmation.
    pub(crate) fn declare_with_room_for(&self, length: i32, queue: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(length));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        self.on_channel_of(queue, |channel| async move {
            let declared =
                channel.queue_declare(queue.into(), QueueDeclareOptions::default(), arguments);
            declared.await.expect("a queue with a limit")
        });
    }

    pub(crate) fn purge(&self, queue: &str) {
        self.on_plain_channel(|channel| async move {
            channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.expect("purge")
        });
    }

    pub(crate) fn delete(&self, queue: &str) {
        self.on_plain_channel(|channel| async move {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("delete")
        });
    }
}

/// Non-durable, non-exclusive, no auto-delete, on the default exchange.
async fn declare_as_rodan(channel: &Channel) {
    for queue in [JOBS, RESULTS] {
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::default(), FieldTable::default())
            .await
            .unwrap_or_else(|error| panic!("Rodan could not declare {queue}: {error}"));
    }
}

fn message(delivery: lapin::message::Delivery) -> Message {
    Message {
        body: delivery.data,
        properties: delivery.properties,
        redelivered: delivery.redelivered,
    }
}

fn on_channel<T, F: Future<Output = T>>(
    url: &str,
    tls: OwnedTLSConfig,
    work: impl FnOnce(Channel) -> F,
) -> lapin::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // The largest frame that a broker of these tests allows. Unless one is named, lapin fills a
    // buffer of 8 MiB with zeros for each connection, and every look at a queue is one.
    let url = &format!("{url}{}frame_max=262144", if url.contains('?') { '&' } else { '?' });
    runtime.block_on(async {
        let properties = ConnectionProperties::default();
        let connecting = async {
            match url.starts_with("amqps:") {
                true => {
                    let runtime = lapin::runtime::default_runtime()?;
                    Connection::connect_with_config(url, properties, tls, runtime).await
                }
                // Compiled with lapin, which is optimised, and not with the tests, which are not:
                // models are megabytes.
                false => Connection::connect(url, properties).await,
            }
        };
        let connection = tokio::time::timeout(Duration::from_secs(20), connecting)
            .await
            .unwrap_or_else(|_| panic!("no connection to the broker within 20 s"))?;
        let result = work(connection.create_channel().await?).await;
        // A test may have had its channel closed by the broker, which is no matter here.
        drop(connection.close(200, "done".into()).await);
        Ok(result)
    })
}

/// Where a run has more tests than the pool has vhosts: about two seconds.
fn add_vhost(services: &Services, name: &str) {
    let user = services.variable("HPC_TRAINER_TEST_AMQP_USER");
    for arguments in
        [vec!["add_vhost", name], vec!["set_permissions", "-p", name, user, ".*", ".*", ".*"]]
    {
        let output =
            Command::new(services.directory().join("broker/ctl")).args(&arguments).output();
        let output = output.expect("broker/ctl starts");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
