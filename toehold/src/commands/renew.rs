//! `toehold key renew`: the master key renewed again and again, by a schedule in the store.

use std::sync::{Mutex, PoisonError};

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_core::Fingerprint;
use toehold_masterkey::renewal::{PeriodicalRenewal, Renew, RenewalEvent, RenewalPace, RenewalState};
use toehold_masterkey::{End, Pace, RotationError, RotationRequest, TakeUp};

use super::rotate::{RealRotator, operator, rotator};
use super::rotation_display::Display;
use super::{recovery_copy, ssh_agent_follower};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain};

/// The name of the fleet's schedule in the store.
const SCHEDULE: &str = "master-key";

/// Renews until a signal comes.
///
/// # Errors
/// Where the identity cannot be unlocked. A renewal that fails is told and tried again.
pub(super) async fn renew(context: &Context, options: args::Renew) -> Result<Exit, Failure> {
    renew_watched(context, options, |_| {}).await
}

/// The same, with somebody who is told of every event.
///
/// # Errors
/// As [`renew`].
pub(super) async fn renew_watched(
    context: &Context,
    options: args::Renew,
    watch: impl Fn(&RenewalEvent) + Send + Sync,
) -> Result<Exit, Failure> {
    let pace = Pace { concurrency: usize::from(options.concurrency), timeout: options.timeout, ..Pace::default() };
    let rotator = rotator(context, pace).await?;
    let advice = Mutex::new(None);
    let mut fleet = FleetRenewal { context, rotator: &rotator, request: request(&options), advice: &advice };
    let pace = RenewalPace { interval: options.every, jitter: options.jitter, ..RenewalPace::default() };
    let renewal = PeriodicalRenewal::new(context.store(), SystemClock, SCHEDULE, pace);

    let failed = Mutex::new(None);
    let report = |event: RenewalEvent| {
        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &event {
            RenewalEvent::Failed { reason, .. } => *failed = Some(reason.clone()),
            RenewalEvent::Renewed { .. } => *failed = None,
            _ => {}
        }
        watch(&event);
        let advice = advice.lock().unwrap_or_else(PoisonError::into_inner);
        tell(context, &event, advice.as_deref());
    };
    let (mut signals, termination) = (context.signals.clone(), renewal.termination());
    let mut rng = UnwrapErr(SysRng);
    let until_signalled = async {
        signals.wait().await;
        // A rotation that is under way sees the signal, too, and comes to a place where it can be left.
        termination.terminate();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = renewal.run(&mut fleet, &mut rng, report) => {}
        () = until_signalled => {}
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed {
        None => Ok(Exit::Done),
        Some(reason) => Err(Failure::new(format!("stopped while a renewal was due that had failed: {reason}"))
            .hint("see how it stands: toehold key status; the next toehold key renew tries it again")
            .partly()),
    }
}

fn request(options: &args::Renew) -> RotationRequest {
    let mut request = RotationRequest::new(operator());
    request.algorithm = options.algorithm.unwrap_or_default();
    request.policy.on_unreachable = options.on_unreachable.into();
    if let Some(grace) = options.grace {
        request.policy.grace = grace.as_secs();
    }
    request.policy.canary.clone_from(&options.canary);
    request.policy.wave = options.wave;
    request.policy.max_failures = options.max_failures;
    request
}

fn tell(context: &Context, event: &RenewalEvent, advice: Option<&str>) {
    let output = context.output;
    let say_advice = || advice.iter().for_each(|advice| output.text(advice));
    match event {
        RenewalEvent::Waiting { until } => {
            output.document(&json!({ "event": "waiting", "until": until }));
            output.text(format_args!("The next renewal is due at {until}."));
        }
        RenewalEvent::Elsewhere => {
            output.document(&json!({ "event": "elsewhere" }));
            output.text("Another process is renewing.");
        }
        RenewalEvent::Begun => {
            output.document(&json!({ "event": "begun" }));
            output.text("Renewing the master key.");
        }
        RenewalEvent::Renewed { key, due_at } => {
            output.document(&json!({ "event": "renewed", "key": key, "due_at": due_at, "advice": advice }));
            output.text(format_args!("The master key is {key}."));
            say_advice();
        }
        RenewalEvent::Failed { reason, retry_at } => {
            output.document(&json!({ "event": "failed", "reason": reason, "retry_at": retry_at, "advice": advice }));
            output.text(format_args!("The renewal failed: {reason}. It is tried again at {retry_at}."));
            say_advice();
        }
        RenewalEvent::StoreFailed(error) => {
            let reason = chain(error);
            output.document(&json!({ "event": "store_failed", "reason": reason }));
            output.text(format_args!("The schedule could not be read or written: {reason}. That is tried again."));
        }
        _ => {}
    }
}

/// A renewal is a rotation of the whole fleet.
struct FleetRenewal<'c> {
    context: &'c Context,
    rotator: &'c RealRotator<'c>,
    request: RotationRequest,
    /// What is to be said of the current key's recovery copy: a renewal leaves the one that there was without the key.
    advice: &'c Mutex<Option<String>>,
}

/// Why a rotation was not a renewal.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error("interrupted before it was begun")]
    Interrupted,
    #[error("the rotation {how}{}", because(.reason.as_deref()))]
    Ended { how: &'static str, reason: Option<String> },
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

impl Renew for FleetRenewal<'_> {
    type Error = NotRenewed;

    async fn state(&mut self) -> Result<RenewalState, NotRenewed> {
        let status = self.rotator.status().await?;
        Ok(RenewalState { current: status.current.fingerprint(), open: status.rotation.is_some() })
    }

    async fn renew(&mut self) -> Result<Fingerprint, NotRenewed> {
        let display = Display::new(self.context.output, self.context.signals.clone());
        let mut rng = UnwrapErr(SysRng);
        let is_open = self.state().await?.open;
        let work = async {
            if is_open {
                return Ok(self.rotator.resume(TakeUp::new(operator()), &mut rng, &display).await?);
            }
            // What an earlier rotation owes may be to be had by now; what is still owed then is no obstacle.
            drop(self.rotator.settle(&mut rng, &display).await);
            if self.context.signals.came() {
                return Err(NotRenewed::Interrupted);
            }
            Ok(self.rotator.rotate(self.request.clone(), &mut rng, &display).await?)
        };
        let result = ssh_agent_follower::follow(self.context, &display.phases, work).await;
        display.finish();
        if let Err(failure) = ssh_agent_follower::settle(self.context).await {
            display.note(&ssh_agent_follower::behind(&failure));
        }
        match recovery_copy::advice(self.context.store()).await {
            Ok(advice) => *self.advice.lock().unwrap_or_else(PoisonError::into_inner) = advice,
            Err(failure) => display.note(&failure.message),
        }
        let outcome = result?;
        let how = match outcome.end {
            End::Done => return Ok(outcome.rotation.new.fingerprint()),
            End::RolledBack => "was rolled back",
            End::LetGo => "is led by somebody else now",
            End::Grace => "waits for the end of the old key's grace",
            _ => "stands still",
        };
        Err(NotRenewed::Ended { how, reason: outcome.reason })
    }
}
