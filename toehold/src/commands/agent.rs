//! `toehold agent join` and `toehold agent ping`: the machine's own side.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use getrandom::SysRng;
use getrandom::rand_core::{Rng as _, UnwrapErr};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use toehold_core::{Clock as _, SecretBytes, Timestamp};
use toehold_joinproto::line::{JoinLine, LineError, Protocol};
use toehold_joinproto::token::Token;
use toehold_joinproto::{Endpoint, JoinError, Trust};
use toehold_specsign::SpecName;
use zeroize::Zeroizing;

use crate::adapters::gateway_connection::{GatewayConnection, GatewayConnectionError, GatewayLimits};
use crate::adapters::system_clock::SystemClock;
use crate::agent::{
    AgentDirectory, AgentError, AgentSession, JoinOutcome, JoinRequest, Membership, OpniOptions, Reached, SpecTrust, Stage,
    Whoami, finish_half_done, join,
};
use crate::cli::agent_args::{AgentFiles, AgentJoin, AgentPing, OpniVersion, TrustChoice};
use crate::cli::args::Global;
use crate::cli::context::{limits, prompt, state_directory};
use crate::cli::{Exit, Failure, Output, Signals, chain};
use crate::state::PassphraseFile;

/// The most bytes that a line on standard input has.
const MAX_LINE: usize = 8192;
/// How far apart two clocks may be before it is said, in seconds.
const CLOCK_ERROR: u64 = 30;

/// `toehold agent join`, but for `--local`.
///
/// # Errors
/// Where this machine does not join, with what to do next.
pub(super) async fn join_line(
    global: &Global,
    options: &AgentJoin,
    output: Output,
    mut signals: Signals,
) -> Result<Exit, Failure> {
    let request = tokio::select! {
        request = request(options) => request?,
        () = signals.wait() => return Err(Failure::new("interrupted")),
    };
    let directory =
        AgentDirectory::create(&agent_directory(global, &options.files)?).map_err(|error| failure(&error, Stage::Begun))?;
    let outcome = run(&directory, request, gateway_limits(global), signals, output).await?;
    tell_joined(&directory, &outcome, output);
    Ok(Exit::Done)
}

/// Joins, unless a signal comes first, and takes what the gateway's operator says of specifications along (S3).
///
/// # Errors
/// Where this machine does not join, with what to do next.
pub(super) async fn run(
    directory: &AgentDirectory,
    request: JoinRequest,
    limits: GatewayLimits,
    mut signals: Signals,
    output: Output,
) -> Result<JoinOutcome, Failure> {
    let reached = Reached::default();
    let mut rng = UnwrapErr(SysRng);
    let joined = tokio::select! {
        joined = join(directory, request, limits, &reached, &mut rng) => joined,
        () = signals.wait() => {
            let failure = Failure::new("interrupted");
            return Err(if reached.stage() == Stage::Begun { failure } else { unfinished(failure) });
        }
    };
    let outcome = joined.map_err(|error| failure(&error, reached.stage()))?;
    if !outcome.already && outcome.membership.joined.is_v3() {
        let taken = tokio::select! {
            taken = take_specs(directory, limits) => taken.map_err(|error| chain(&error)),
            () = signals.wait() => Err("interrupted".to_owned()),
        };
        // The join itself is done, and what was not said with it is asked for by the first spec apply.
        if let Err(why) = taken {
            output.aside(&format!(
                "warning: the gateway did not say which specifications there are ({why}); the first spec apply of one asks it again"
            ));
        }
    }
    Ok(outcome)
}

/// Keeps what the gateway's operator says of specifications, as it is at the join: who controls the gateway later cannot begin this machine
/// with older ones, or with other keys (S3).
async fn take_specs(directory: &AgentDirectory, limits: GatewayLimits) -> Result<(), AgentError> {
    let said = authenticate(directory, limits).await?.session.trusted_specs(None).await?;
    directory.add_specs(&directory.lock()?, said)
}

/// The document of a specification from the gateway, and what this machine begins with there: what the gateway's operator said at the
/// join, or of a specification that is younger, when it was asked for first (S3).
///
/// # Errors
/// [`AgentError`].
pub(super) async fn spec(
    directory: &AgentDirectory,
    limits: GatewayLimits,
    name: &SpecName,
) -> Result<(Option<Vec<u8>>, Option<SpecTrust>), AgentError> {
    let mut session = authenticate(directory, limits).await?.session;
    let mut begin = directory.specs()?.remove(name);
    if begin.is_none() {
        let said = session.trusted_specs(Some(name)).await?;
        begin = said.get(name).cloned();
        let lock = directory.lock()?;
        directory.add_specs(&lock, said)?;
    }
    Ok((session.spec(name).await?, begin))
}

