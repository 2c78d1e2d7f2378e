//! The connection, and the bucket as it has to be.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::{Instant, sleep};

use super::asking::ask;
use super::list::Long;
use super::{Inner, NatsAddress, NatsError, NatsStore};
use crate::adapters::system_roots;
use crate::cli::chain;
use crate::private;

/// The most bytes of a file with credentials or certificates.
const MAX_FILE: usize = 1024 * 1024;

/// How often a server is asked whether it is there. One that answers two of these questions with silence is left for another when the third
/// is due.
const PING: Duration = Duration::from_secs(2);
/// How long a server may take to let us in: one that stands still accepts connections, and says nothing over them.
const GREETING: Duration = Duration::from_secs(3);

/// How to come to a shared store.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// A credentials file: a JWT and the seed of its NKEY, as `nsc` writes them; private.
    pub credentials: Option<PathBuf>,
    /// A file with the seed of an NKEY; private.
    pub nkey: Option<PathBuf>,
    /// The certificates (PEM) that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long one operation may take (default 10 s).
    pub patience: Duration,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self { credentials: None, nkey: None, ca: None, patience: Duration::from_secs(10) }
    }
}

pub(super) async fn connect(address: &NatsAddress, options: &NatsOptions) -> Result<Client, NatsError> {
    let mut how = ConnectOptions::new()
        .name(concat!("toehold ", env!("CARGO_PKG_VERSION")))
        .ping_interval(PING)
        .connection_timeout(GREETING.min(options.patience))
        .request_timeout(Some(options.patience));
    if let Some(path) = &options.credentials {
        let no_credentials = || NatsError::File { path: path.display().to_string(), wanted: "credentials file of NATS" };
        let text = private_text(path)?;
        how = how.credentials(&text).map_err(|_| no_credentials())?;
    }
    if let Some(path) = &options.nkey {
        how = how.nkey(private_text(path)?.trim().to_owned());
    }
    let encrypts = !address.is_loopback() || options.ca.is_some();
    if encrypts {
        how = how.require_tls(true).tls_client_config(tls(options)?);
    } else {
        // Others than those that were named may be elsewhere (N5).
        how = how.ignore_discovered_servers();
    }
    let servers: Vec<String> = address.servers().collect();
    let deadline = Instant::now() + options.patience;
    let client = loop {
        match how.clone().connect(servers.clone()).await {
            // A busy one may do it the next time.
            Err(error) if error.kind() == ConnectErrorKind::TimedOut && Instant::now() < deadline => {}
            client => break client,
        }
    };
    client.map_err(|error| {
        let reason = chain(&error);
        // What comes in the clear instead of the server's part of a handshake.
        if encrypts && reason.contains("InvalidContentType") {
            NatsError::Plaintext
        } else {
            NatsError::Unreachable { address: address.clone(), reason }
        }
    })
}

fn private_text(path: &std::path::Path) -> Result<zeroize::Zeroizing<String>, NatsError> {
    let absent = || NatsError::File { path: path.display().to_string(), wanted: "file that is there" };
    let bytes = private::read(path, MAX_FILE)?.ok_or_else(absent)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| NatsError::File { path: path.display().to_string(), wanted: "text" })?;
    Ok(zeroize::Zeroizing::new(text.to_owned()))
}

fn tls(options: &NatsOptions) -> Result<rustls::ClientConfig, NatsError> {
    let Some(path) = &options.ca else { return system_roots::client_config().map_err(|error| NatsError::engine(&error)) };
    let unreadable = || NatsError::File { path: path.display().to_string(), wanted: "list of certificates (PEM)" };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|_| unreadable())? {
        roots.add(certificate.map_err(|_| unreadable())?).map_err(|_| unreadable())?;
    }
    if roots.is_empty() {
        return Err(unreadable());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|error| NatsError::engine(&error))?.with_root_certificates(roots).with_no_client_auth())
}

fn context(client: &Client, patience: Duration) -> Context {
    let mut context = async_nats::jetstream::new(client.clone());
    context.set_timeout(patience);
    context
}

fn stream(address: &NatsAddress) -> String {
    format!("KV_{}", address.bucket())
}

