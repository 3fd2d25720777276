//! What Rodan does with a workflow that trains: publish a job, wait for the reply, keep the models.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base::exit_code::ExitCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use contract::broker::BrokerConfig;
use contract::broker::{DEFAULT_REPLY_QUEUE, JOBS_QUEUE};
use domain::{InputKind, Layer};
use futures_util::StreamExt as _;
use hpc_trainer::cli::local::{FolderError, find_page};
use hpc_trainer::config::{Config, ConfigError, Sources};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use page_layers::PageInputs;
use serde_json::{Map, Value, json};
use thiserror::Error;
use uuid::Uuid;

/// What Rodan's form asks for, where the page's `settings.json` says nothing else.
const FORM: [(&str, u64); 7] = [
    ("Maximum number of training epochs", 15),
    ("Maximum number of samples per label", 2000),
    ("Patch height", 256),
    ("Patch width", 256),
    ("Batch Size", 16),
    ("Patience", 3),
    ("Maximum memory (MB)", 6000),
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder of the page: image.png, background.png, layer_N.png, regions.png, settings.json
    page: PathBuf,
    /// The directory that `serve` serves
    #[arg(long, value_name = "DIR")]
    uploads: PathBuf,
    /// Where the models go, in a directory named like the job
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// RabbitMQ's address, user and password
    #[arg(long, value_name = "FILE", default_value = "credentials.env")]
    env_file: PathBuf,
    /// Cores to ask for
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u64,
}

#[derive(Debug, Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{}: is not a JSON object of settings: {source}", path.display())]
    Settings { path: PathBuf, source: serde_json::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("RabbitMQ: {0}")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ has ended the connection; the job goes on if it was taken")]
    Gone,
    #[error("the reply is not what Rodan takes: {0}")]
    Reply(String),
}

impl SendError {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Folder(_) | Self::Settings { .. } | Self::File { .. } => ExitCode::Input,
            Self::Config(_) => ExitCode::Config,
            Self::Broker(_) | Self::Gone => ExitCode::Broker,
            Self::Reply(_) => ExitCode::Internal,
        }
    }
}

/// Sends the page and waits. The job's correlation id is printed as soon as it is in the queue, then the directory of its
/// models, or the error that Rodan would show.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, SendError> {
    let page = find_page(&arguments.page)?;
    let id = Uuid::new_v4().to_string();
    let body = json!({
        "inputs": upload(&page, &arguments.uploads, &id)?,
        "settings": settings(&arguments.page.join("settings.json"), arguments.cpus)?,
    });
    // A demonstration reads the file it is given and nothing else.
    let sources = Sources { env_file: Some(&arguments.env_file), environment: BTreeMap::new() };
    let config = Config::load(&sources, None)?;
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| SendError::File { path, source }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(file(Path::new("the runtime")))?;
    let reply = runtime.block_on(publish_and_wait(&config.broker, &id, &body))?;

    let reply: BTreeMap<String, String> =
        serde_json::from_slice(&reply).map_err(|error| SendError::Reply(error.to_string()))?;
    if let Some(error) = reply.get("error") {
        println!("error {error}");
        return Ok(ExitCode::Training);
    }
    let directory = arguments.out.join(&id);
    std::fs::create_dir_all(&directory).map_err(file(&directory))?;
    for (name, text) in &reply {
        let bytes = STANDARD.decode(text).map_err(|error| SendError::Reply(format!("{name}: {error}")))?;
        let path = directory.join(format!("{name}.hdf5"));
        std::fs::write(&path, bytes).map_err(file(&path))?;
    }
    println!("models {}", directory.display());
    Ok(ExitCode::Success)
}

/// Puts the page's images where the server finds them, and gives the job's inputs.
fn upload(page: &PageInputs, uploads: &Path, id: &str) -> Result<Map<String, Value>, SendError> {
    let mut images =
        vec![(InputKind::Image, &page.image), (InputKind::Layer(Layer::Background), &page.background)];
    images.extend(page.regions.iter().map(|path| (InputKind::Regions, path)));
    images.extend(page.layers.iter().map(|(layer, path)| (InputKind::Layer(*layer), path)));
    let directory = uploads.join(id);
    std::fs::create_dir_all(&directory)
        .map_err(|source| SendError::File { path: directory.clone(), source })?;
    let mut inputs = Map::new();
    for (kind, path) in images {
        let name = path.file_name().unwrap_or_default();
        std::fs::copy(path, directory.join(name))
            .map_err(|source| SendError::File { path: path.clone(), source })?;
        inputs.insert(kind.to_string(), json!(format!("/uploads/{id}/{}", name.to_string_lossy())));
    }
    Ok(inputs)
}

/// The form as a user leaves it: the page's own settings over what stands there at first.
fn settings(path: &Path, cpus: u64) -> Result<Map<String, Value>, SendError> {
    let mut settings: Map<String, Value> =
        FORM.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    settings.insert("CPUs".into(), json!(cpus));
    settings.insert("Maximum time (D-HH:MM)".into(), json!("0-01:00"));
    settings.insert("Slurm Notification Email".into(), json!(""));
    match std::fs::read(path) {
        Ok(text) => {
            let own: Map<String, Value> = serde_json::from_slice(&text)
                .map_err(|source| SendError::Settings { path: path.to_owned(), source })?;
            settings.extend(own);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(SendError::File { path: path.to_owned(), source }),
    }
    Ok(settings)
}

/// As Rodan does it: both queues declared, the job published with `reply_to` and `correlation_id`, and the reply queue
/// consumed, where every reply with another id is put back.
async fn publish_and_wait(config: &BrokerConfig, id: &str, body: &Value) -> Result<Vec<u8>, SendError> {
    let connection = connect(config).await?;
    let channel = connection.create_channel().await?;
    for queue in [JOBS_QUEUE, DEFAULT_REPLY_QUEUE] {
        channel.queue_declare(queue.into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
    }
    publish(&channel, id, body).await?;
    println!("published {id}");

    let mut replies = channel
        .basic_consume(
            DEFAULT_REPLY_QUEUE.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    while let Some(delivery) = replies.next().await {
        let delivery = delivery?;
        if delivery.properties.correlation_id().as_ref().is_some_and(|found| found.as_str() == id) {
            delivery.ack(BasicAckOptions::default()).await?;
            drop(connection.close(200, "done".into()).await); // the reply is here
            return Ok(delivery.data);
        }
        // Rodan puts it back at once; here that would only take cores from the training.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        delivery.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?;
    }
    Err(SendError::Gone)
}

async fn publish(channel: &Channel, id: &str, body: &Value) -> lapin::Result<()> {
    let properties =
        BasicProperties::default().with_reply_to(DEFAULT_REPLY_QUEUE.into()).with_correlation_id(id.into());
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let body = body.to_string();
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), JOBS_QUEUE.into(), options, body.as_bytes(), properties);
    sent.await?.await.map(drop)
}

async fn connect(config: &BrokerConfig) -> lapin::Result<Connection> {
    let address = &config.address;
    if address.tls {
        base::tls::install_provider();
    }
    let uri = AMQPUri {
        scheme: if address.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: config.user.clone(),
                password: config.password.expose().to_owned(),
            },
            host: address.host.clone(),
            port: address.port,
        },
        vhost: address.vhost.clone(),
        query: AMQPQueryString::default(),
    };
    Connection::connect_uri(uri, ConnectionProperties::default()).await
}
