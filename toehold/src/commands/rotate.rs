//! `toehold key rotate`: the master key of the fleet, renewed without locking anybody out.

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::{Value, json};
use toehold_core::{HostPhase, OnUnreachable, RotationPhase, StoreAudit};
use toehold_masterkey::{End, Outcome, Pace, RotationError, RotationRequest, Rotator, TakeUp};

use super::key_status::fleet_status;
use super::rotation_display::{Display, host_documents, named, tell_hosts};
use super::{recovery_copy, ssh_agent_follower};
use crate::adapters::russh_connector::RusshConnector;
use crate::adapters::system_clock::SystemClock;
use crate::adapters::vault_sealer::VaultSealer;
use crate::cli::args::{Rotate, Unreachable};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain};
use crate::shared::AnyStore;

/// What to do about a rotation that is open.
pub(super) const GO_ON: &str = "go on: toehold key rotate --resume; or go back: toehold key rotate --rollback";
/// What to do about hosts that are owed.
const SETTLE: &str = "when they are back: toehold key settle; which ones: toehold key status";
/// What to do about a fleet without hosts.
const BRING_IN: &str = "bring one in: toehold host add ACCOUNT; the master key that there is will do for the first host";

/// A rotator over the real world.
pub(super) type RealRotator<'c> = Rotator<&'c AnyStore, &'c RusshConnector, SystemClock, StoreAudit<AnyStore>, VaultSealer<'c>>;

/// Makes one; unlocks the identity.
pub(super) async fn rotator(context: &Context, pace: Pace) -> Result<RealRotator<'_>, Failure> {
    let vault = context.state.vault().await?;
    Ok(Rotator {
        store: context.store(),
        connector: &context.connector,
        timer: SystemClock,
        audit: StoreAudit::new(context.store().clone(), vault.writer()),
        vault: VaultSealer(vault),
        pace,
    })
}

/// Begins a rotation, goes on with one, or takes it back.
///
/// # Errors
/// Where it could not be begun, or did not come to where it was to go.
pub(super) async fn rotate(context: &Context, options: Rotate) -> Result<Exit, Failure> {
    if options.take_over && !options.resume && !options.rollback {
        return Err(Failure::usage("--take-over needs --resume or --rollback"));
    }
    let pace = Pace {
        concurrency: usize::from(options.concurrency),
        timeout: options.timeout,
        wait_for_grace: !options.no_wait,
        ..Pace::default()
    };
    let rotator = rotator(context, pace).await?;
    if options.dry_run {
        return dry_run(context, &rotator, &options).await;
    }
    let display = Display::new(context.output, context.signals.clone());
    // Who goes on with a way back wants it to come to its end.
    let open = if options.resume { fleet_status(context).await?.rotation } else { None };
    let wanted_back = options.rollback || open.is_some_and(|open| open.phase == RotationPhase::RollingBack);
    let mut rng = UnwrapErr(SysRng);
    let work = async {
        if !options.resume && !options.rollback {
            return rotator.rotate(request(&options), &mut rng, &display).await;
        }
        let mut by = TakeUp::new(operator());
        by.take_over = options.take_over;
        by.on_unreachable = options.on_unreachable.map(OnUnreachable::from);
        if options.rollback {
            rotator.roll_back(by, &mut rng, &display).await
        } else {
            rotator.resume(by, &mut rng, &display).await
        }
    };
    let result = ssh_agent_follower::follow(context, &display.phases, work).await;
    display.finish();
    let agent = ssh_agent_follower::settle(context).await.err().map(|failure| ssh_agent_follower::behind(&failure));
    if let Some(behind) = &agent {
        display.note(behind);
    }
    report(context, &result.map_err(failure)?, wanted_back, agent).await
}

fn request(options: &Rotate) -> RotationRequest {
    let mut request = RotationRequest::new(operator());
    request.algorithm = options.algorithm.unwrap_or_default();
    if let Some(on_unreachable) = options.on_unreachable {
        request.policy.on_unreachable = on_unreachable.into();
    }
    if let Some(grace) = options.grace {
        request.policy.grace = grace.as_secs();
    }
    if let Some(provisional) = options.provisional_for {
        request.policy.provisional_for = provisional.as_secs();
    }
    request.policy.canary.clone_from(&options.canary);
    request.policy.wave = options.wave;
    request.policy.max_failures = options.max_failures;
    request
}

async fn dry_run(context: &Context, rotator: &RealRotator<'_>, options: &Rotate) -> Result<Exit, Failure> {
    let plan = rotator.dry_run(&request(options)).await.map_err(failure)?;
    context.output.document(&json!({ "event": "plan", "rotation": plan.rotation, "waves": plan.waves }));
    let hosts: usize = plan.waves.iter().map(Vec::len).sum();
    context.output.text(format_args!("Rotation {} would renew the master key on {hosts} hosts:", plan.rotation));
    for (number, wave) in (1..).zip(&plan.waves) {
        context.output.text(format_args!("wave {number}, {} hosts", wave.len()));
        for account in wave {
            context.output.text(format_args!("  {account}"));
        }
    }
    context.output.text("Nothing was changed.");
    Ok(Exit::Done)
}

