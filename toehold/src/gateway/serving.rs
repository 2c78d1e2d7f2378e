//! The key that a gateway presents, with all that follows from it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ed25519_dalek::SigningKey;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use toehold_joinproto::GatewayIdentity;
use toehold_joinproto::opni::{OpniGateway, Signatures};
use toehold_joinproto::pin::Pin;
use zeroize::Zeroizing;

use super::GatewayError;

/// PKCS #8 (RFC 8410) of an Ed25519 key, version 1 and 2, up to the seed.
const PKCS8_V1: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// What names the key's algorithm in either version.
const ED25519_SEED: [u8; 11] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A key as it is presented. Connections hold on to the one that they began with.
pub struct Serving {
    /// TLS with it.
    pub(super) tls: Arc<ServerConfig>,
    /// Whether the operator brought the key; then none of the gateway's own making takes its place.
    pub(super) is_supplied: bool,
    /// Its sha256 pin.
    pub(super) pin: Pin,
    /// What signs for Opni's agents; none where it is not an Ed25519 key.
    pub(super) opni: Option<OpniGateway>,
    /// The signatures that it has made.
    pub(super) signatures: Mutex<Signatures>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl Serving {
    /// Of a key of our own making, with a certificate for `host`.
    ///
    /// # Errors
    /// [`GatewayError::Tls`].
    pub fn generated(seed: &Zeroizing<[u8; 32]>, host: Option<&str>, capabilities: &[String]) -> Result<Self, GatewayError> {
        let pkcs8 = Zeroizing::new([&PKCS8_V1[..], &seed[..]].concat());
        let key = PrivatePkcs8KeyDer::from(pkcs8.to_vec());
        let chain = self_signed(&key, host.unwrap_or("toehold-gateway")).map_err(|error| GatewayError::Tls(Box::new(error)))?;
        Self::new(vec![chain], PrivateKeyDer::Pkcs8(key), capabilities, false)
    }

    /// Of files that the operator brings: a certificate chain, leaf first, and its key, both PEM.
    ///
    /// # Errors
    /// [`GatewayError::File`], [`GatewayError::Tls`].
    pub fn from_files(certificate: &Path, key: &Path, capabilities: &[String]) -> Result<Self, GatewayError> {
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |source: rustls_pki_types::pem::Error| GatewayError::File { what, path, source: Box::new(source) }
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .map_err(file("certificate", certificate))?
            .collect::<Result<_, _>>()
            .map_err(file("certificate", certificate))?;
        if chain.is_empty() {
            let source = "there is no certificate in it".into();
            return Err(GatewayError::File { what: "certificate", path: certificate.to_owned(), source });
        }
        crate::private::check_file(key).map_err(|error| GatewayError::File {
            what: "key",
            path: key.to_owned(),
            source: Box::new(error),
        })?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(file("key", key))?;
        Self::new(chain, private, capabilities, true)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        capabilities: &[String],
        is_supplied: bool,
    ) -> Result<Self, GatewayError> {
        let bad = |reason: &'static str| GatewayError::Tls(reason.into());
        let leaf = chain.first().ok_or_else(|| bad("there is no certificate"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| bad("the certificate cannot be read"))?;
        let pin = GatewayIdentity::from_key(parsed.tbs_certificate.subject_pki.raw).pin();
        let opni = ed25519(&key).map(|key| {
            let capabilities = (!capabilities.is_empty()).then(|| capabilities.iter().cloned().collect());
            OpniGateway::new(key, capabilities)
        });
        let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| GatewayError::Tls(Box::new(error)))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // Neither early data nor resumption: each connection proves the gateway's key anew.
        tls.max_early_data_size = 0;
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { tls: Arc::new(tls), is_supplied, pin, opni, signatures: Mutex::new(Signatures::new()) })
    }

    /// Its pin.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Whether Opni's agents can join with it.
    pub fn serves_opni(&self) -> bool {
        self.opni.is_some()
    }
}

fn self_signed(key: &PrivatePkcs8KeyDer<'_>, host: &str) -> Result<CertificateDer<'static>, rcgen::Error> {
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(key, &rcgen::PKCS_ED25519)?;
    let mut parameters = rcgen::CertificateParams::new(vec![host.to_owned()])?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "toehold gateway");
    // Clients go by the pin; rcgen's dates reach from 1975 to 4096.
    Ok(parameters.self_signed(&pair)?.der().clone())
}

/// The key's seed, where it is an Ed25519 key.
fn ed25519(key: &PrivateKeyDer<'_>) -> Option<SigningKey> {
    let PrivateKeyDer::Pkcs8(key) = key else { return None };
    let der = key.secret_pkcs8_der();
    // Length, version, then the algorithm: the same place in both versions.
    let seed = der.get(5..)?.strip_prefix(&ED25519_SEED)?.first_chunk::<32>()?;
    Some(SigningKey::from_bytes(seed))
}
