//! The demo's second act: the master key of the hosts that were just brought in is renewed.

use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_core::{Connector as _, HostKeyPolicy, PublicKey, RotationPhase, Route};
use toehold_masterkey::{End, Observer, Pace, Progress, RotationRequest};

use super::hosts::DemoHost;
use super::{Row, milliseconds};
use crate::cli::context::Context;
use crate::cli::{Failure, Output, chain};
use crate::commands::rotate::rotator;

/// Renews the key, and looks on every host whether it came out as it should.
///
/// # Errors
/// Where the rotation could not be begun.
pub(super) async fn renew(
    context: &Context,
    hosts: &[DemoHost],
    foreign: &str,
    rows: &mut [Row],
    output: Output,
) -> Result<(), Failure> {
    let old = context.master_key().await?.public_key().clone();
    let rotator = rotator(context, Pace::default()).await?;
    let mut request = RotationRequest::new("demo");
    request.policy.grace = 0;
    let phases = Phases { context, output, phase: Mutex::new(None) };
    let result = rotator.rotate(request, &mut UnwrapErr(SysRng), &phases).await;
    phases.finish();
    let outcome = result.map_err(|error| Failure::new(chain(&error)))?;
    if let Some(reason) = &outcome.reason {
        output.text(format_args!("              {reason}"));
    }
    let new = outcome.rotation.new;
    for (host, row) in hosts.iter().zip(rows) {
        let route = Route::direct(host.account().clone());
        let policy = HostKeyPolicy::Exactly(host.host_key().clone());
        let accepts = async |key: &PublicKey| {
            context.connector.would_accept(&route, key, &policy).await.is_ok_and(|answer| answer.accepted)
        };
        row.renewed = outcome.end == End::Done && accepts(&new).await;
        row.old_refused = !accepts(&old).await;
        row.foreign_kept &= fs::read(host.home().join(".ssh/authorized_keys"))?.starts_with(foreign.as_bytes());
    }
    Ok(())
}

/// Prints each phase with its time.
struct Phases<'c> {
    context: &'c Context,
    output: Output,
    phase: Mutex<Option<(RotationPhase, Instant)>>,
}

impl Phases<'_> {
    /// Prints the phase that has just ended.
    fn enter(&self, next: Option<RotationPhase>) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next.map(|next| (next, Instant::now()));
        let Some((ended, since)) = std::mem::replace(&mut *phase, next) else { return };
        let step = match ended {
            RotationPhase::Planned => "made a new master key and sealed it, before any host learns of it",
            RotationPhase::Installing => {
                "taught it to every host on a line that ends by itself, and proved it with a login there"
            }
            RotationPhase::Proving => "saw that no host is missing",
            RotationPhase::Switching => "made it the current one: every host that counts has it for good",
            RotationPhase::Retiring => "took the old one away, and saw it refused",
            _ => return,
        };
        let took = since.elapsed();
        self.output.document(&json!({ "event": "step", "step": step, "milliseconds": milliseconds(took) }));
        self.output.text(format_args!("{:>9.1} ms  {step}", took.as_secs_f64() * 1000.0));
    }

    fn finish(&self) {
        self.enter(None);
    }
}

impl Observer for Phases<'_> {
    fn progress(&self, progress: Progress) {
        if let Progress::Phase { phase, .. } = progress {
            self.enter(Some(phase));
        }
    }

    fn is_leaving(&self) -> bool {
        self.context.signals.came()
    }

    async fn wants_out(&self) {
        self.context.signals.clone().wait().await;
    }
}
