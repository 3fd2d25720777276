//! gRPC on the same port: `training.TrainingService` as other training services have it, health,
//! and reflection.

mod description;
mod job;
mod messages;

use std::pin::Pin;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any_service, post};
use base::secret::Secret;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tracing::error;

use crate::app::App;
use crate::identity::of_token;
use crate::order;
use crate::placing;
use crate::problem::Problem;
use crate::store::Account;
use messages::{StatusRequest, StatusResponse, TrainRequest, TrainResponse};

/// Most bytes of a request.
const MOST: usize = 256 << 10;

/// All routes of gRPC. Health and reflection need no token: they say what `/healthz` and
/// `/openapi.json` say.
pub(crate) fn routes() -> Router<App> {
    let (reporter, health) = tonic_health::server::health_reporter();
    // It serves as long as the program runs.
    tokio::spawn(async move {
        let serving = tonic_health::ServingStatus::Serving;
        reporter.set_service_status(description::SERVICE, serving).await;
    });
    let service = |method: &str| format!("/{}/{method}", description::SERVICE);
    let mut routes = Router::new()
        .route(&service("Train"), post(train))
        .route(&service("GetTrainingStatus"), post(status))
        .route("/grpc.health.v1.Health/{method}", any_service(health));
    // Clients ask for the first, older ones for the second.
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(description::files())
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (described().build_v1(), described().build_v1alpha()) {
        (Ok(new), Ok(old)) => {
            let path =
                |version: &str| format!("/grpc.reflection.{version}.ServerReflection/{{method}}");
            routes = routes.route(&path("v1"), any_service(new));
            routes = routes.route(&path("v1alpha"), any_service(old));
        }
        (Err(fault), _) | (_, Err(fault)) => error!("there is no reflection: {fault}"),
    }
    routes
}

async fn train(State(app): State<App>, request: Request) -> Response {
    unary::<TrainRequest, _, _, _>(request, move |by, request| train_one(app.clone(), by, request))
        .await
}

async fn status(State(app): State<App>, request: Request) -> Response {
    unary::<StatusRequest, _, _, _>(request, move |by, request| tell(app.clone(), by, request))
        .await
}

async fn train_one(
    app: App,
    by: MetadataMap,
    request: TrainRequest,
) -> Result<TrainResponse, Status> {
    let account = account(&app, &by).await?;
    if !account.role.may_submit() {
        let what = "a viewer's account can look, but not upload or train";
        return Err(Status::permission_denied(what));
    }
    let metadata = request.metadata.unwrap_or_default();
    if let Some(field) = job::missing(&metadata) {
        return Err(Status::invalid_argument(format!("\"{field}\" is required.")));
    }
    let pages = pages(&app, &account, &metadata.dataset_id).await?;
    let asked = job::request(&metadata, &pages).map_err(Status::invalid_argument)?;
    let order = order::read(&asked).map_err(|wrong| refusal(&Problem::fields(wrong)))?;
    let placed = placing::place(&app, account, order, None).await;
    let run = placed.map_err(|problem| refusal(&problem))?;
    let number = run.and_then(|run| i32::try_from(run.id).ok());
    let job_id = number.ok_or_else(|| Status::internal("the job's number is too large"))?;
    Ok(TrainResponse { job_id })
}

/// The ids of the pages that a data set names: numbers or ids, with commas between them.
async fn pages(app: &App, account: &Account, data_set: &str) -> Result<Vec<String>, Status> {
    // Before the store is asked for each of them.
    if data_set.split(',').nth(order::MOST_PAGES).is_some() {
        let what = format!("\"datasetId\": must name at most {} pages", order::MOST_PAGES);
        return Err(Status::invalid_argument(what));
    }
    let mut ids = Vec::new();
    for name in data_set.split(',').map(str::trim) {
        let id = match name.parse::<i64>() {
            Ok(number) => {
                let account = account.clone();
                let found = app.ask(move |store| store.page_numbered(number, &account)).await;
                let found = found.map_err(|problem| refusal(&problem))?;
                found.map(|page| page.id).ok_or_else(|| {
                    Status::invalid_argument(format!("\"datasetId\": there is no page {number}"))
                })?
            }
            Err(_) => name.to_owned(),
        };
        ids.push(id);
    }
    Ok(ids)
}

