//! After a change of networks.
//!
//! Alone in its process: the port of a closed socket stays taken for as long as a child that another thread is just
//! starting has the descriptor.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

#[path = "io/namespace.rs"]
mod namespace;

use std::net::{SocketAddr, UdpSocket};

use connlib_net::udp::{Options, PREFERRED_PORT, RECEIVE_BUFFER, Transmit, UdpSockets};
use namespace::{in_namespace, within};

#[test]
fn new_sockets_work_at_once() {
    in_namespace(async || {
        let mut sockets = UdpSockets::bind(Options::default()).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            sockets.rebind().unwrap();
            assert_eq!(sockets.port_v4(), Some(PREFERRED_PORT));
            assert_eq!(sockets.port_v6(), Some(PREFERRED_PORT));
            // At once: the reactor has not seen the new socket writable yet.
            let mut transmit = Transmit {
                source: None,
                destination: peer.local_addr().unwrap(),
                ecn: 0,
                segment_size: None,
                contents: b"ping",
            };
            sockets.send(&mut transmit).unwrap();
            let mut buffer = [0; 10];
            let (length, remote) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((length, remote), (4, SocketAddr::from(([127, 0, 0, 1], PREFERRED_PORT))));

            peer.send_to(b"pong!", remote).unwrap();
            let mut buffer = vec![0; RECEIVE_BUFFER];
            let received = within(async {
                loop {
                    sockets.readable().await.unwrap();
                    if let Ok(run) = sockets.recv(&mut buffer) {
                        return run.bytes.to_vec();
                    }
                }
            })
            .await;
            assert_eq!(received, b"pong!");
        }
    });
}
