//! One pod: its record, its manifest, its life.

mod events;
mod life;
mod manifest;
mod record;

pub use events::{Action, Event, LATE, OutOfTurn, Phase, Retry, Timing};
pub use life::Life;
pub(crate) use manifest::{HEARTBEAT, is_owned_by, object_annotation};
pub use manifest::{
    Identity, identify, may_enter, may_replace, owner_extension, owner_manifest, owner_selector, persistent_manifest,
    persistent_name, pod_manifest, pods_of_owner, pods_of_principal, spec_digest,
};
pub use record::{OwnerReference, PodRecord, Who};
