//! What the interface says of pages and runs.

use std::collections::BTreeMap;

use domain::Standing;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::address::percent;
use crate::comparison::compare;
use crate::state::State;
use crate::store::{FileKind, Group, Page, Run};

/// A layer of a page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LayerView {
    /// Its name, such as `layer_0`.
    name: String,
    /// The name of the model that is trained for it, such as `Model 0`.
    model: String,
    /// Its pixels: of the background all of them, of any other layer those inside the regions.
    pixels: u64,
}

/// A page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PageView {
    /// Its id, which follows from its files.
    id: String,
    /// Its number, which never comes twice: the `dataset_id` of gRPC.
    number: i64,
    /// What its user calls it.
    name: String,
    /// Width in pixels.
    width: u64,
    /// Height in pixels.
    height: u64,
    /// Whether only a part of it counts.
    has_regions: bool,
    /// Its layers.
    layers: Vec<LayerView>,
    /// What keeps it from being trained well.
    warnings: Vec<String>,
    /// When it came.
    created_at: String,
    /// Where a small JPEG of it is.
    thumbnail: String,
}

impl From<&Page> for PageView {
    fn from(page: &Page) -> Self {
        let layers = page.files.iter().filter_map(|file| {
            let model = file.part.layer()?.model_name();
            Some(LayerView { name: file.part.name(), model, pixels: file.pixels? })
        });
        Self {
            id: page.id.clone(),
            number: page.number,
            name: page.name.clone(),
            width: page.width,
            height: page.height,
            has_regions: page.files.iter().any(|file| file.part == crate::store::Part::Regions),
            layers: layers.collect(),
            warnings: page.warnings(),
            created_at: page.created_at.clone(),
            thumbnail: format!("/v1/pages/{}/thumbnail", page.id),
        }
    }
}

/// Pages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PageList {
    pub(super) pages: Vec<PageView>,
}

/// Where a run is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StateView {
    /// It waits for its turn.
    Queued,
    /// Its training is being started.
    Launch,
    /// Its layers are being trained.
    Running,
    /// Its models are there.
    Succeeded,
    /// It ended without models.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl From<State> for StateView {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Launch => Self::Launch,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// A file of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FileView {
    /// Its name.
    name: String,
    /// `model`, `report`, `record`, `preview`, `layer` or `log`.
    kind: &'static str,
    /// Its size in bytes.
    size: u64,
    /// The SHA-256 of its bytes, which is also its ETag.
    sha256: String,
    /// Where it is.
    href: String,
}

/// How far a run is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProgressView {
    /// Percent that are done at least, 0 to 100.
    #[schema(maximum = 100)]
    percent: u8,
    /// What computes, such as `CPU`.
    device: Option<String>,
    /// The model that is being trained.
    model: String,
    /// The layer's number, from 1; 0 before the first.
    layer: usize,
    /// How many layers there are.
    layers: usize,
    /// The epoch, from 1; 0 before the first.
    epoch: usize,
    /// Most epochs of the layer.
    epochs: u32,
    /// Steps of the epoch that are done.
    step: usize,
    /// Steps of an epoch.
    steps: usize,
    /// Loss of the latest step.
    loss: Option<f64>,
}