/// A session with the gateway that this machine has joined.
///
/// # Errors
/// [`AgentError`].
pub(super) async fn session(directory: &AgentDirectory, limits: GatewayLimits) -> Result<AgentSession, AgentError> {
    Ok(authenticate(directory, limits).await?.session)
}

/// Says that a join went well.
pub(super) fn tell_joined(directory: &AgentDirectory, outcome: &JoinOutcome, output: Output) {
    let JoinOutcome { membership, already, resumed, .. } = outcome;
    // For the eye alone; whoever applies one reads it again, and hears of what is wrong with the file.
    let specs = directory.specs().unwrap_or_default();
    let mut document = document(membership);
    if let Some(object) = document.as_object_mut() {
        object.insert("already".to_owned(), (*already).into());
        object.insert("resumed".to_owned(), (*resumed).into());
        object.insert("keyring".to_owned(), directory.keyring_path().display().to_string().into());
        object.insert("specifications".to_owned(), specs.iter().map(|(name, from)| (name.to_string(), from.serial)).collect());
    }
    output.document(&document);
    let joined = &membership.joined;
    let endpoint = joined.endpoint().map_or_else(|_| String::new(), |endpoint| endpoint.to_string());
    if *already {
        output.text(format_args!("This machine joined {endpoint} before, as {}; nothing was changed.", joined.id));
        return;
    }
    if *resumed {
        output.text("An earlier try had gone through; it has been brought to its end.");
    }
    let role = membership.role.as_ref().map(|role| format!(" (role {role})")).unwrap_or_default();
    output.text(format_args!("Joined {endpoint} as {}{role}.", joined.id));
    output.text(format_args!("Its keys are in {}.", directory.keyring_path().display()));
    if !specs.is_empty() {
        let specs: Vec<String> = specs.iter().map(|(name, from)| format!("{name} (from serial {} on)", from.serial)).collect();
        output.text(format_args!("Specifications that it knows the keys of: {}.", specs.join(", ")));
    }
    output.text("Check it: toehold agent ping");
}

fn document(membership: &Membership) -> serde_json::Value {
    let joined = &membership.joined;
    json!({
        "id": joined.id,
        "endpoint": joined.endpoint().ok().map(|endpoint| endpoint.to_string()),
        "protocol": joined.protocol,
        "role": membership.role,
        "token": joined.token,
        "joined_at": membership.joined_at,
    })
}

/// Where the agent's files are.
///
/// # Errors
/// Where there is no home directory to keep them in.
pub(super) fn agent_directory(global: &Global, files: &AgentFiles) -> Result<PathBuf, Failure> {
    match &files.agent_dir {
        Some(directory) => Ok(directory.clone()),
        None => Ok(state_directory(global)?.join("agent")),
    }
}

/// How long a gateway may take for what.
pub(super) fn gateway_limits(global: &Global) -> GatewayLimits {
    let limits = limits(global);
    GatewayLimits { connect: limits.connect, handshake: limits.login, answer: limits.request }
}

async fn request(options: &AgentJoin) -> Result<JoinRequest, Failure> {
    let line = line(options).await?;
    let opni =
        OpniOptions { client_id: options.client_id.clone(), name: options.name.clone(), capability: options.capability.clone() };
    check_options(&line, &opni, options)?;
    let trust = trust(&line, options)?;
    Ok(JoinRequest { line, trust, opni, rejoin: options.rejoin })
}

/// The line: from the command line, standard input or a file, or put together from its parts.
async fn line(options: &AgentJoin) -> Result<JoinLine, Failure> {
    if let Some(endpoint) = &options.endpoint {
        let token = options.token.as_ref().ok_or_else(|| Failure::usage("--endpoint needs --token, and --pin"))?;
        let text =
            if token.expose() == "-" { from_stdin("The token: ").await? } else { Zeroizing::new(token.expose().to_owned()) };
        let token = Token::parse(text.trim()).map_err(|error| Failure::usage(format!("--token: {error}")))?;
        let protocol = match options.opni {
            None => Protocol::V3,
            Some(OpniVersion::V1) => Protocol::V1,
            Some(OpniVersion::V2) => Protocol::V2,
        };
        return Ok(JoinLine { protocol, endpoint: endpoint.clone(), token, pins: options.pins.clone() });
    }
    let text = match (&options.line, &options.file) {
        (Some(line), _) if line.expose() == "-" => from_stdin("The line to join with: ").await?,
        (Some(line), _) => Zeroizing::new(line.expose().to_owned()),
        (None, Some(file)) => from_file(file)?,
        (None, None) => return Err(Failure::usage("there is no line to join with")),
    };
    text.trim().parse().map_err(|error: LineError| {
        Failure::usage(error.to_string()).hint("have a new one printed on the gateway's machine: toehold token create")
    })
}

