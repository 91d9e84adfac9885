//! Peers: they send back what they get.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Result;

use super::{load::Load, network::PEERS};

pub(super) const PORTS: std::ops::Range<u16> = 4000..4004;

/// How soon the end is noticed.
const NAP: Duration = Duration::from_millis(200);

/// The sockets of all peers. To be called where they live.
pub(super) fn open() -> Result<Vec<UdpSocket>> {
    let all = PEERS.into_iter().flat_map(|ip| PORTS.map(move |port| SocketAddr::new(ip, port)));
    all.map(|at| Ok(UdpSocket::bind(at)?)).collect()
}

/// Until all of the load is over.
pub(super) fn run(socket: &UdpSocket, load: &Load) -> Result<()> {
    socket.set_read_timeout(Some(NAP))?;
    let mut buffer = vec![0; 65_535];
    while !load.is_over() {
        match socket.recv_from(&mut buffer) {
            // An allocation may be gone meanwhile, or the queue be full.
            Ok((length, from)) => drop(socket.send_to(&buffer[..length], from)),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
