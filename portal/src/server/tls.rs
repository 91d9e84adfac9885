//! TLS for `wss`, where no proxy does it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Where certificate and key are, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and those between it and a root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The TLS side of new connections.
#[derive(Clone)]
pub(super) struct Tls {
    files: TlsFiles,
    acceptor: TlsAcceptor,
}

impl Tls {
    pub(super) fn load(files: &TlsFiles) -> anyhow::Result<Self> {
        let TlsFiles { certificate, key } = files;
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read the certificate {}", certificate.display()))?;
        let private_key = PrivateKeyDer::from_pem_file(key)
            .with_context(|| format!("cannot read the private key {}", key.display()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private_key)
            .context("certificate and private key do not fit")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { files: files.clone(), acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Takes a renewed certificate; one that cannot be used changes nothing.
    pub(super) fn reload(&mut self) {
        match Self::load(&self.files) {
            Ok(tls) => *self = tls,
            Err(error) => tracing::warn!("{error:#}; the certificate stays as it is"),
        }
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}
