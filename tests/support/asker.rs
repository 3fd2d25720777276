//! The asker's side of a conversation: its reply queue, its job, what it hears, its cancel.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::wire::conversation::{Collector, Header, Kind, ModelPart, sha256};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};

use super::broker::{CONTROL, JOBS, Message, Vhost};

/// One job of the second contract, as its asker sees it.
pub(crate) struct Asker<'a> {
    vhost: &'a Vhost,
    pub(crate) id: String,
    pub(crate) queue: String,
}

/// How `hpc-jobs` is declared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Jobs {
    Durable,
    Quorum,
    /// As Rodan does.
    Transient,
}

impl<'a> Asker<'a> {
    /// Declares a reply queue of its own and publishes the job with `"protocol": 2`.
    pub(crate) fn ask(vhost: &'a Vhost, job: &Value) -> Self {
        Self::ask_in(vhost, job, Jobs::Durable)
    }

    pub(crate) fn ask_in(vhost: &'a Vhost, job: &Value, jobs: Jobs) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        let asker = Self { vhost, queue: format!("hpc-reply-{id}"), id };
        let mut job = job.clone();
        job["protocol"] = json!(2);
        vhost.on_channel_of(&asker.queue, |channel| {
            let (id, queue) = (asker.id.clone(), asker.queue.clone());
            async move {
                declare_reply_queue(&channel, &queue).await;
                declare_jobs(&channel, jobs).await;
                let properties = BasicProperties::default()
                    .with_reply_to(queue.as_str().into())
                    .with_correlation_id(id.as_str().into())
                    .with_delivery_mode(2);
                publish(&channel, JOBS, job.to_string().as_bytes(), properties).await;
            }
        });
        asker
    }

    /// An asker of a job that somebody else starts: a trainer by hand.
    pub(crate) fn listen(vhost: &'a Vhost, id: &str) -> Self {
        let asker = Self { vhost, queue: format!("hpc-reply-{id}"), id: id.to_owned() };
        let queue = asker.queue.as_str();
        vhost.on_channel_of(queue, |channel| async move {
            declare_reply_queue(&channel, queue).await;
        });
        asker
    }

    /// An asker of a job that was asked for before.
    pub(crate) fn known(vhost: &'a Vhost, id: &str, queue: &str) -> Self {
        Self { vhost, id: id.to_owned(), queue: queue.to_owned() }
    }

    /// Asks for the job to be cancelled.
    pub(crate) fn cancel(&self) {
        self.request(&json!({"cancel": self.id, "reply_to": self.queue}).to_string());
    }

    /// Sends any request.
    pub(crate) fn request(&self, body: &str) {
        self.vhost.on_channel_of(CONTROL, |channel| async move {
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel
                .queue_declare(CONTROL.into(), durable, FieldTable::default())
                .await
                .expect("declared");
            publish(
                &channel,
                CONTROL,
                body.as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await;
        });
    }

    /// Nobody asks any more.
    pub(crate) fn leave(&self) {
        self.vhost.delete(&self.queue);
    }

    /// Everything that has come so far, in order; it stays in the queue.
    pub(crate) fn heard(&self) -> Heard {
        Heard { messages: self.vhost.leftovers(&self.queue), id: self.id.clone() }
    }

    /// Waits for the end and gives everything. The models of a job are megabytes, so the queue is
    /// read only when it has grown.
    #[track_caller]
    pub(crate) fn wait_for_end(&self, limit: Duration) -> Heard {
        let mut known = 0;
        super::wait_for("the end of the conversation", limit, || {
            let waiting = self.vhost.waiting(&self.queue).unwrap_or(0);
            if std::mem::replace(&mut known, waiting) == waiting {
                return None;
            }
            let heard = self.heard();
            (!heard.ends().is_empty()).then_some(heard)
        })
    }
}

/// What an asker has heard.
pub(crate) struct Heard {
    pub(crate) messages: Vec<Message>,
    id: String,
}

fn kind(message: &Message) -> String {
    message.properties.kind().as_ref().map(ToString::to_string).unwrap_or_default()
}

fn message_id(message: &Message) -> String {
    message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default()
}

impl Heard {
    /// The types, in order.
    pub(crate) fn kinds(&self) -> Vec<String> {
        self.messages.iter().map(kind).collect()
    }

