//! `gateway`: pages are uploaded, trained on this machine or by a cluster, and their models
//! fetched, by browser or program.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gateway::{
    Asker, BucketConfig, BucketVariableError, DataFolder, IiifHosts, IiifHostsError, Limits,
    LocalTrainer, Reach, Role, Runner, Store, StoreError, Tracker, TrackerError, TrackingConfig,
    TrackingError,
};
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::config::{ConfigError, GatewayVariables, Sources, broker};
use base::address::{AddressError, BrokerAddress};
use base::exit_code::ExitCode;
use base::files::Replace;
use base::harden;
use base::secret::Secret;
use contract::broker::BrokerConfig;
use terminal::Verbosity;
use terminal::{fail, print, say};

/// A front door for everyone without Rodan: upload pages, train them, watch, fetch models
///
/// Without a command: serves browsers and programs, and trains on this machine, one run at a time.
/// Needs no broker, no Slurm and no configuration. Prints the link to open or, where that would
/// not go to a terminal, the file that has it. With --broker a cluster trains: the jobs go to
/// RabbitMQ, where check takes them.
#[derive(Debug, Parser)]
#[command(
    name = "gateway",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 ended as it was told to, 1 internal fault, 2 command line, 3 a variable or \
credentials.env is wrong, 7 the data folder can't be used or another gateway works with it, or an \
account is not there or is there already, 11 the address can't be listened at, or there is no \
program that trains."
)]
pub struct Arguments {
    /// Folder of everything that is kept; made when it is not there
    #[arg(long, value_name = "DIR", default_value = "gateway-data", global = true)]
    data: PathBuf,
    /// File of the variables: RabbitMQ, S3, MLflow, IIIF [default: credentials.env in the current
    /// directory, where there is one]. The environment wins
    #[arg(long, value_name = "FILE", global = true)]
    env_file: Option<PathBuf>,
    #[command(flatten)]
    serving: Serving,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Debug, Args)]
struct Serving {
    /// Address and port to listen at; port 0: any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9090")]
    listen: SocketAddr,
    /// A proxy on this machine or in its network adds TLS; without it only this machine is served
    #[arg(long)]
    behind_proxy: bool,
    /// A name by which browsers and programs reach it, besides localhost and its addresses; may be
    /// given again. Behind a proxy, without this, any name does
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Calls of gRPC need no token, as clients of other training services send none; this machine's
    /// users can train then
    #[arg(long, conflicts_with = "behind_proxy")]
    grpc_without_token: bool,
    /// The program that trains [default: run_trainer beside this program]
    #[arg(long, value_name = "FILE")]
    trainer: Option<PathBuf>,
    /// Have a cluster train: jobs go to RabbitMQ at this address, such as amqps://HOST:PORT/VHOST,
    /// or at RABBITMQ_HOST where none is given. User and password are RABBITMQ_USER and
    /// RABBITMQ_PASSWORD, in credentials.env or the environment
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "")]
    broker: Option<String>,
    /// Most megabytes of an upload
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    max_upload: u64,
    /// Most requests of an account a second; five times as many may come at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_requests: u32,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accounts, each with a token
    Account {
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Write a copy of the store's file, also while a gateway works with it; copy the folder
    /// objects/ afterwards
    Backup {
        /// The new file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Remove runs that were over for some time, and the pages and files that nothing needs then
    Purge {
        /// How long they were over, such as 90d
        #[arg(long, value_name = "DAYS", value_parser = days)]
        older: u32,
    },
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Make an account and print its token, or a bridge's password, which is shown this once
    Add {
        /// Its name
        name: String,
        /// What it may do
        #[arg(long, value_enum, default_value = "submitter")]
        role: RoleName,
    },
    /// List the accounts
    List,
    /// Remove an account; its runs stay
    Remove {
        /// Its name
        name: String,
    },
}

/// The roles, as the command line names them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// Looks at everything
    Viewer,
    /// Uploads and trains; sees its own
    Submitter,
    /// Everything
    Admin,
    /// Fetches the files of jobs for a cluster: RODAN_USER and RODAN_PASSWORD of check
    Bridge,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Viewer => Self::Viewer,
            RoleName::Submitter => Self::Submitter,
            RoleName::Admin => Self::Admin,
            RoleName::Bridge => Self::Bridge,
        }
    }
}

