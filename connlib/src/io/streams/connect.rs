//! Connecting to a relay.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use connlib_link::StreamServer;
use connlib_portal_api::client::SocketFactory;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Bytes that the kernel may keep that are not sent yet. The rest waits with us, where there is a bound.
const UNSENT: u32 = 32 * 1024;

/// A connection, with TLS or without.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

pub(super) struct Connected {
    pub(super) transport: Box<dyn Transport>,
    pub(super) local: SocketAddr,
}

pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<Connected>> + Send>>;

/// Makes connections to relays.
pub(crate) struct Connector {
    sockets: Arc<dyn SocketFactory>,
    /// Most networks have no need of it.
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// `sockets` must keep out of our own tunnel.
    pub(crate) fn new(sockets: Arc<dyn SocketFactory>) -> Self {
        Self { sockets, tls: None }
    }

    pub(super) fn connect(&mut self, server: StreamServer) -> Connecting {
        let sockets = Arc::clone(&self.sockets);
        let tls = match server {
            StreamServer::Tcp(_) => Ok(None),
            StreamServer::Tls(_) => self.tls().map(Some),
        };
        Box::pin(async move { connect(&*sockets, server.address(), tls?).await })
    }

    fn tls(&mut self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = &self.tls {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(tls_config().map_err(io::Error::other)?);
        Ok(Arc::clone(self.tls.insert(config)))
    }
}

async fn connect(
    sockets: &dyn SocketFactory,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
) -> io::Result<Connected> {
    let tcp = sockets.tcp(address)?.connect(address).await?;
    connlib_net::prepare_for_datagrams(&tcp, UNSENT);
    let local = tcp.local_addr()?;
    let transport: Box<dyn Transport> = match tls {
        None => Box::new(tcp),
        Some(config) => {
            let name = ServerName::from(address.ip());
            Box::new(TlsConnector::from(config).connect(name, tcp).await?)
        }
    };
    Ok(Connected { transport, local })
}

fn tls_config() -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let anyone = Arc::new(Anyone(Arc::clone(&provider)));
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth())
}

/// Takes any certificate: TLS is a coat here, for firewalls that let nothing else through, and protects nothing.
///
/// The portal names relays by address, so that there is no name to verify. A relay proves itself as it does over UDP, by
/// signing its answers with the password that the portal gave both of us (RFC 8489 §9.2); what it carries is encrypted
/// and authenticated between the peers. Whoever stands in between learns and can do what they could with UDP.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