    pub(crate) fn of_kind(&self, wanted: Kind) -> Vec<&Message> {
        self.messages.iter().filter(|message| kind(message) == wanted.word()).collect()
    }

    /// The states, in order, each once.
    pub(crate) fn states(&self) -> Vec<String> {
        let mut states: Vec<String> = self
            .of_kind(Kind::State)
            .iter()
            .map(|message| message.json()["state"].as_str().unwrap().to_owned())
            .collect();
        states.dedup();
        states
    }

    /// That these states were told in this order, perhaps with others between them.
    #[track_caller]
    pub(crate) fn assert_states_in_order(&self, wanted: &[&str]) {
        let states = self.states();
        let mut told = states.iter();
        for state in wanted {
            assert!(told.any(|told| told == state), "no {state} where it belongs: {states:?}");
        }
    }

    /// The ends, of which copies with the same id count once.
    pub(crate) fn ends(&self) -> Vec<&Message> {
        let mut ends: Vec<&Message> = Vec::new();
        for message in &self.messages {
            let is_end = Kind::from_word(&kind(message)).is_some_and(Kind::is_end);
            if is_end && !ends.iter().any(|end| message_id(end) == message_id(message)) {
                ends.push(message);
            }
        }
        ends
    }

    /// The one end.
    #[track_caller]
    pub(crate) fn end(&self) -> Value {
        let ends = self.ends();
        assert_eq!(ends.len(), 1, "one end: {:?}", self.kinds());
        ends[0].json()
    }