/// Tells how it ended, and what to do next. `agent` is what went wrong with the ssh-agent, which changes nothing on the hosts.
async fn report(context: &Context, outcome: &Outcome, wanted_back: bool, agent: Option<String>) -> Result<Exit, Failure> {
    let rotation = &outcome.rotation;
    let owed = outcome.owed().count();
    // By now the current key may be another one than the last copy has, however the run has ended.
    let advice = recovery_copy::advice(context.store()).await?;
    let found = json!({
        "event": outcome.end,
        "rotation": rotation,
        "reason": outcome.reason,
        "owed": owed,
        "hosts": host_documents(&outcome.hosts),
        "agent": agent,
        "advice": advice,
    });
    tell_hosts(context.output, &outcome.hosts, HostPhase::Settled);
    let total = outcome.hosts.len();
    let settled = total - owed;
    let owed_by_name = named(outcome.owed().map(|host| &host.account));
    let why = outcome.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let say_advice = || advice.iter().for_each(|advice| context.output.text(advice));
    match outcome.end {
        End::Done => {
            let new = rotation.new.fingerprint();
            if total == 0 {
                context.output.text(format_args!("The master key is {new}; no host is managed any more."));
            } else {
                context.output.text(format_args!(
                    "{settled} of {total} hosts have the new master key {new} alone; the old one was seen refused."
                ));
            }
            say_advice();
            if owed == 0 {
                return well(context, found, agent);
            }
            Err(Failure::new(format!("still to be settled: {owed_by_name}; the old key stays sealed in the store"))
                .hint(SETTLE)
                .partly()
                .with(found))
        }
        End::RolledBack => {
            let old = rotation.old.fingerprint();
            let message = if total == 0 {
                format!("rolled back{why}; the master key is {old}, and no host is managed")
            } else {
                format!("rolled back{why}; {settled} of {total} hosts have the old master key {old} alone")
            };
            if owed > 0 {
                return Err(Failure::new(format!("{message}; still to be settled: {owed_by_name}"))
                    .hint(SETTLE)
                    .partly()
                    .with(found));
            }
            if wanted_back {
                context.output.text(format_args!("The rotation is {message}."));
                return well(context, found, agent);
            }
            let advice = if total == 0 {
                BRING_IN
            } else {
                "leave hosts that cannot be reached for later: toehold key rotate --on-unreachable defer"
            };
            Err(Failure::new(message).hint(advice).with(found))
        }
        End::Grace => {
            say_advice();
            let until = rotation.retire_at.map(|at| format!(" until {at}")).unwrap_or_default();
            Err(Failure::new(format!("the new master key is current; the old one still logs in{until}{why}"))
                .hint("then remove it: toehold key rotate --resume; or go back: toehold key rotate --rollback")
                .partly()
                .with(found))
        }
        End::LetGo => {
            say_advice();
            Err(Failure::new(format!("somebody else leads the rotation now{why}"))
                .hint("see how it stands: toehold key status")
                .partly()
                .with(found))
        }
        _ => {
            say_advice();
            Err(Failure::new(format!("the rotation stands still in the phase {}{why}", rotation.phase))
                .hint(GO_ON)
                .partly()
                .with(found))
        }
    }
}

/// The end of a run after which nothing is owed on the hosts.
pub(super) fn well(context: &Context, found: Value, agent: Option<String>) -> Result<Exit, Failure> {
    match agent {
        None => {
            context.output.document(&found);
            Ok(Exit::Done)
        }
        Some(behind) => Err(Failure::new(behind)
            .hint("the hosts are well; give the agent the current key: toehold key load")
            .partly()
            .with(found)),
    }
}

/// What went wrong, with what to do next.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
pub(super) fn failure(error: RotationError) -> Failure {
    let failure = Failure::new(chain(&error));
    match error {
        RotationError::AlreadyOpen { .. } => {
            failure.hint("go on with it: toehold key rotate --resume; or take it back: toehold key rotate --rollback")
        }
        RotationError::NoHosts => failure.hint(BRING_IN),
        RotationError::Unfinished { .. } => failure.hint(GO_ON).partly(),
        RotationError::InDoubt { .. } => failure.hint("see how it stands: toehold key status").partly(),
        RotationError::BeingLed { .. } => failure.hint("if nobody is at it any more, add --take-over"),
        RotationError::NoneOpen => failure.hint("begin one: toehold key rotate"),
        RotationError::NoDurableCopy { .. } => failure.hint("restore the store from a recovery copy: toehold init --restore"),
        _ => failure,
    }
}

/// Who does this, for other operators to read.
pub(super) fn operator() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let user = user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    crate::cli::printable(&format!("{user}@{}", host.trim()))
}

impl From<Unreachable> for OnUnreachable {
    fn from(what: Unreachable) -> Self {
        match what {
            Unreachable::Abort => Self::Abort,
            Unreachable::Defer => Self::Defer,
        }
    }
}
