//! Whom to trust.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::ConfigError;

/// TLS for HTTP/1.1 that trusts the public roots, those of the operating system, and those of a file. Reads files.
///
/// # Errors
/// If the file is not readable or holds no certificate.
pub fn tls_config(extra_ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        tracing::debug!(%error, "Cannot read certificates of the operating system");
    }
    // An operating system may hold certificates that are too odd for us.
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = extra_ca_file {
        let bad_file = |source| ConfigError::ExtraCa { path: path.to_owned(), source };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(bad_file)? {
            roots.add(certificate.map_err(bad_file)?)?;
        }
        if roots.len() == before {
            return Err(bad_file(rustls::pki_types::pem::Error::NoItemsFound));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
