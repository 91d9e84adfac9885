//! What goes into one socket comes out of another: the same datagrams, ECN and addresses, whether the kernel cuts and
//! joins them or not.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use crate::namespace::{add_addresses, in_namespace, ip, run, within};
use connlib_net::udp::{Options, RECEIVE_BUFFER, Transmit, UdpSockets};

/// A received run without the borrow.
#[derive(Debug)]
struct Received {
    local: SocketAddr,
    remote: SocketAddr,
    ecn: u8,
    datagrams: Vec<Vec<u8>>,
}

async fn receive(sockets: &mut UdpSockets) -> Received {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    within(async {
        loop {
            sockets.readable().await.unwrap();
            match sockets.recv(&mut buffer) {
                Ok(run) => {
                    let (local, remote, ecn) = (run.local, run.remote, run.ecn);
                    let datagrams = run.datagrams().map(|datagram| datagram.to_vec()).collect();
                    return Received { local, remote, ecn, datagrams };
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    })
    .await
}

async fn send(sockets: &mut UdpSockets, mut transmit: Transmit<'_>) {
    while let Err(error) = sockets.send(&mut transmit) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        within(sockets.writable(transmit.destination)).await.unwrap();
    }
    assert!(transmit.contents.is_empty());
}

fn sockets(port: u16) -> UdpSockets {
    UdpSockets::bind(Options { port, ..Options::default() }).unwrap()
}

/// Bytes that tell each position from its neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n) as u8).collect()
}

const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

#[test]
fn a_run_is_sent_and_received_with_one_call_each() {
    in_namespace(async || {
        let (mut sender, mut receiver) = (sockets(1001), sockets(1002));
        // 48 datagrams and a shorter one.
        let contents = pattern(48 * 1316 + 100);
        for address in LOOPBACK {
            for ecn in 0..4 {
                let destination = SocketAddr::new(address.parse().unwrap(), 1002);
                let transmit = Transmit {
                    source: None,
                    destination,
                    ecn,
                    segment_size: Some(1316),
                    contents: &contents,
                };
                send(&mut sender, transmit).await;
                let received = receive(&mut receiver).await;
                assert_eq!(received.datagrams, contents.chunks(1316).collect::<Vec<_>>());
                assert_eq!(received.ecn, ecn);
                assert_eq!(received.local, destination);
                assert_eq!(received.remote, SocketAddr::new(destination.ip(), 1001));
            }
        }
    });
}

#[test]
fn more_than_one_call_takes_is_sent_with_several() {
    in_namespace(async || {
        let (mut sender, mut receiver) = (sockets(1001), sockets(1002));
        let contents = pattern(200_000);
        for segment_size in [1316, 100] {
            let transmit = Transmit {
                source: None,
                destination: "127.0.0.1:1002".parse().unwrap(),
                ecn: 1,
                segment_size: Some(segment_size),
                contents: &contents,
            };
            send(&mut sender, transmit).await;
            let mut datagrams = Vec::new();
            while datagrams.len() < contents.len().div_ceil(segment_size) {
                let received = receive(&mut receiver).await;
                assert_eq!(received.ecn, 1);
                datagrams.extend(received.datagrams);
            }
            assert_eq!(datagrams, contents.chunks(segment_size).collect::<Vec<_>>());
        }
    });
}

#[test]
fn without_offload_every_datagram_travels_alone() {
    in_namespace(async || {
        let options = |port| Options { port, offload: false, ..Options::default() };
        let mut sender = UdpSockets::bind(options(1001)).unwrap();
        let mut receiver = UdpSockets::bind(options(1002)).unwrap();
        let contents = pattern(5000);
        for address in LOOPBACK {
            let transmit = Transmit {
                source: None,
                destination: SocketAddr::new(address.parse().unwrap(), 1002),
                ecn: 2,
                segment_size: Some(1316),
                contents: &contents,
            };
            send(&mut sender, transmit).await;
            for datagram in contents.chunks(1316) {
                let received = receive(&mut receiver).await;
                assert_eq!((received.datagrams, received.ecn), (vec![datagram.to_vec()], 2));
            }
        }
    });
}

#[test]
fn replies_come_from_the_address_that_was_asked() {
    in_namespace(async || {
        add_addresses("lo", "2001:db8::5/128");
        let (mut sender, mut receiver) = (sockets(1001), sockets(1002));
        for (source, destination) in [("127.0.0.5", "127.0.0.9"), ("2001:db8::5", "::1")] {
            let source: IpAddr = source.parse().unwrap();
            let destination = SocketAddr::new(destination.parse().unwrap(), 1002);
            let transmit = Transmit {
                source: Some(source),
                destination,
                ecn: 0,
                segment_size: None,
                contents: b"question",
            };
            send(&mut sender, transmit).await;
            let question = receive(&mut receiver).await;
            assert_eq!(question.local, destination);
            assert_eq!(question.remote, SocketAddr::new(source, 1001));

            let transmit = Transmit {
                source: Some(question.local.ip()),
                destination: question.remote,
                ecn: 0,
                segment_size: None,
                contents: b"answer",
            };
            send(&mut receiver, transmit).await;
            let answer = receive(&mut sender).await;
            assert_eq!((answer.local, answer.remote), (question.remote, question.local));
        }
    });
}

/// A full send buffer stops a transmit in the middle. What follows is neither lost, nor doubled, nor out of order.
#[test]
fn a_transmit_goes_on_where_a_full_buffer_stopped_it() {
    in_namespace(async || {
        ip("link set lo mtu 1500");
        // So slow that the buffer fills up on any machine.
        run("tc", "qdisc add dev lo root tbf rate 100kbit burst 2k limit 10m");
        let options =
            Options { port: 1001, offload: false, send_buffer: 16 << 10, ..Options::default() };
        let (mut sender, mut receiver) = (UdpSockets::bind(options).unwrap(), sockets(1002));
        let contents = pattern(1_000_000);
        let mut transmit = Transmit {
            source: None,
            destination: "127.0.0.1:1002".parse().unwrap(),
            ecn: 0,
            segment_size: Some(1300),
            contents: &contents,
        };
        let mut stops = 0;
        while let Err(error) = sender.send(&mut transmit) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            if stops == 0 {
                run("tc", "qdisc change dev lo root tbf rate 400mbit burst 20k limit 10m");
            }
            stops += 1;
            within(sender.writable(transmit.destination)).await.unwrap();
        }
        assert!(stops > 0);
        let mut datagrams = Vec::new();
        while datagrams.len() < contents.len().div_ceil(1300) {
            datagrams.extend(receive(&mut receiver).await.datagrams);
        }
        assert_eq!(datagrams, contents.chunks(1300).collect::<Vec<_>>());
    });
}

#[test]
fn both_families_get_their_turn() {
    in_namespace(async || {
        let (mut sender, mut receiver) = (sockets(1001), sockets(1002));
        for address in LOOPBACK {
            for _ in 0..10 {
                let destination = SocketAddr::new(address.parse().unwrap(), 1002);
                let contents = b"x";
                let transmit =
                    Transmit { source: None, destination, ecn: 0, segment_size: None, contents };
                send(&mut sender, transmit).await;
            }
        }
        let mut families = Vec::new();
        for _ in 0..4 {
            families.push(receive(&mut receiver).await.remote.is_ipv4());
        }
        assert_eq!(families.iter().filter(|is_ipv4| **is_ipv4).count(), 2);
    });
}