/// Why the gateway can't do what it was told.
#[derive(Debug, Error)]
enum GatewayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "--listen {0}: other machines would reach it without TLS; put a proxy with TLS before it \
        and say so with --behind-proxy, or listen at 127.0.0.1"
    )]
    Open(SocketAddr),
    #[error("{0}: can't be listened at: {1}; choose another port with --listen")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error(
        "{}: there is no such program; give the program that trains with --trainer", .0.display()
    )]
    NoTrainer(PathBuf),
    #[error(
        "--broker: the address must not hold a user name or a password, which everybody on this \
        machine can read in the list of processes; write them as RABBITMQ_USER and \
        RABBITMQ_PASSWORD into credentials.env, and change the password"
    )]
    BrokerUser,
    #[error("--broker: the address {0}")]
    Broker(AddressError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bucket(#[from] BucketVariableError),
    #[error(transparent)]
    Iiif(#[from] IiifHostsError),
    #[error(transparent)]
    Tracking(#[from] TrackingError),
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    #[error("{0}")]
    Name(&'static str),
    #[error("--older {0}d: no run is that old; give fewer days, such as 90d")]
    Older(u32),
    #[error("the gateway can't work: {0}")]
    System(#[from] std::io::Error),
}

impl GatewayError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store(_) => ExitCode::Spool,
            Self::Open(_) | Self::Name(_) | Self::Older(_) | Self::BrokerUser | Self::Broker(_) => {
                ExitCode::Usage
            }
            Self::Config(_)
            | Self::Bucket(_)
            | Self::Iiif(_)
            | Self::Tracking(_)
            | Self::Tracker(_) => ExitCode::Config,
            Self::Listen(..) | Self::NoTrainer(_) => ExitCode::Input,
            Self::System(_) => ExitCode::Internal,
        }
    }
}

/// Runs `gateway` and returns its exit code.
pub fn run(arguments: &Arguments) -> ExitCode {
    arguments.verbosity.start(tracing::Level::INFO);
    harden::process();
    harden::files();
    let sources = Sources::of_process(arguments.env_file.as_deref());
    let done = match &arguments.command {
        None => serve(&arguments.data, &arguments.serving, &sources),
        Some(command) => command.run(&arguments.data, &sources),
    };
    match done {
        Ok(()) => ExitCode::Success,
        Err(error) => fail("gateway", error.exit_code(), &error),
    }
}

fn serve(data: &Path, serving: &Serving, sources: &Sources<'_>) -> Result<(), GatewayError> {
    let local = serving.listen.ip().is_loopback();
    if !local && !serving.behind_proxy {
        return Err(GatewayError::Open(serving.listen));
    }
    let broker = serving.broker(sources)?;
    let variables = GatewayVariables::load(sources)?;
    let iiif = IiifHosts::parse(&variables.get("ALLOWED_IIIF_HOSTS").unwrap_or_default())?;
    let tracking = TrackingConfig::from_variables(|name| variables.get(name))?;
    if tracking.as_ref().is_some_and(TrackingConfig::is_exposed) {
        warn!("MLflow has no TLS: its password or token crosses the network in the clear");
    }
    let trainer = match &serving.trainer {
        Some(trainer) => trainer.clone(),
        None => std::env::current_exe()?.with_file_name("run_trainer"),
    };
    let trainer = trainer.canonicalize().map_err(|_| GatewayError::NoTrainer(trainer))?;
    let folder = DataFolder::at(data)?;
    let _lock = folder.lock()?;
    let reach = Reach::default();
    let mut store = with_its_objects(Store::open(&folder)?, &variables)?;
    if broker.is_some() {
        store = store.with_broker(&reach);
    }
    if let Some(tracking) = &tracking {
        store = store.with_tracking(&tracking.address().to_string());
    }
    let store = Arc::new(store);
    store.tidy()?;
    // Behind a proxy everybody has an account, and what is printed may go to a log.
    let token = (local && !serving.behind_proxy).then(gateway::new_token);
    store.set_account("local", Role::Admin, token.as_ref())?;
    let limits = Limits {
        upload_bytes: serving.max_upload.saturating_mul(1_000_000),
        requests: serving.max_requests,
        ..Limits::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        // Before anybody can know the address.
        let end = ending()?;
        let listener = TcpListener::bind(serving.listen)
            .await
            .map_err(|error| GatewayError::Listen(serving.listen, error))?;
        let address = listener.local_addr()?;
        let runner = Runner::start(Arc::clone(&store), Box::new(LocalTrainer::new(&trainer)));
        let asker = broker.map(|broker| Asker::start(Arc::clone(&store), broker, reach));
        let asker = asker.transpose()?;
        let tracker = tracking.map(|config| Tracker::start(Arc::clone(&store), config));
        let tracker = tracker.transpose()?;
        announce(&folder, address, token.as_ref())?;
        let serving = gateway::Serving {
            limits,
            behind_proxy: serving.behind_proxy,
            open_grpc: serving.grpc_without_token,
            hosts: (!serving.behind_proxy || !serving.host.is_empty())
                .then(|| serving.host.clone()),
            iiif,
        };
        let served = gateway::serve(listener, store, serving, end).await;
        info!(
            "ending: a training writes its checkpoint, and goes on when the gateway starts again"
        );
        let stopped = tokio::task::spawn_blocking(move || {
            if let Some(tracker) = tracker {
                tracker.stop();
            }
            if let Some(asker) = asker {
                asker.stop();
            }
            runner.stop();
        });
        let stopped = stopped.await;
        served.and(stopped.map_err(std::io::Error::other)).map_err(GatewayError::from)
    });
    // Work that still goes on belongs to requests that nobody waits for any more.
    runtime.shutdown_background();
    let _ = std::fs::remove_file(folder.link()); // the next one has another token
    served
}

/// A store with its objects where the variables say.
fn with_its_objects(store: Store, variables: &GatewayVariables) -> Result<Store, GatewayError> {
    let bucket = BucketConfig::from_variables(|name| variables.get(name))?;
    let Some(bucket) = bucket else { return Ok(store) };
    if bucket.is_exposed() {
        warn!("S3 has no TLS: pages and models cross the network in the clear");
    }
    Ok(store.with_bucket(&bucket)?)
}

/// Says where the gateway is. What is not read by a person at a terminal may be kept, by systemd's
/// journal for one: the token goes into a file then, for this account alone.
fn announce(
    folder: &DataFolder,
    address: SocketAddr,
    token: Option<&Secret>,
) -> Result<(), GatewayError> {
    let Some(token) = token else {
        say(&format_args!("listening at {address}, behind a proxy"));
        return Ok(());
    };
    let link = format!("http://{address}/?token={}", token.expose());
    if std::io::stdout().is_terminal() {
        say(&format_args!("open {link}"));
        return Ok(());
    }
    let path = folder.link();
    Replace::NOTE.write(&path, format!("{link}\n").as_bytes())?;
    say(&format_args!("listening at http://{address}; open the link in {}", path.display()));
    Ok(())
}

impl Serving {
    /// How RabbitMQ is reached, where a cluster trains.
    fn broker(&self, sources: &Sources<'_>) -> Result<Option<BrokerConfig>, GatewayError> {
        let Some(address) = &self.broker else { return Ok(None) };
        let address = Some(address.as_str()).filter(|address| !address.is_empty());
        match address.map(BrokerAddress::parse) {
            Some(Err(AddressError::UserInfo)) => return Err(GatewayError::BrokerUser),
            Some(Err(error)) => return Err(GatewayError::Broker(error)),
            Some(Ok(_)) | None => {}
        }
        let broker = broker(sources, address)?;
        if broker.address.is_exposed() {
            warn!(
                "RabbitMQ has no TLS: its password crosses the network in the clear; write {}",
                broker.address.with_tls()
            );
        }
        Ok(Some(broker))
    }
}

/// Comes with Ctrl-C or SIGTERM.
fn ending() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

impl Command {
    fn run(&self, data: &Path, sources: &Sources<'_>) -> Result<(), GatewayError> {
        let folder = DataFolder::at(data)?;
        match self {
            Self::Account { command } => command.run(&Store::open(&folder)?),
            Self::Backup { file } => {
                Store::open(&folder)?.backup(file)?;
                say(&format_args!("{} is written; now copy objects/", file.display()));
                Ok(())
            }
            Self::Purge { older } => {
                let before = days_before(Timestamp::now(), *older)?;
                let _lock = folder.lock()?;
                let variables = GatewayVariables::load(sources)?;
                let store = with_its_objects(Store::open(&folder)?, &variables)?;
                let purged = store.purge(before)?;
                say(&format_args!(
                    "removed {} runs, {} pages and {} files",
                    purged.runs, purged.pages, purged.objects
                ));
                Ok(())
            }
        }
    }
}

impl AccountCommand {
    fn run(&self, store: &Store) -> Result<(), GatewayError> {
        match self {
            Self::Add { name, role } => {
                if name == "local" || !(1..=60).contains(&name.len()) {
                    return Err(GatewayError::Name(
                        "an account's name has 1 to 60 characters and is not \"local\", which \
                         is the account of the printed link",
                    ));
                }
                let token = gateway::new_token();
                store.add_account(name, (*role).into(), &token)?;
                say(&token.expose());
            }
            Self::List => {
                let mut text = String::new();
                for account in store.accounts()? {
                    let (role, at) = (account.role.name(), account.created_at);
                    text += &format!("{:<20} {role:<10} {at}\n", account.name);
                }
                let _ = print(&text); // a list that nobody reads changes nothing
            }
            Self::Remove { name } => store.remove_account(name)?,
        }
        Ok(())
    }
}

/// The time so many days before `now`.
fn days_before(now: Timestamp, days: u32) -> Result<Timestamp, GatewayError> {
    let age = SignedDuration::from_hours(i64::from(days) * 24);
    now.checked_sub(age).map_err(|_| GatewayError::Older(days))
}

/// `90d`, or `90`.
fn days(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('d').unwrap_or(text);
    number.parse().map_err(|_| "write it in days, such as 90d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_old_as_there_are_dates_for() {
        let now: Timestamp = "2026-04-11T00:00:00Z".parse().unwrap();
        let of = |text: &str| days_before(now, days(text).unwrap());
        assert_eq!(of("0d").unwrap(), now);
        assert_eq!(of("90").unwrap().to_string(), "2026-01-11T00:00:00Z");
        for text in ["9999999d", "4294967295d"] {
            let error = of(text).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Usage);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(days("4294967296d").is_err() && days("-1d").is_err());
    }
}
