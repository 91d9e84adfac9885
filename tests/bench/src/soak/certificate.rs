//! The relay's certificate, which is renewed while it runs, and who signs it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

pub(super) const NAME: &str = "relay.test";

/// An authority that clients trust, and the files that the relay reads.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Authority {
    /// Makes an authority, and a first certificate of it.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let [certificate, key] = ["relay.crt", "relay.key"].map(|name| directory.join(name));
        let authority = Self { issuer, certificate, key };
        authority.renew()?;
        Ok(authority)
    }

    /// Writes a new key and a certificate for it. The relay reads them when it is told to.
    pub(super) fn renew(&self) -> Result<()> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![NAME.to_owned()])?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&self.certificate, &certificate.pem())?;
        write(&self.key, &key.serialize_pem())
    }

    /// What a client needs to trust any of the relay's certificates.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// For its owner alone: the relay insists.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.with_context(|| path.display().to_string())?;
    Ok(file.write_all(text.as_bytes())?)
}