/// The first line of standard input; a terminal does not show it. On a thread of its own, since somebody may take their time.
async fn from_stdin(question: &'static str) -> Result<Zeroizing<String>, Failure> {
    let reading = tokio::task::spawn_blocking(move || match prompt(question)? {
        Some(line) => Ok(line),
        None => read_line().map(SecretBytes::from),
    });
    let read: std::io::Result<SecretBytes> = reading.await?;
    first_line(read?.expose())
}

/// Up to the end of the line, not of the input: whoever feeds it may keep it open.
fn read_line() -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; MAX_LINE]);
    let mut filled = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
        match rustix::io::read(std::io::stdin(), &mut *free) {
            Ok(0) => break,
            Ok(count) => {
                filled += count;
                if free.get(..count).is_some_and(|read| read.contains(&b'\n')) {
                    break;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let read = PassphraseFile(path.to_owned()).read().map_err(|error| Failure::new(chain(&error)))?;
    first_line(read.expose())
}

fn first_line(bytes: &[u8]) -> Result<Zeroizing<String>, Failure> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| Failure::usage("what was read is not a line to join with"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn check_options(line: &JoinLine, opni: &OpniOptions, options: &AgentJoin) -> Result<(), Failure> {
    let (v1, v2) = (line.protocol == Protocol::V1, line.protocol == Protocol::V2);
    let misplaced = [
        ("--client-id", opni.client_id.is_some() && !(v1 || v2)),
        ("--trust", options.trust.is_some() && !(v1 || v2)),
        ("--ca-cert", !options.ca_certificates.is_empty() && options.trust != Some(TrustChoice::Ca)),
        ("--name", opni.name.is_some() && !v2),
        ("--capability", opni.capability.is_some() && !v1),
    ];
    if let Some((option, _)) = misplaced.iter().find(|(_, is)| *is) {
        let fit = if *option == "--ca-cert" { "--trust ca" } else { "another version of the protocol" };
        return Err(Failure::usage(format!("{option} belongs to {fit}, and this is for {}", line.protocol)));
    }
    if v1 && opni.capability.is_none() {
        return Err(Failure::usage("v1 needs --capability: what this machine joins for"));
    }
    Ok(())
}

fn trust(line: &JoinLine, options: &AgentJoin) -> Result<Trust, Failure> {
    let pins = || {
        if line.pins.is_empty() {
            return Err(Failure::usage("there is no pin to know the gateway by; name one with --pin"));
        }
        Ok(line.pins.clone())
    };
    match options.trust.unwrap_or(TrustChoice::Pinned) {
        TrustChoice::Pinned => Ok(Trust::Pinned(pins()?)),
        TrustChoice::OpniPinned => Ok(Trust::OpniPinned(pins()?)),
        TrustChoice::Ca => {
            let mut certificates = Vec::new();
            for path in &options.ca_certificates {
                certificates.extend(read_certificates(path)?);
            }
            if certificates.is_empty() {
                return Err(Failure::usage("--trust ca needs --ca-cert"));
            }
            Ok(Trust::CaCertificates(certificates))
        }
        TrustChoice::DangerousInsecure => Ok(Trust::DangerousInsecure),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let named = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| named(error.to_string()))?;
    let certificates = certificates.map(|der| der.map(|der| der.to_vec())).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| named(error.to_string()))?;
    if certificates.is_empty() { Err(named("it holds no certificate in PEM".to_owned())) } else { Ok(certificates) }
}

/// A join that may have gone through as far as the gateway is concerned.
fn unfinished(failure: Failure) -> Failure {
    failure.partly().hint("run the same command again: it is the same admission, and takes no further use of the token")
}

/// Why it failed, with what to do next.
pub(super) fn failure(error: &AgentError, stage: Stage) -> Failure {
    let failure = Failure::new(chain(error));
    let join = match error {
        AgentError::Connection(GatewayConnectionError::NotTheGateway { source, .. }) | AgentError::Join { source, .. } => {
            Some(source)
        }
        _ => None,
    };
    let hint = match (error, join) {
        (_, Some(JoinError::RootCAHashMismatch | JoinError::NoRootCA)) => {
            "somebody else answers there, or the gateway's key was changed: compare the line's pins with those of toehold gateway pin, \
             and get a new line with toehold token create; nothing was sent but the handshake"
        }
        (_, Some(JoinError::KeyExpired)) => "set this machine's clock, or renew the certificate on the gateway",
        (_, Some(JoinError::WrongName { .. })) => "use the endpoint that the gateway's certificate is for",
        (_, Some(JoinError::NoValidSignature | JoinError::Refused { .. })) if stage < Stage::Confirmed => {
            "get a new line on the gateway's machine: toehold token create; if this one is new, the gateway may be in trouble of its own, and the same line is good later"
        }
        (AgentError::Connection(GatewayConnectionError::Unreachable { .. } | GatewayConnectionError::TimedOut { .. }), _) => {
            "is toehold gateway serve at work there, and may this machine connect to it?"
        }
        (AgentError::OtherJoined { .. }, _) => "to join anew all the same: --rejoin; to be an agent of both: --agent-dir DIR",
        (AgentError::NotJoined { .. }, _) => "join one: toehold agent join LINE",
        (AgentError::Busy { .. }, _) => "wait until it has ended, and run this again",
        _ => "",
    };
    let is_no = error.is_decision() || matches!(join, Some(JoinError::Refused { .. }));
    let is_in_doubt = stage == Stage::Confirmed || (stage == Stage::Proven && !is_no);
    if is_in_doubt {
        unfinished(failure)
    } else if hint.is_empty() {
        failure
    } else {
        failure.hint(hint)
    }
}

/// `toehold agent ping`.
///
/// # Errors
/// Where this machine has not joined, or the gateway does not answer as the one that was joined.
pub(super) async fn ping(global: &Global, options: &AgentPing, output: Output, mut signals: Signals) -> Result<Exit, Failure> {
    let directory =
        AgentDirectory::open(&agent_directory(global, &options.files)?).map_err(|error| failure(&error, Stage::Begun))?;
    let limits = gateway_limits(global);
    tokio::select! {
        pinged = ping_once(&directory, limits) => tell_pinged(&pinged.map_err(|error| ping_failure(&error))?, output),
        () = signals.wait() => return Err(Failure::new("interrupted")),
    }
    Ok(Exit::Done)
}

/// What a ping has shown.
pub(super) struct Pinged {
    membership: Membership,
    whoami: Whoami,
    gateway_pin: String,
    authenticated_in: Duration,
    answered_in: Duration,
    gateway_time: Timestamp,
    our_time: Timestamp,
    pins_saved: bool,
    /// Another gateway, at which a join has begun and not ended.
    half_joined: Option<Endpoint>,
}

/// A session that is open, and how that went.
struct Opened {
    membership: Membership,
    session: AgentSession,
    gateway_pin: String,
    authenticated_in: Duration,
    pins_saved: bool,
    half_joined: Option<Endpoint>,
}

/// Authenticates with the gateway that was joined, and saves and acknowledges its new pins.
async fn authenticate(directory: &AgentDirectory, limits: GatewayLimits) -> Result<Opened, AgentError> {
    let mut rng = UnwrapErr(SysRng);
    let mut half_joined = None;
    if let Some(attempt) = directory.attempt()? {
        let elsewhere = attempt.joined.endpoint()?;
        let joined = directory.membership()?.map(|membership| membership.joined.endpoint()).transpose()?;
        if joined.is_some_and(|joined| joined != elsewhere) {
            // Whatever has become of that, this machine has a gateway, which is the one that is asked.
            half_joined = Some(elsewhere);
        } else {
            let lock = directory.lock()?;
            finish_half_done(directory, &lock, limits, &mut rng).await?;
        }
    }
    let not_joined = || AgentError::NotJoined { directory: directory.path().to_owned() };
    let membership = directory.membership()?.ok_or_else(not_joined)?;
    let mut keyring = directory.keyring()?.ok_or_else(not_joined)?;
    let endpoint = membership.joined.endpoint()?;
    let keys = keyring.shared_keys.first().ok_or_else(not_joined)?.duplicate();
    let connection = GatewayConnection::open(&endpoint, membership.joined.trust.with(&keyring), limits).await?;
    let since = Instant::now();
    let mut session = AgentSession::open(&connection, &endpoint, &membership.joined.id, &keys, limits.answer, &mut rng).await?;
    let authenticated_in = since.elapsed();
    let mut pins_saved = false;
    // What it will never look at it does not say that it keeps: the gateway would switch to a key that this machine refuses (J4).
    let new_pins = session.new_pins().filter(|_| membership.joined.trust.goes_by_pins());
    if let Some(pins) = new_pins.map(<[_]>::to_vec) {
        // Durable first, acknowledged then (J4).
        if keyring.pinned_keys != [pins.clone()] {
            let lock = directory.lock()?;
            // Keys that another join has brought meanwhile are not written over.
            if directory.keyring()?.as_ref() == Some(&keyring) {
                keyring.pinned_keys = vec![pins.clone()];
                directory.save_keyring(&lock, &keyring)?;
                pins_saved = true;
            }
        }
        if keyring.pinned_keys == [pins.clone()] {
            session.pins_saved(&pins).await?;
        }
    }
    let gateway_pin = connection.identity().pin().to_string();
    Ok(Opened { membership, session, gateway_pin, authenticated_in, pins_saved, half_joined })
}

/// Authenticates, saves and acknowledges new pins, and pings.
///
/// # Errors
/// [`AgentError`].
pub(super) async fn ping_once(directory: &AgentDirectory, limits: GatewayLimits) -> Result<Pinged, AgentError> {
    let Opened { membership, mut session, gateway_pin, authenticated_in, pins_saved, half_joined } =
        authenticate(directory, limits).await?;
    let mut payload = [0; 16];
    UnwrapErr(SysRng).fill_bytes(&mut payload);
    let since = Instant::now();
    let gateway_time = session.ping(&payload).await?;
    let answered_in = since.elapsed();
    let our_time = SystemClock.now();
    let whoami = session.whoami().await?;
    Ok(Pinged { membership, whoami, gateway_pin, authenticated_in, answered_in, gateway_time, our_time, pins_saved, half_joined })
}

fn tell_pinged(pinged: &Pinged, output: Output) {
    let Pinged { membership, whoami, .. } = pinged;
    let ahead = pinged.gateway_time.unix_seconds() - pinged.our_time.unix_seconds();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    output.document(&json!({
        "id": whoami.id,
        "role": whoami.role,
        "labels": whoami.labels.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "joined_at": whoami.joined_at,
        "endpoint": membership.joined.endpoint().ok().map(|endpoint| endpoint.to_string()),
        "gateway_pin": pinged.gateway_pin,
        "gateway_time": pinged.gateway_time,
        "clock_error": ahead,
        "authenticated_in_milliseconds": milliseconds(pinged.authenticated_in),
        "answered_in_milliseconds": milliseconds(pinged.answered_in),
        "pins_saved": pinged.pins_saved,
        "half_joined": pinged.half_joined.as_ref().map(Endpoint::to_string),
    }));
    let endpoint = membership.joined.endpoint().map_or_else(|_| String::new(), |endpoint| endpoint.to_string());
    output.text(format_args!(
        "{endpoint} knows this machine as {} (role {}), and answered in {:.1} ms.",
        whoami.id,
        whoami.role,
        milliseconds(pinged.answered_in)
    ));
    if pinged.pins_saved {
        output.text("It has a new key, whose pin is saved.");
    }
    if let Some(elsewhere) = &pinged.half_joined {
        output.text(format_args!("A join at {elsewhere} has begun and not ended: run that toehold agent join again."));
    }
    if ahead.unsigned_abs() > CLOCK_ERROR {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        output.text(format_args!("Its clock is {} s {way} this machine's.", ahead.unsigned_abs()));
    }
}

pub(super) fn ping_failure(error: &AgentError) -> Failure {
    match error {
        AgentError::NotKnown { .. } => Failure::new(chain(error)).hint(
            "it was removed there, or joined anew elsewhere: get a new line with toehold token create, then toehold agent join --rejoin LINE",
        ),
        AgentError::Refused { .. } if error.is_unimplemented() => {
            Failure::new(chain(error)).hint("a gateway of Opni's has no such service; its agents use its own")
        }
        error => failure(error, Stage::Begun),
    }
}
