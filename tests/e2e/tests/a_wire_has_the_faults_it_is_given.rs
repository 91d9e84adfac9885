//! Delay, loss and cuts on a cable that our own program carries.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use connlib_e2e::{
    Impairment, Lab, Namespace,
    probe::{Echo, Probe},
    wire::Wire,
};

struct Pair {
    left: Namespace,
    right: Namespace,
    wire: Wire,
    _lab: Lab,
}

impl Pair {
    fn new(impairment: Impairment, seed: u64) -> Self {
        let lab = Lab::new().unwrap();
        let left = lab.namespace("left").unwrap();
        let right = lab.namespace("right").unwrap();
        let ends = (
            (&left, "eth0", &["192.0.2.1/24", "2001:db8::1/64"][..]),
            (&right, "eth0", &["192.0.2.2/24", "2001:db8::2/64"][..]),
        );
        let wire = lab.wire(ends.0, ends.1, impairment, seed).unwrap();
        Self { left, right, wire, _lab: lab }
    }

    /// Sends `count` numbered datagrams from left to right and returns those that arrive.
    fn send(&self, count: u32) -> Vec<u32> {
        const END: u32 = u32::MAX;

        let sender = self.left.enter(|| UdpSocket::bind("192.0.2.1:1000")).unwrap().unwrap();
        let receiver = self.right.enter(|| UdpSocket::bind("192.0.2.2:1000")).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let mut arrived = Vec::new();
        let mut next = 0;
        loop {
            // The end may be lost like anything else, so it is sent until it arrives.
            let number = if next < count { next } else { END };
            next += 1;
            sender.send_to(&number.to_be_bytes(), "192.0.2.2:1000").unwrap();
            let mut buffer = [0; 4];
            // No answer in time says nothing: what is late is read with what comes after.
            if receiver.recv(&mut buffer).is_ok() {
                match u32::from_be_bytes(buffer) {
                    END => return arrived,
                    number => arrived.push(number),
                }
            }
        }
    }
}

#[test]
fn loss_follows_from_the_seed() {
    let lossy = Impairment { loss: 0.2, ..Impairment::default() };
    let [first, second, other] = [1, 1, 2].map(|seed| Pair::new(lossy.clone(), seed).send(500));
    assert!((350..450).contains(&first.len()), "{} of 500 arrived", first.len());
    assert_eq!(first, second);
    assert_ne!(first, other);
}

#[test]
fn delay_adds_up_both_ways() {
    let delay = Duration::from_millis(30);
    let pair = Pair::new(Impairment { delay, ..Impairment::default() }, 1);
    let echo = Echo::start(&pair.right, "[2001:db8::2]:7".parse().unwrap()).unwrap();
    let socket = pair.left.enter(|| UdpSocket::bind("[::]:0")).unwrap().unwrap();

    let start = Instant::now();
    socket.send_to(b"hello", echo.address()).unwrap();
    socket.recv_from(&mut [0; 8]).unwrap();
    assert!(start.elapsed() >= 2 * delay, "{:?}", start.elapsed());
}

#[test]
fn a_cut_is_a_silence_that_ends_when_it_is_mended() {
    let mut pair = Pair::new(Impairment::default(), 1);
    let echo = Echo::start(&pair.right, "192.0.2.2:7".parse().unwrap()).unwrap();
    let probe = Probe::start(&pair.left, echo.address()).unwrap();
    let pause = Duration::from_millis(300);

    pair.wire.cut().unwrap();
    std::thread::sleep(pause);
    pair.wire.set_impairment(Impairment::default()).unwrap();
    std::thread::sleep(Duration::from_millis(100));

    let report = probe.stop().unwrap();
    assert!(report.longest_silence >= pause, "{report:?}");
    assert!(report.answered > 0, "{report:?}");
}

#[test]
fn an_interface_that_goes_down_does_not_end_the_wire() {
    let pair = Pair::new(Impairment::default(), 1);
    pair.right.ip("link set eth0 down").unwrap();
    let socket = pair.left.enter(|| UdpSocket::bind("192.0.2.1:0")).unwrap().unwrap();
    socket.send_to(b"into the void", "192.0.2.2:9").unwrap();
    pair.right.ip("link set eth0 up").unwrap();
    // Until the neighbour is known again the kernel keeps what is sent, and lets later datagrams overtake it.
    let echo = Echo::start(&pair.right, "192.0.2.2:7".parse().unwrap()).unwrap();
    let probe = Probe::start_answered(&pair.left, echo.address(), Duration::from_secs(30)).unwrap();
    probe.stop().unwrap();
    assert_eq!(pair.send(10), (0..10).collect::<Vec<_>>());
}