async fn tell(app: App, by: MetadataMap, request: StatusRequest) -> Result<StatusResponse, Status> {
    let account = account(&app, &by).await?;
    let number = request.job_id;
    let found = app.ask(move |store| store.run(i64::from(number), &account)).await;
    let found = found.map_err(|problem| refusal(&problem))?;
    let run = found.ok_or_else(|| Status::not_found(format!("Job {number} doesn't exist")))?;
    Ok(StatusResponse {
        status: job::status(run.status.state).into(),
        job_id: number,
        message: job::message(&run),
        metadata: Some(job::metadata(&run)),
        position_in_queue: i32::try_from(run.queue_position.unwrap_or(0)).unwrap_or(i32::MAX),
    })
}

/// Who asks: whoever's token it is or, where calls need none, this machine's user.
async fn account(app: &App, by: &MetadataMap) -> Result<Account, Status> {
    let bearer = by.get("authorization").and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim()))
    });
    let problem = match bearer {
        Some(token) => match of_token(app, token, false).await {
            Ok(identity) => return Ok(identity.account),
            Err(problem) => problem,
        },
        None if app.open_grpc => {
            let found = app.ask(|store| store.accounts()).await;
            let found = found.map_err(|problem| refusal(&problem))?;
            let local = found.into_iter().find(|account| account.name == "local");
            return local.ok_or_else(|| Status::internal("there is no local account"));
        }
        None => {
            let what = "send the metadata \"authorization: Bearer TOKEN\" with the token of an \
                account, or start the gateway with --grpc-without-token";
            Problem::new(StatusCode::UNAUTHORIZED, what)
        }
    };
    Err(refusal(&problem))
}

/// A problem in gRPC's words.
fn refusal(problem: &Problem) -> Status {
    let code = match problem.status() {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::FailedPrecondition,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    };
    let fields = problem.errors.iter().map(|error| format!("{}: {}", error.pointer, error.detail));
    let fields = fields.collect::<Vec<_>>().join(" ");
    Status::new(code, if fields.is_empty() { problem.detail.clone() } else { fields })
}

// ── One call ────────────────────────────────────────────────────────────────────────────────────

/// Reads one message, and answers it with what `answer` says.
async fn unary<Q, A, F, W>(request: Request, answer: F) -> Response
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
    F: Fn(MetadataMap, Q) -> W + Send + Sync,
    W: Future<Output = Result<A, Status>> + Send + 'static,
{
    let codec = ProstCodec::<A, Q>::default();
    let mut call = Grpc::new(codec).max_decoding_message_size(MOST);
    call.unary(Call(answer), request).await.into_response()
}

/// A function that answers.
struct Call<F>(F);

impl<Q, A, F, W> UnaryService<Q> for Call<F>
where
    F: Fn(MetadataMap, Q) -> W,
    W: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = A;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<A>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let (metadata, _, message) = request.into_parts();
        let answer = (self.0)(metadata, message);
        Box::pin(async move { answer.await.map(tonic::Response::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Limits;
    use crate::store::Role;

    #[test]
    fn a_data_set_of_too_many_names_is_refused_before_any_is_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::in_folder(folder.path(), Limits::default());
        let token = Secret::new("token of mine");
        app.store.add_account("me", Role::Submitter, &token).unwrap();
        let account = app.store.account_of(&token).unwrap().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = |names: usize| {
            let data_set = vec!["1"; names].join(",");
            runtime.block_on(pages(&app, &account, &data_set)).unwrap_err()
        };
        for (names, words) in [
            (1, "there is no page 1"),
            (order::MOST_PAGES, "there is no page 1"),
            (order::MOST_PAGES + 1, "\"datasetId\": must name at most 50 pages"),
            (100_000, "\"datasetId\": must name at most 50 pages"),
        ] {
            let refused = asked(names);
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(words), "{names}: {}", refused.message());
        }
    }
}
