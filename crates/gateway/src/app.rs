//! What all requests share.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::Semaphore;
use tracing::error;

use crate::iiif::IiifHosts;
use crate::problem::Problem;
use crate::rates::Rates;
use crate::store::{Store, StoreError};

/// How much is taken from whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of an upload.
    pub upload_bytes: u64,
    /// Most bytes of any other request.
    pub body_bytes: usize,
    /// Most runs of one account that may wait.
    pub waiting_runs: u64,
    /// Most uploads at a time.
    pub uploads: usize,
    /// Most watchers of events at a time.
    pub watchers: usize,
    /// Most zips that are sent at a time, each by a thread of its own.
    pub zips: usize,
    /// Most requests of an account a second; five times as many may come at once.
    pub requests: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload_bytes: 1 << 30,
            body_bytes: 256 << 10,
            waiting_runs: 200,
            uploads: 16,
            watchers: 500,
            zips: 16,
            requests: 50,
        }
    }
}

/// How requests are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// How much is taken.
    pub limits: Limits,
    /// Whether browsers reach this gateway by TLS, through a proxy.
    pub behind_proxy: bool,
    /// Whether calls of gRPC may come without a token: they are this machine's user's then.
    pub open_grpc: bool,
    /// The names by which it is reached besides `localhost` and its addresses; `None`: any.
    pub hosts: Option<Vec<String>>,
    /// The servers from which images of pages may be fetched.
    pub iiif: IiifHosts,
}

/// What all requests share; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The store.
    pub store: Arc<Store>,
    /// How much is taken.
    pub limits: Limits,
    /// Whether browsers reach this gateway by TLS, through a proxy.
    pub behind_proxy: bool,
    /// Whether calls of gRPC may come without a token.
    pub open_grpc: bool,
    /// One for each upload that may come in at a time.
    pub uploads: Arc<Semaphore>,
    /// One page is decoded at a time: a page of 100 megapixels takes 300 MB and more.
    pub decoding: Arc<Semaphore>,
    /// One for each watcher of events.
    pub watchers: Arc<Semaphore>,
    /// One for each zip that is sent to an account.
    pub zips: Arc<Semaphore>,
    /// One for each zip that is sent to a cluster, which no account shall keep waiting.
    pub job_zips: Arc<Semaphore>,
    /// How often each account may ask.
    pub rates: Arc<Rates>,
    /// The servers from which images of pages may be fetched.
    pub iiif: Arc<IiifHosts>,
}

impl App {
    /// Over this store.
    pub(crate) fn new(store: Arc<Store>, serving: Serving) -> Self {
        let Serving { limits, behind_proxy, open_grpc, hosts: _, iiif } = serving;
        Self {
            store,
            limits,
            behind_proxy,
            open_grpc,
            uploads: Arc::new(Semaphore::new(limits.uploads)),
            decoding: Arc::new(Semaphore::new(1)),
            watchers: Arc::new(Semaphore::new(limits.watchers)),
            zips: Arc::new(Semaphore::new(limits.zips)),
            job_zips: Arc::new(Semaphore::new(limits.zips)),
            rates: Arc::new(Rates::new(limits.requests)),
            iiif: Arc::new(iiif),
        }
    }

    /// Asks the store on a thread that may wait.
    ///
    /// # Errors
    /// What the store says, as a problem document.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = Arc::clone(&self.store);
        blocking(move || ask(&store)).await?.map_err(Problem::from)
    }
}

/// Does work that takes long on a thread of its own.
///
/// # Errors
/// When the work panics: a fault of the program.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        // The words of a panic may hold a secret. Where it was is told when it happens.
        error!("a request ended by a fault of the program; the line before says where");
        let what = "a fault of the gateway; its log says more";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what)
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write as _};
    use std::path::Path;
    use std::sync::Mutex;

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::store::DataFolder;

    impl App {
        /// Over a new store in this folder.
        pub(crate) fn in_folder(folder: &Path, limits: Limits) -> Self {
            let folder = DataFolder::at(&folder.join("data")).unwrap();
            let store = Arc::new(Store::open(&folder).unwrap());
            Self::new(store, Serving { limits, ..Serving::default() })
        }
    }

    /// What is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<String>>);

    impl Visit for Log {
        fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
            writeln!(self.0.lock().unwrap(), "{value:?}").unwrap();
        }
    }

    impl Subscriber for Log {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn the_words_of_a_panic_are_not_logged() {
        let log = Log::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let work = || -> u8 { panic!("the token is {}", "t0k3n") };
        let fault = tracing::subscriber::with_default(log.clone(), || {
            runtime.block_on(blocking(work)).unwrap_err()
        });
        assert_eq!(fault.status, 500);
        let text = log.0.lock().unwrap().clone();
        assert!(text.contains("the line before says where"), "{text}");
        assert!(!text.contains("t0k3n"), "{text}");
    }
}
