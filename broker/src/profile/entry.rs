//! One profile of the configuration: where its credentials come from, and how they are.

use std::sync::Arc;

use super::actor::Actor;
use super::source::Source;
use crate::config::ProfileName;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: ProfileName,
    pub(super) description: String,
    pub(super) preload: bool,
    /// The account of the role on top, where there is one.
    pub(super) role_account: Option<String>,
    pub(super) source: Arc<Source>,
    pub(super) actor: Arc<Actor>,
}
