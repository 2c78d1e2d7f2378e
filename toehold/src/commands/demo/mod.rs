//! `toehold demo`: the main jobs on hosts of its own, with nothing to install or configure.

mod hosts;
mod joining;
mod operator;
mod pod;
mod rotation;
mod spec;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcetera::base_strategy::{BaseStrategy as _, Xdg};
use getrandom::SysRng;
use getrandom::rand_core::{Rng as _, UnwrapErr};
use serde_json::json;
use toehold_core::{Clock as _, Connector as _, HostKeyPolicy, Identity, KeyRole, ManagedKey, PublicKey, Source};
use toehold_keygen::install::ExpiryForm;
use toehold_keygen::{KeyAlgorithm, KeyPair};
use toehold_session::{End, Request};

use self::hosts::DemoHost;
use self::operator::DemoOperator;
use super::host_add::MASTER_COMMENT;
use crate::adapters::identity::NewIdentity;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Demo, Global};
use crate::cli::context::{Context, limits};
use crate::cli::{Exit, Failure, Output, Signals, table};
use crate::state::{NoPassphrase, State};

/// A directory that goes when the demo ends.
struct Scratch(PathBuf);

impl Scratch {
    /// In the user's cache directory: unlike `/tmp` it is nobody else's to write to, which a real sshd insists on.
    fn new() -> Result<Self, Failure> {
        let base = Xdg::new().map(|base| base.cache_dir())?;
        fs::create_dir_all(&base)?;
        let path = base.join(format!("toehold-demo-{:016x}", UnwrapErr(SysRng).next_u64()));
        crate::private::create_directory(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// How it went on one host.
struct Row {
    account: String,
    took: Duration,
    managed: bool,
    foreign_kept: bool,
    temporary_refused: bool,
    master_accepted: bool,
    /// Whether the renewed master key logs in.
    renewed: bool,
    old_refused: bool,
}

impl Row {
    fn is_good(&self) -> bool {
        let brought_in = self.managed && self.temporary_refused && self.master_accepted;
        brought_in && self.renewed && self.old_refused && self.foreign_kept
    }
}

/// Runs it.
///
/// # Errors
/// Where a host cannot be made, or did not come out as it should.
pub(super) async fn demo(global: &Global, options: &Demo, output: Output, signals: Signals) -> Result<Exit, Failure> {
    let scratch = Scratch::new()?;
    let begun = Instant::now();
    let step = |what: &str, since: Instant| {
        output.document(&json!({ "event": "step", "step": what, "milliseconds": milliseconds(since.elapsed()) }));
        output.text(format_args!("{:>9.1} ms  {what}", since.elapsed().as_secs_f64() * 1000.0));
    };

    let since = Instant::now();
    let state = State::create(&scratch.0.join("state"), NoPassphrase)?;
    let generate =
        || -> Result<Identity, Source> { Ok(KeyPair::generate(&mut UnwrapErr(SysRng), KeyAlgorithm::Ed25519)?.identity()?) };
    state.init(NewIdentity::unprotected(), generate, MASTER_COMMENT, SystemClock.now()).await?;
    step("made an identity and a master key, sealed in a store of their own", since);

    let context = Context::with(state, limits(global), None, output, signals);
    let colleague = KeyPair::generate(&mut UnwrapErr(SysRng), KeyAlgorithm::Ed25519)?.public_key().clone();
    let foreign = format!("# a colleague's line, which nobody asked us to touch\n{colleague} colleague@example.net");
    let (mut rows, mut hosts) = (Vec::new(), Vec::new());
    for number in 1..=options.hosts {
        if context.signals.came() {
            break;
        }
        let since = Instant::now();
        let host = DemoHost::start(&scratch.0.join(format!("host-{number}")), options.sshd, &foreign).await?;
        output.text("");
        let kind = if options.sshd { "a real sshd" } else { "an SSH host" };
        step(&format!("started {kind} on loopback: {}", host.account()), since);
        rows.push(onboard(&context, &host, &foreign, output).await?);
        hosts.push(host);
    }
    if !context.signals.came() {
        output.text(format_args!("\nAnd now their master key is renewed, without locking anybody out:"));
        rotation::renew(&context, &hosts, &foreign, &mut rows, output).await?;
    }
    for host in hosts {
        host.stop().await;
    }
    let mut act = None;
    if !context.signals.came() {
        output.text(format_args!("\nAnd a machine joins a gateway:"));
        act = Some(joining::play(&context, &scratch.0, output).await?);
    }
    let mut pod = None;
    if !context.signals.came() {
        output.text(format_args!("\nAnd an SSH connection becomes a pod:"));
        pod = Some(pod::play(&context, &scratch.0, output).await?);
    }

    let mut machines = None;
    if !context.signals.came() {
        output.text(format_args!("\nAnd a node takes what a signed list says that it runs:"));
        machines = Some(spec::play(&scratch.0, output).await?);
    }

    let good = rows.iter().filter(|row| row.is_good()).count();
    output.text(format_args!("\n{}", table(&lines_of(&rows))));
    output.text(format_args!(
        "{good} of {} hosts, in {:.1} s. All of it is gone again.",
        options.hosts,
        begun.elapsed().as_secs_f64()
    ));
    let found = json!({
        "event": "done",
        "join": act.as_ref().map(joining::Act::document),
        "pod": pod.as_ref().map(pod::Act::document),
        "spec": machines.as_ref().map(spec::Act::document),
        "hosts": rows.iter().map(|row| json!({
            "account": row.account,
            "milliseconds": milliseconds(row.took),
            "managed": row.managed,
            "master_key_accepted": row.master_accepted,
            "temporary_key_refused": row.temporary_refused,
            "new_master_key_accepted": row.renewed,
            "old_master_key_refused": row.old_refused,
            "foreign_lines_untouched": row.foreign_kept,
        })).collect::<Vec<_>>(),
    });
    let acts = act.as_ref().is_some_and(joining::Act::is_good)
        && pod.as_ref().is_some_and(pod::Act::is_good)
        && machines.as_ref().is_some_and(spec::Act::is_good);
    if good == usize::from(options.hosts) && acts {
        output.document(&found);
        Ok(Exit::Done)
    } else if context.signals.came() {
        Err(Failure::new("interrupted").with(found))
    } else {
        Err(Failure::new("not everything came out as it should").with(found))
    }
}

/// The table of what became of the hosts.
fn lines_of(rows: &[Row]) -> Vec<Vec<String>> {
    let or_no = |good: bool, word: &str| if good { word } else { "NO" }.to_owned();
    let mut lines = vec![
        ["HOST", "TOOK", "MANAGED", "TEMPORARY KEY", "NEW MASTER KEY", "OLD MASTER KEY", "OTHERS' LINES"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        lines.push(vec![
            row.account.clone(),
            format!("{} ms", milliseconds(row.took)),
            or_no(row.managed && row.master_accepted, "yes"),
            or_no(row.temporary_refused, "refused"),
            or_no(row.renewed, "logs in"),
            or_no(row.old_refused, "refused"),
            or_no(row.foreign_kept, "untouched"),
        ]);
    }
    lines
}

async fn onboard(context: &Context, host: &DemoHost, foreign: &str, output: Output) -> Result<Row, Failure> {
    let master = context.master_key().await?;
    let line = ManagedKey {
        role: KeyRole::Master,
        public_key: master.public_key().clone(),
        options: String::new(),
        comment: MASTER_COMMENT.to_owned(),
    };
    let mut request = Request::new(host.account().clone(), line);
    request.pasted = false;
    request.home = Some(path(host.home())?);
    request.host_key_files = vec![path(host.host_key_file())?];
    // This process, or the sshd of this machine, is the server: it is known to read UTC.
    request.expiry = if host.is_sshd() { ExpiryForm::Detect } else { ExpiryForm::Utc };
    let onboarder = context.onboarder().await?;
    let mut operator = DemoOperator::new(output, context.signals.clone());
    let begun = Instant::now();
    let outcome = onboarder.onboard(request, &master, &mut UnwrapErr(SysRng), &mut operator).await?;
    let took = begun.elapsed();
    operator.finish();
    if let Some(reason) = &outcome.reason {
        output.text(format_args!("              {}: {reason}", host.account()));
    }
    let accepts = async |key: &PublicKey| {
        let policy = HostKeyPolicy::Exactly(host.host_key().clone());
        context.connector.would_accept(&outcome.record.route, key, &policy).await.is_ok_and(|answer| answer.accepted)
    };
    let file = fs::read(host.home().join(".ssh/authorized_keys"))?;
    Ok(Row {
        account: host.account().to_string(),
        took,
        managed: outcome.end == End::Completed,
        foreign_kept: file.starts_with(foreign.as_bytes()),
        master_accepted: accepts(master.public_key()).await,
        temporary_refused: !accepts(&outcome.record.temporary_key).await,
        renewed: false,
        old_refused: false,
    })
}

fn path(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
