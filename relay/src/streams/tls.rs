//! Certificates for TLS, which can be renewed while it runs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result, ensure};
use connlib_daemon::read_guarded;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A longer file is not a key.
const LONGEST_KEY: u64 = 64 * 1024;

/// Where certificate and key are, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What new TLS streams begin with. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    files: TlsFiles,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Certificates {
    pub(crate) fn load(files: TlsFiles) -> Result<Self> {
        let config = Arc::new(RwLock::new(read(&files)?));
        Ok(Self { files, current: config })
    }

    /// What a new stream begins with.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a renewed certificate for new streams; one that cannot be used changes nothing.
    pub(crate) fn reload(&self) {
        match read(&self.files) {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                tracing::info!(certificate = ?self.files.certificate, "read the certificate again");
            }
            Err(error) => tracing::warn!("{error:#}; the certificate stays as it is"),
        }
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let TlsFiles { certificate, key } = files;
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate {}", certificate.display()))?;
    ensure!(!chain.is_empty(), "there is no certificate in {}", certificate.display());
    let pem = read_guarded("private key", key, LONGEST_KEY)?;
    let private_key = PrivateKeyDer::from_pem_slice(&pem)
        .with_context(|| format!("there is no usable private key in {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .with_context(|| {
            format!("certificate {} and private key do not fit", certificate.display())
        })?;
    // RFC 7443. A client that names other protocols alone is none of ours.
    config.alpn_protocols = vec![b"stun.turn".to_vec(), b"stun.nat-discovery".to_vec()];
    Ok(Arc::new(config))
}