    /// What every asker may rely on, whatever became of the job: properties, one end, nothing but
    /// copies after it, copies with the ids of the first.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for message in &self.messages {
            let properties = &message.properties;
            assert_eq!(message.correlation_id(), Some(self.id.as_str()));
            assert_eq!(*properties.delivery_mode(), Some(2));
            assert!(properties.timestamp().is_some() && properties.expiration().is_none());
            let app = properties.app_id().as_ref().map(ToString::to_string).unwrap_or_default();
            assert!(app.starts_with("hpc-trainer/"), "{app}");
            assert!(Kind::from_word(&kind(message)).is_some(), "{}", kind(message));
            let id = message_id(message);
            assert_eq!(id.len(), 32, "{id}");
            let body = seen.entry(id).or_insert_with(|| message.body.clone());
            assert!(*body == message.body, "two contents with one id");
        }
        let ends = self.ends();
        assert_eq!(ends.len(), 1, "one end: {:?}", self.kinds());
        let last = self.messages.last().unwrap();
        assert!(
            Kind::from_word(&kind(last)).unwrap().is_end(),
            "the end is last: {:?}",
            self.kinds()
        );
        // Nothing was sent twice under two names.
        let mut contents: BTreeMap<String, String> = BTreeMap::new();
        for message in &self.messages {
            let content = format!(
                "{} {:?} {}",
                kind(message),
                message.properties.headers(),
                sha256(&message.body)
            );
            let id = contents.entry(content).or_insert_with(|| message_id(message));
            assert_eq!(*id, message_id(message), "one content under two ids");
        }
    }

    /// That each epoch of `training.json` was told before, with its figures.
    #[track_caller]
    pub(crate) fn assert_curves(&self) {
        let mut told: BTreeMap<(String, u64), Value> = BTreeMap::new();
        for message in self.of_kind(Kind::Progress) {
            for epoch in message.json()["ended_epochs"].as_array().into_iter().flatten() {
                let key = (epoch["layer"].as_str().unwrap().to_owned(), number(&epoch["epoch"]));
                told.insert(key, figures(epoch, &epoch["validation"], ""));
            }
        }
        let is_record = |message: &&&Message| {
            let headers = message.properties.headers().as_ref().map(|headers| headers.inner());
            let name = headers.and_then(|headers| headers.get("name"));
            name == Some(&AMQPValue::LongString("training.json".into()))
        };
        let reports = self.of_kind(Kind::Report);
        let record = reports.iter().find(is_record).expect("training.json").json();
        let mut recorded = 0;
        for layer in record["layers"].as_array().unwrap() {
            let model = layer["figures"]["model"].as_str().unwrap();
            for epoch in layer["history"].as_array().unwrap() {
                let key = (model.to_owned(), number(&epoch["epoch"]));
                let figures = figures(epoch, epoch, "validation_");
                assert_eq!(told.get(&key), Some(&figures), "{key:?}: {told:#?}");
                recorded += 1;
            }
        }
        assert!(recorded > 0, "{record}");
    }

    /// The models by name, put together from their parts.
    #[track_caller]
    pub(crate) fn models(&self) -> BTreeMap<String, Vec<u8>> {
        let (mut collector, mut models) = (Collector::default(), BTreeMap::new());
        for message in self.of_kind(Kind::Model) {
            let headers = message.properties.headers().clone().expect("headers");
            let part = ModelPart::read(|name| match headers.inner().get(name)? {
                AMQPValue::LongString(text) => Some(Header::Text(text.to_string())),
                AMQPValue::LongLongInt(number) => Some(Header::Number(*number)),
                _ => None,
            });
            if let Some(model) =
                collector.take(&part.expect("a part"), &message.body).expect("it fits")
            {
                models.insert(model.name, model.file);
            }
        }
        assert_eq!(collector.unfinished().count(), 0, "no model is left half");
        models
    }

    /// That the models which the end lists have come, whole.
    #[track_caller]
    pub(crate) fn assert_models(&self, names: &[&str]) {
        let (end, models) = (self.end(), self.models());
        let listed = end["models"].as_array().unwrap_or_else(|| panic!("no models: {end}"));
        let of = |key: &str| listed.iter().map(|m| m[key].clone()).collect::<Vec<_>>();
        assert_eq!(of("name"), names);
        for model in listed {
            let file = &models[model["name"].as_str().unwrap()];
            assert_eq!(model["sha256"], sha256(file));
            assert_eq!(model["size"], file.len());
            assert!(file.starts_with(b"\x89HDF\r\n\x1a\n"), "{model} is no HDF5 file");
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// What an epoch came to, whoever tells it.
fn figures(epoch: &Value, validation: &Value, prefix: &str) -> Value {
    let name = |name: &str| format!("{prefix}{name}");
    json!([
        epoch["training_loss"],
        validation[name("loss")],
        validation[name("accuracy")],
        validation[name("f1")],
        epoch["best"],
        epoch["seconds"],
    ])
}

async fn declare_reply_queue(channel: &Channel, queue: &str) {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(14 * 24 * 3_600_000));
    channel.queue_declare(queue.into(), durable, arguments).await.expect("a reply queue");
}

async fn declare_jobs(channel: &Channel, jobs: Jobs) {
    let mut arguments = FieldTable::default();
    if let Jobs::Quorum = jobs {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    }
    let durable = !matches!(jobs, Jobs::Transient);
    let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
    channel.queue_declare(JOBS.into(), options, arguments).await.expect("hpc-jobs");
}

async fn publish(channel: &Channel, queue: &str, body: &[u8], properties: BasicProperties) {
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish("".into(), queue.into(), options, body, properties).await;
    let confirmed = sent.expect("the publish is sent").await.expect("the broker confirms");
    assert!(matches!(confirmed, lapin::Confirmation::Ack(None)), "no queue took it");
}
