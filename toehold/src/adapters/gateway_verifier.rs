//! How a TLS handshake knows the gateway: by what a line pins, and by nothing that this machine otherwise trusts.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use toehold_core::Timestamp;
use toehold_joinproto::{GatewayIdentity, JoinError, Trust};

/// Asks [`Trust::check`] whether it is the gateway, and TLS whether it has that certificate's key.
#[derive(Debug)]
pub(crate) struct GatewayVerifier {
    trust: Trust,
    name: String,
    provider: Arc<CryptoProvider>,
    known: OnceLock<GatewayIdentity>,
}

impl GatewayVerifier {
    /// For one connection to a gateway whose endpoint has the host `name`.
    pub(crate) fn new(trust: Trust, name: &str) -> Arc<Self> {
        let provider = Arc::new(ring::default_provider());
        Arc::new(Self { trust, name: name.to_owned(), provider, known: OnceLock::new() })
    }

    /// The gateway that was known in the handshake; `None` where there was none.
    pub(crate) fn known(&self) -> Option<&GatewayIdentity> {
        self.known.get()
    }

    /// The settings of that one connection: TLS 1.3 alone, HTTP/2, nothing resumed and no early data.
    ///
    /// # Errors
    /// Where the provider has no TLS 1.3.
    pub(crate) fn config(self: &Arc<Self>) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(self) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }
}

impl ServerCertVerifier for GatewayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<&CertificateDer<'_>> = std::iter::once(end_entity).chain(intermediates).collect();
        let now = Timestamp::from_unix_seconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        match self.trust.check(&chain, &self.name, now) {
            Ok(identity) => {
                // A connection has one handshake.
                drop(self.known.set(identity));
                Ok(ServerCertVerified::assertion())
            }
            Err(error) => Err(CertificateError::Other(OtherError(Arc::new(error))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why [`Trust::check`] refused, where that is why the handshake failed.
pub(crate) fn refusal(error: &rustls::Error) -> Option<&JoinError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}
