//! The HTTP front door for everyone without Rodan: upload pages, train them, watch, fetch models.
//!
//! By itself it trains on this machine, one run at a time, with the product's own trainer, and
//! needs neither broker nor scheduler. [`Store`] remembers; [`Runner`] trains through the interface
//! [`Trainer`]; [`serve`] answers programs (`/v1`) and browsers. With a broker, [`Asker`] sends the
//! trainings to a cluster and hears of them, and the gateway serves the cluster the runs' files.

mod address;
mod app;
mod asker;
mod comparison;
mod courses;
mod figures;
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod hosts;
mod http;
mod identity;
mod iiif;
mod intake;
mod job_files;
mod order;
mod outgoing;
mod page_files;
mod placing;
mod problem;
mod rates;
mod reach;
mod run_configuration;
mod runner;
mod state;
mod store;
mod thumbnail;
mod tracking;
mod upload_form;
mod web;

use std::future::{Future, IntoFuture as _};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use tokio::net::TcpListener;
use tracing::warn;

pub use app::{Limits, Serving};
pub use asker::Asker;
pub use http::openapi;
pub use identity::new_token;
pub use iiif::{IiifHosts, IiifHostsError};
pub use outgoing::ClientError;
pub use reach::Reach;
pub use runner::{Ended, LocalTrainer, RunFolder, Runner, StartError, Trainer, Training};
pub use store::{
    Account, BucketConfig, BucketError, BucketVariableError, DataFolder, Purged, Role, Store,
    StoreError,
};
pub use tracking::{Tracker, TrackerError, TrackingConfig, TrackingError};

use app::App;
use hosts::Hosts;

/// How long requests have that are served when the gateway ends; watchers go on for ever.
const GRACE: Duration = Duration::from_secs(3);

/// Serves requests until `end` comes.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    store: Arc<Store>,
    serving: Serving,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let hosts = Arc::new(Hosts::new(serving.hosts.clone()));
    let app = App::new(store, serving);
    let routes = Router::new()
        .merge(http::routes(&app))
        .merge(web::routes(&app))
        .merge(grpc::routes())
        .fallback(http::no_route)
        .method_not_allowed_fallback(http::no_method)
        .layer(middleware::from_fn_with_state(hosts, hosts::check))
        .layer(middleware::from_fn(http::guard))
        .with_state(app);
    let (ending, ended) = tokio::sync::oneshot::channel::<()>();
    let end = async move {
        end.await;
        drop(ending);
    };
    let served = axum::serve(listener, routes).with_graceful_shutdown(end).into_future();
    let late = async {
        let _ = ended.await; // the other side never sends: it is dropped
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = served => served,
        () = late => {
            warn!("some requests were still being served; they end now");
            Ok(())
        }
    }
}
