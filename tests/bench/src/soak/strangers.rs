//! Whom a relay on the open internet meets beside its clients.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustls::ClientConnection;
use socket2::SockRef;

use super::{
    certificate::NAME,
    client::{
        ALLOCATE, BINDING, Client, Families, Identity, Refusal, TRANSPORT, attribute, request,
        transaction,
    },
    link::{self, Link, TCP_PORT, TLS_PORT, Transport, UDP_PORT},
    load::Load,
    network::{RELAY, UNWANTED, any_client, place},
};

/// Between two datagrams.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(10);
/// Between two connections.
const CONNECTION_PAUSE: Duration = Duration::from_millis(250);
/// Between two who do not know the password.
const IMPOSTOR_PAUSE: Duration = Duration::from_secs(1);
/// Connections that say nothing, or half of something, at a time. The relay closes them after ten seconds.
const SILENT: usize = 48;
/// Ports of allocations.
const ALLOCATIONS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// Datagrams without credentials, each from another address and port.
pub(super) fn send_datagrams(load: &Load) {
    let mut rng = SmallRng::seed_from_u64(1 << 32);
    while !load.is_ending() {
        let relay = RELAY[place(rng.random())];
        let source = SocketAddr::new(any_client(&mut rng, relay.is_ipv4()), 0);
        let (port, bytes) = match rng.random_range(0..6) {
            0 => (UDP_PORT, garbage(&mut rng)),
            1 => (UDP_PORT, request(BINDING, transaction(&mut rng), &[], None).unwrap_or_default()),
            2 => (UDP_PORT, allocate(&mut rng)),
            3 => (UDP_PORT, damaged(&mut rng)),
            4 => (UDP_PORT, [&[0x40, rng.random(), 0, 8][..], &[7; 8]].concat()),
            _ => (rng.random_range(ALLOCATIONS), garbage(&mut rng)),
        };
        let result = UdpSocket::bind(source)
            .and_then(|socket| socket.send_to(&bytes, SocketAddr::new(relay, port)));
        match result {
            Ok(_) => load.tally.strange.add(1),
            Err(error) => load.tally.fail("stranger", &error.into()),
        }
        thread::sleep(DATAGRAM_PAUSE);
    }
}

/// Datagrams of peers that nobody has given a permission. To be sent where they live.
pub(super) fn unwanted_sockets() -> Result<Vec<UdpSocket>> {
    UNWANTED.into_iter().map(|ip| Ok(UdpSocket::bind(SocketAddr::new(ip, 0))?)).collect()
}

pub(super) fn send_unwanted(sockets: &[UdpSocket], load: &Load) {
    let mut rng = SmallRng::seed_from_u64(2 << 32);
    while !load.is_ending() {
        for (socket, relay) in sockets.iter().zip(RELAY) {
            let at = SocketAddr::new(relay, rng.random_range(ALLOCATIONS));
            // Most of these ports are nobody's: the relay's machine says so.
            if socket.send_to(&garbage(&mut rng), at).is_ok() {
                load.tally.strange.add(1);
            }
        }
        thread::sleep(DATAGRAM_PAUSE);
    }
}

/// Those who do not know the password, by UDP, TCP and TLS.
pub(super) fn guess_passwords(load: &Load) {
    let mut rng = SmallRng::seed_from_u64(3 << 32);
    while !load.is_ending() {
        if let Err(error) = guess(&mut rng, load) {
            load.tally.fail("impostor", &error);
        }
        thread::sleep(IMPOSTOR_PAUSE);
    }
}

fn guess(rng: &mut SmallRng, load: &Load) -> Result<()> {
    let transport = [Transport::Udp, Transport::Tcp, Transport::Tls][rng.random_range(0..3)];
    let local = SocketAddr::new(any_client(rng, rng.clone().random()), 0);
    let link = Link::open(transport, local, &load.tls)?;
    let Identity { username, .. } = load.identity(rng);
    let identity = Identity { username, password: "guessed".to_owned() };
    let refused = match Client::new(link, identity, SmallRng::from_rng(rng)).allocate(Families::Ip4)
    {
        Ok(_) => false,
        Err(error) => error.downcast::<Refusal>()?.code() == 401,
    };
    ensure!(refused, "somebody without the password was let in");
    load.tally.strange.add(1);
    Ok(())
}

/// Connections that come to nothing: silent ones, halves of handshakes and messages, garbage, and those that break.
pub(super) fn open_connections(load: &Load) {
    let mut rng = SmallRng::seed_from_u64(4 << 32);
    let mut silent = VecDeque::new();
    while !load.is_ending() {
        match open_connection(&mut rng, load) {
            Ok(stream) => {
                load.tally.strange.add(1);
                silent.push_back(stream);
            }
            Err(error) => load.tally.fail("connection", &error),
        }
        if silent.len() > SILENT {
            silent.pop_front();
        }
        thread::sleep(CONNECTION_PAUSE);
    }
}

fn open_connection(rng: &mut SmallRng, load: &Load) -> Result<TcpStream> {
    let is_tls = rng.random();
    let local: IpAddr = any_client(rng, rng.clone().random());
    let port = if is_tls { TLS_PORT } else { TCP_PORT };
    let relay = SocketAddr::new(RELAY[place(local.is_ipv4())], port);
    let mut stream = link::connect(local, relay)?;
    let beginning = if is_tls {
        let mut hello = Vec::new();
        let mut tls = ClientConnection::new(Arc::clone(&load.tls), NAME.try_into()?)?;
        tls.write_tls(&mut hello)?;
        hello
    } else {
        allocate(rng)
    };
    // The relay may be quick to close these.
    let _ = match rng.random_range(0..5) {
        0 => Ok(()),
        1 => stream.write_all(&beginning[..rng.random_range(1..beginning.len())]),
        2 => stream.write_all(&garbage(rng)),
        3 => {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.write_all(&beginning)
        }
        _ => stream.write_all(&beginning).and_then(|()| stream.read(&mut [0; 64]).map(drop)),
    };
    if SockRef::from(&stream).linger()?.is_some() {
        // Reset, not closed.
        return link::connect(local, relay);
    }
    Ok(stream)
}

fn allocate(rng: &mut SmallRng) -> Vec<u8> {
    let id = transaction(rng);
    request(ALLOCATE, id, &[attribute(TRANSPORT.0, TRANSPORT.1)], None).unwrap_or_default()
}

/// A signed request, some bits of which are wrong.
fn damaged(rng: &mut SmallRng) -> Vec<u8> {
    let identity = Identity { username: "user0".to_owned(), password: "guessed".to_owned() };
    let attributes = [attribute(TRANSPORT.0, TRANSPORT.1)];
    let credentials = Some((&identity, "0123456789abcdef"));
    let mut bytes =
        request(ALLOCATE, transaction(rng), &attributes, credentials).unwrap_or_default();
    for _ in 0..rng.random_range(0..4) {
        let index = rng.random_range(0..bytes.len());
        bytes[index] ^= 1 << rng.random_range(0..8);
    }
    bytes
}

fn garbage(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..600)];
    rng.fill_bytes(&mut bytes);
    bytes
}
