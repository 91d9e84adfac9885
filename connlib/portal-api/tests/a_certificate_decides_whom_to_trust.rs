//! A client and a portal with TLS on loopback.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests are tests.

mod portal;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use connlib_portal_api::client::{Config, ConfigError, ConnectionError, Event, Network};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::portal::{Client, Peer, Server, config, next};

/// An authority's certificate in PEM, and what a server needs that it vouches for, by name and by address.
fn authority() -> (String, TlsAcceptor) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(params, authority_key);

    let key = KeyPair::generate().unwrap();
    let names = vec!["portal.test".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (pem, TlsAcceptor::from(Arc::new(config)))
}

fn client(url: String, extra_ca_file: Option<&Path>) -> Result<Client, ConfigError> {
    let extra_ca_file = extra_ca_file.map(Path::to_owned);
    let network = Network {
        resolver: Arc::new(|_| async { Ok(vec!["127.0.0.1".parse().unwrap()]) }),
        ..Network::default()
    };
    Client::new(Config { extra_ca_file, ..config(url) }, network)
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn a_trusted_portal_is_connected_to_by_name_and_by_address() {
    let (pem, acceptor) = authority();
    let file = file(&pem);
    let server = Server::start().await;
    for host in ["portal.test", "127.0.0.1"] {
        let url = format!("wss://{host}:{}", server.address().port());
        let mut client = client(url, Some(file.path())).unwrap();
        let serve = async {
            let tls = acceptor.accept(server.accept_tcp().await).await.unwrap();
            let mut peer = Peer::upgrade(Box::new(tls)).await;
            peer.let_join().await;
            peer
        };
        let (event, _peer) = tokio::join!(next(&mut client), serve);
        assert!(matches!(event, Event::Connected), "{host}: {event:?}");
    }
}

#[tokio::test]
async fn a_portal_that_nobody_vouches_for_or_of_another_name_is_not() {
    let (pem, acceptor) = authority();
    let file = file(&pem);
    let server = Server::start().await;
    for (host, ca) in [("portal.test", None), ("other.test", Some(file.path()))] {
        let url = format!("wss://{host}:{}", server.address().port());
        let mut client = client(url, ca).unwrap();
        let serve = async { acceptor.accept(server.accept_tcp().await).await.is_err() };
        let (event, refused) = tokio::join!(next(&mut client), serve);
        assert!(refused, "{host}");
        assert!(
            matches!(event, Event::Disconnected { error: ConnectionError::Tls(_), .. }),
            "{host}: {event:?}"
        );
    }
}

#[test]
fn a_file_without_certificates_is_an_error() {
    let url = || "wss://portal.test".to_owned();
    let empty = file("no certificate\n");
    for path in [empty.path(), Path::new("/does/not/exist")] {
        let result = client(url(), Some(path)).map(|_| ());
        assert!(matches!(result, Err(ConfigError::ExtraCa { .. })), "{}", path.display());
    }
    // Without TLS, it is not needed.
    assert!(client("ws://portal.test".to_owned(), Some(empty.path())).is_ok());
}
