//! What a client without credentials can do: not much, and not for long.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use connlib_e2e::wait;

use super::support::{Network, PEER, RELAY, SOON};

#[test]
fn nonsense_is_dropped_and_counted() {
    let network = Network::new();
    let _relay = network.start(&["--listen-tcp", "0.0.0.0:3478"]);
    let is_closed = network.client.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for length in [0, 1, 3, 19, 20, 100, 1400, 9000] {
            for first in [0, 1, 0x16, 0x40, 0x7f, 0x80, 0xff] {
                let mut datagram = vec![0xff; length];
                datagram.iter_mut().take(1).for_each(|byte| *byte = first);
                socket.send_to(&datagram, (RELAY, 3478)).unwrap();
            }
        }
        let mut stream = TcpStream::connect((RELAY, 3478)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"\x16\x03\x01 no TURN").unwrap();
        matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
    });
    assert!(is_closed.unwrap());
    network.wait_for_metric("connlib_relay_streams", 0);
    network.wait_for_metric_with("connlib_relay_drops_total", "malformed", |drops| drops > 20);
    network.wait_for_metric("connlib_relay_streams_failed_total", 1);
    assert_eq!(network.metric("connlib_relay_allocations_total", ""), 0);

    let _echo = network.echo();
    let output = network.uclient(&format!("-e {PEER} -c -n 5 -z 5 {RELAY}"));
    assert!(output.contains("Total lost packets 0 "), "{output}");
}

#[test]
fn connections_are_limited_by_source() {
    let network = Network::new();
    let _relay = network.start(&[
        "--listen-tcp",
        "0.0.0.0:3478",
        "--max-streams-per-source",
        "3",
        "--workers",
        "2",
    ]);
    let connect = || {
        network
            .client
            .enter(|| {
                let stream = TcpStream::connect((RELAY, 3478)).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                stream
            })
            .unwrap()
    };
    let held: Vec<_> = (0..3).map(|_| connect()).collect();
    network.wait_for_metric("connlib_relay_streams", 3);
    let mut one_too_many = connect();
    assert!(matches!(one_too_many.read(&mut [0; 1]), Ok(0) | Err(_)));
    network.wait_for_metric("connlib_relay_streams_refused_total", 1);
    drop(held);
    network.wait_for_metric("connlib_relay_streams", 0);
    let _again = connect();
    network.wait_for_metric("connlib_relay_streams", 1);
}

#[test]
fn newcomers_get_the_seats_of_strangers() {
    let network = Network::new();
    let options = ["--listen-tcp", "0.0.0.0:3478", "--max-streams", "3", "--workers", "1"];
    let _relay = network.start(&options);
    let connect = || {
        let stream = network.client.enter(|| TcpStream::connect((RELAY, 3478)).unwrap()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let mut strangers: Vec<_> = (0..3).map(|_| connect()).collect();
    network.wait_for_metric("connlib_relay_streams", 3);
    // Those who have an allocation keep their seats, and this one needs two.
    let _echo = network.echo();
    let client = network.uclient(&format!("-t -e {PEER} -c -m 1 -n 20 -z 20 {RELAY}"));
    assert!(client.contains("Total lost packets 0 "), "{client}");
    assert!(matches!(strangers[0].read(&mut [0; 1]), Ok(0) | Err(_)));
}

/// Anybody can say something that makes sense.
#[test]
fn who_has_no_allocation_is_disconnected_whatever_he_says() {
    assert_is_disconnected(b"\x40\x00\x00\x00".repeat(100).chunks(4), 2 * SOON);
}

/// A byte now and then is no message.
#[test]
fn who_never_says_anything_whole_is_disconnected() {
    // The beginning of a Binding request, which has 20 bytes and is not to get to its end.
    assert_is_disconnected(b"\x00\x01\x00\x00\x21\x12\xa4\x42".chunks(1).cycle(), SOON);
}

/// Says one of these a second on a connection, until the relay hangs up.
fn assert_is_disconnected<'a>(mut words: impl Iterator<Item = &'a [u8]> + Send, soon: Duration) {
    let network = Network::new();
    let _relay = network.start(&["--listen-tcp", "0.0.0.0:3478"]);
    let is_closed = network.client.enter(|| {
        let mut stream = TcpStream::connect((RELAY, 3478)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        wait::until("the relay to hang up", soon, || {
            let _ = stream.write(words.next().unwrap());
            match stream.read(&mut [0; 1]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => None,
                _ => Some(()),
            }
        })
    });
    is_closed.unwrap().unwrap();
    network.wait_for_metric("connlib_relay_streams", 0);
    network.wait_for_metric("connlib_relay_streams_failed_total", 1);
}

#[test]
fn a_wrong_password_gets_no_allocation() {
    let network = Network::new();
    let _relay = network.start(&[]);
    let command = network.client.command("timeout").args([
        "20",
        "turnutils_uclient",
        "-u",
        "anna",
        "-w",
        "wrong",
    ]);
    let output = command.args(["-e", PEER, "-c", "-n", "1", RELAY]).output().unwrap();
    assert!(!output.status.success());
    let refused = |count| count >= 2;
    network.wait_for_metric_with("connlib_relay_responses_total", "code=\"401\"", refused);
    assert_eq!(network.metric("connlib_relay_allocations_total", ""), 0);
}
