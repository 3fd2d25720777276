//! What a connection has while the broker pushes.

use lapin::message::Delivery;
use lapin::{Channel, Consumer};

/// Two channels with a consumer each.
pub(super) struct Listening {
    /// That of the jobs; a message that is held belongs to it.
    pub(super) channel: Channel,
    pub(super) jobs: Consumer,
    /// The job that has come.
    pub(super) held: Option<Delivery>,
    /// That of the requests, where this account may read them.
    pub(super) requests: Option<(Channel, Consumer)>,
}
