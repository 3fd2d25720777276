//! The messages of `training.TrainingService`, with the numbers that its clients know.

use std::collections::BTreeMap;

use prost::{Enumeration, Message};

/// What is to be trained.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Metadata {
    /// What trains; any word.
    #[prost(string, tag = "1")]
    pub(super) algorithm: String,
    /// The page: its number, its id, or several with commas between them.
    #[prost(string, tag = "2")]
    pub(super) dataset_id: String,
    /// What its user calls it.
    #[prost(string, tag = "3")]
    pub(super) name: String,
    /// The version of the data; any word, as a page never changes.
    #[prost(string, tag = "4")]
    pub(super) train_data_version_hash: String,
    /// Settings by Rodan's names or by those of other services.
    #[prost(btree_map = "string, string", tag = "5")]
    pub(super) parameters: BTreeMap<String, String>,
    /// What the models are called; any word.
    #[prost(string, tag = "6")]
    pub(super) output_model_name: String,
}

/// Asks for a training.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TrainRequest {
    /// Of what.
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<Metadata>,
}

/// The training was queued.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct TrainResponse {
    /// Its number, which never comes twice.
    #[prost(int32, tag = "1")]
    pub(super) job_id: i32,
}

/// Asks how far a training is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct StatusRequest {
    /// Its number.
    #[prost(int32, tag = "1")]
    pub(super) job_id: i32,
}

/// How far a training is.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct StatusResponse {
    /// Where it is.
    #[prost(enumeration = "Status", tag = "1")]
    pub(super) status: i32,
    /// Its number.
    #[prost(int32, tag = "2")]
    pub(super) job_id: i32,
    /// The same for people.
    #[prost(string, tag = "3")]
    pub(super) message: String,
    /// What was asked for.
    #[prost(message, optional, tag = "4")]
    pub(super) metadata: Option<Metadata>,
    /// How many are trained before it.
    #[prost(int32, tag = "5")]
    pub(super) position_in_queue: i32,
}

/// Where a training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
pub(super) enum Status {
    /// It waits.
    Queuing = 0,
    /// It is being started.
    Launch = 1,
    /// It is being trained.
    Running = 2,
    /// Its models are there.
    Succeed = 3,
    /// It ended without models.
    Failure = 4,
}
