//! SIGHUP: new connections get the new certificate; a bad one changes nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use connlib_e2e::wait;
use nix::sys::signal::Signal;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

use super::support::{Network, RELAY, SOON, text};

/// A Binding request.
const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42transaction_";

/// Whether the relay is trusted by who trusts `root` alone, and answers.
fn answers(network: &Network, root: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = "relay.test".try_into().unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let answer = network.client.enter(move || {
        let mut tcp = TcpStream::connect((RELAY, 443)).unwrap();
        tcp.set_read_timeout(Some(SOON)).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        stream.write_all(&BINDING)?;
        let mut head = [0; 2];
        stream.read_exact(&mut head).map(|()| head)
    });
    // Binding success response.
    answer.unwrap().is_ok_and(|head| head == [1, 1])
}

#[test]
fn new_connections_get_the_new_one() {
    let network = Network::new();
    let [old, new] = ["old", "new"].map(|name| network.certificate(name));
    let files = ["--tls-cert", text(&old.certificate), "--tls-key", text(&old.key)];
    let relay = network.start(&[&["--listen-tls", "0.0.0.0:443"], &files[..]].concat());
    assert!(answers(&network, &old.der));
    assert!(!answers(&network, &new.der));

    fs::copy(&new.certificate, &old.certificate).unwrap();
    relay.log().allow("the certificate stays as it is");
    relay.signal(Signal::SIGHUP).unwrap();
    wait::until("a complaint", SOON, || {
        relay.log().lines().into_iter().find(|line| line.message.contains("do not fit"))
    })
    .unwrap();
    assert!(answers(&network, &old.der), "half a renewal is none");

    fs::copy(&new.key, &old.key).unwrap();
    relay.signal(Signal::SIGHUP).unwrap();
    relay.log().wait_for("read the certificate again", SOON).unwrap();
    assert!(answers(&network, &new.der));
    assert!(!answers(&network, &old.der));
}