/// Makes the bucket where there is none.
pub(super) async fn make(client: &Client, address: &NatsAddress, replicas: usize) -> Result<(), NatsError> {
    let config = Config {
        name: stream(address),
        description: Some("Toehold".to_owned()),
        subjects: vec![format!("$KV.{}.>", address.bucket())],
        max_messages_per_subject: 1,
        // A bucket that is full says so; it does not forget.
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        // With a header of one record, whoever may write that would remove all the others (N2).
        allow_rollup: false,
        deny_delete: true,
        duplicate_window: DUPLICATES,
        // A replica may be behind: the leader answers.
        allow_direct: false,
        ..Config::default()
    };
    let context = context(client, TRY);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = context.create_stream(config.clone()).await else { return Ok(()) };
        match error.kind() {
            // Another one's: the check of what is there says whether it will do.
            CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => return Ok(()),
            // What is asked before there is a leader is not answered by the one that comes.
            CreateStreamErrorKind::TimedOut if Instant::now() < deadline => {}
            CreateStreamErrorKind::JetStream(error) if error.code() == UNAVAILABLE && Instant::now() < deadline => {
                sleep(PAUSE).await;
            }
            _ => return Err(NatsError::engine(&error)),
        }
    }
}

/// How long the servers know the names of writes; it has to be longer than any write can be on its way between them.
const DUPLICATES: Duration = Duration::from_secs(120);
/// How long the making of a bucket may take, and one try: a cluster has to agree on its leader first.
const PATIENCE: Duration = Duration::from_secs(30);
const TRY: Duration = Duration::from_secs(2);
/// After a server that says that it cannot now.
const PAUSE: Duration = Duration::from_millis(200);
/// The status of an answer that another try may have a better one to.
const UNAVAILABLE: usize = 503;

/// Opens the bucket that is there.
pub(super) async fn existing(client: Client, address: &NatsAddress, options: &NatsOptions) -> Result<NatsStore, NatsError> {
    let context = context(&client, options.patience);
    let asked = ask(options.patience, || context.get_stream(stream(address))).await?;
    let stream = asked.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            NatsError::Absent { address: address.clone() }
        }
        _ => NatsError::engine(&error),
    })?;
    if let Some(reason) = unfit(&stream.cached_info().config, address) {
        return Err(NatsError::Bucket { address: address.clone(), reason });
    }
    let prefix = format!("$KV.{}.", address.bucket());
    let (address, patience) = (address.clone(), options.patience);
    // What it has come to when it is opened it must not fall behind, also where nothing was written yet.
    let acknowledged = AtomicU64::new(stream.cached_info().state.last_sequence);
    let inner = Inner { address, client, stream, context, prefix, patience, acknowledged, long: Long::default() };
    Ok(NatsStore { inner: Arc::new(inner) })
}

/// Why a bucket would not keep what it was given.
fn unfit(config: &Config, address: &NatsAddress) -> Option<Cow<'static, str>> {
    let removes_all = || {
        config.allow_rollup.then(|| {
            let command = format!("nats stream edit {} --no-allow-rollup", stream(address));
            format!("whoever may write one record of it could remove all of them; to forbid that: {command}").into()
        })
    };
    loses_values(config, address).map(Cow::Borrowed).or_else(removes_all)
}

fn loses_values(config: &Config, address: &NatsAddress) -> Option<&'static str> {
    let is_limited = config.max_messages > 0 || config.max_bytes > 0;
    let has_sources = config.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    if config.subjects != [format!("$KV.{}.>", address.bucket())] || config.mirror.is_some() || has_sources {
        Some("it is a stream for something else")
    } else if config.retention != RetentionPolicy::Limits {
        Some("it forgets what nobody waits for, or what somebody has read")
    } else if config.max_messages_per_subject != 1 {
        Some("it keeps a history of its keys")
    } else if config.storage != StorageType::File {
        Some("it lies in memory, and is gone with its server")
    } else if !config.max_age.is_zero() {
        Some("its values vanish with age")
    } else if is_limited && config.discard != DiscardPolicy::New {
        Some("it forgets old values when it is full")
    } else if config.duplicate_window < DUPLICATES {
        Some("it does not know duplicates for two minutes")
    } else if config.sealed || config.no_ack {
        Some("it takes no writes, or does not acknowledge them")
    } else {
        None
    }
}