/// How far a run is, with the percent.
pub(super) fn progress(percent: u8, progress: &Standing) -> ProgressView {
    ProgressView {
        percent,
        device: progress.device.clone(),
        model: progress.layer.clone(),
        layer: progress.layer_number,
        layers: progress.layers,
        epoch: progress.epoch,
        epochs: u32::try_from(progress.epochs).unwrap_or(u32::MAX),
        step: progress.step,
        steps: progress.steps,
        loss: progress.loss,
    }
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunView {
    /// Its number, which never comes twice.
    id: i64,
    /// The same number, as clients of job queues look for it.
    job_id: i64,
    /// What its user calls it.
    name: String,
    /// The account that it belongs to.
    owner: String,
    state: StateView,
    /// `train`, or `apply` where models are applied to a page.
    task: &'static str,
    /// Whether somebody has asked for its end.
    cancel_asked: bool,
    /// While it is queued: how many runs are to be trained before it, at least. Where a cluster
    /// trains, it is the place in the cluster's queue as soon as the cluster tells it.
    queue_position: Option<u64>,
    /// What it waits for, or what the cluster says of it, in a sentence.
    detail: Option<String>,
    progress: ProgressView,
    /// How often its training was started: more than once where the gateway was.
    attempts: u32,
    /// The pages that it learns from.
    pages: Vec<String>,
    /// The settings that were asked for, by Rodan's names.
    #[schema(value_type = Object)]
    settings: domain::SettingsMap,
    /// The run whose models it goes on from.
    models_from: Option<i64>,
    /// The group of runs that were asked for together.
    group: Option<i64>,
    /// The page that was made of the layers that the models have found.
    made_page: Option<String>,
    /// Words of the user's own.
    labels: BTreeMap<String, String>,
    /// What came of it: seed, device, time, memory, the settings that were used, and the figures of
    /// each layer. Those are on the whole of its pages or, where `measured_on` says
    /// `validation samples`, on those of the kept epoch.
    #[schema(value_type = Option<Object>)]
    figures: Option<Value>,
    /// Why it failed.
    error: Option<String>,
    /// When it was asked for.
    created_at: String,
    /// When its training was started first.
    started_at: Option<String>,
    /// When it was over.
    finished_at: Option<String>,
    /// Its files.
    files: Vec<FileView>,
    /// Where more is: `self`, `events`, `cancel`, `page`; where they are there `models`, `layers`,
    /// `group`, and `mlflow`, the run's page in MLflow.
    links: BTreeMap<&'static str, String>,
}

impl From<&Run> for RunView {
    fn from(run: &Run) -> Self {
        let own = format!("/v1/runs/{}", run.id);
        let files = run.results.iter().map(|result| {
            let place = if result.kind == FileKind::Model { "models" } else { "files" };
            let name = percent(&result.name);
            FileView {
                name: result.name.clone(),
                kind: result.kind.name(),
                size: result.object.size,
                sha256: result.object.sha256.clone(),
                href: format!("{own}/{place}/{name}"),
            }
        });
        let mut links = BTreeMap::from([
            ("self", own.clone()),
            ("events", format!("{own}/events")),
            ("cancel", format!("{own}/cancel")),
            ("page", format!("/runs/{}", run.id)),
        ]);
        for (link, kind) in [("models", FileKind::Model), ("layers", FileKind::Layer)] {
            if run.results.iter().any(|result| result.kind == kind) {
                links.insert(link, format!("{own}/{link}.zip"));
            }
        }
        links.extend(run.group.map(|group| ("group", format!("/v1/groups/{group}"))));
        links.extend(run.tracked.clone().map(|page| ("mlflow", page)));
        Self {
            id: run.id,
            job_id: run.id,
            name: run.name.clone(),
            owner: run.account_name.clone(),
            state: run.status.state.into(),
            task: if run.image.is_some() { "apply" } else { "train" },
            cancel_asked: run.status.cancel_asked,
            queue_position: run.queue_position,
            detail: run.detail.clone(),
            progress: progress(run.percent(), &run.progress),
            attempts: run.attempts,
            pages: run.pages.clone(),
            settings: run.settings.clone(),
            models_from: run.models_from,
            group: run.group,
            made_page: run.made_page.clone(),
            labels: run.labels.clone(),
            figures: run.figures.clone(),
            error: run.error.clone(),
            created_at: run.created_at.clone(),
            started_at: run.started_at.clone(),
            finished_at: run.finished_at.clone(),
            files: files.collect(),
            links,
        }
    }
}

/// A list of runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunList {
    /// The newest first.
    pub(super) runs: Vec<RunView>,
    /// What `page_token` has to be for the next ones; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_page_token: Option<String>,
}

/// A run beside the others of its group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ComparedView {
    /// The run's number.
    run: i64,
    state: StateView,
    /// Its values of the settings that are not the same in all runs; null for the default.
    settings: BTreeMap<String, Option<String>>,
    /// F1 of each of its models: on the whole of its pages or, for a run on a cluster, on the
    /// validation samples of the kept epoch.
    f1: BTreeMap<String, Option<f64>>,
    /// The mean of them.
    mean_f1: Option<f64>,
    /// How long it took.
    seconds: Option<f64>,
}

/// A group of runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupView {
    /// Its number, which never comes twice.
    id: i64,
    /// What its user calls it.
    name: String,
    /// When it was asked for.
    created_at: String,
    /// Its runs, the first one first.
    runs: Vec<RunView>,
    /// Its runs beside each other.
    comparison: Vec<ComparedView>,
    /// Where more is: `self`, `cancel`, `page`.
    links: BTreeMap<&'static str, String>,
}

impl From<&Group> for GroupView {
    fn from(group: &Group) -> Self {
        let compared = compare(&group.runs);
        let named = |names: &[String]| names.to_vec();
        let comparison = compared.rows.iter().map(|row| ComparedView {
            run: row.run,
            state: row.state.into(),
            settings: named(&compared.settings).into_iter().zip(row.settings.clone()).collect(),
            f1: named(&compared.models).into_iter().zip(row.f1.clone()).collect(),
            mean_f1: row.mean_f1,
            seconds: row.seconds,
        });
        let own = format!("/v1/groups/{}", group.id);
        Self {
            id: group.id,
            name: group.name.clone(),
            created_at: group.created_at.clone(),
            runs: group.runs.iter().map(RunView::from).collect(),
            comparison: comparison.collect(),
            links: BTreeMap::from([
                ("cancel", format!("{own}/cancel")),
                ("page", format!("/compare?group={}", group.id)),
                ("self", own),
            ]),
        }
    }
}

/// What `dry_run` answers: nothing was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRunView {
    /// Always true.
    pub(super) dry_run: bool,
    /// How many runs it would make.
    pub(super) runs: u64,
    /// The settings of each of them.
    #[schema(value_type = Vec<Object>)]
    pub(super) settings: Vec<domain::SettingsMap>,
}

/// What `/status` says, as the training stacks do that have a queue and workers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusView {
    /// Runs that wait.
    pub(super) queued_tasks: u64,
    /// Runs that are being trained.
    pub(super) active_tasks: u64,
    /// Runs that are to begin at a set time: none.
    pub(super) scheduled_tasks: u64,
    /// How many can be trained at a time; null where a cluster trains, which does not tell it.
    pub(super) registered_workers: Option<u64>,
    /// Why runs wait, where the broker can't be used.
    pub(super) trouble: Option<String>,
}
