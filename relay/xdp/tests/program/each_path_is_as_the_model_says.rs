//! All twelve ways through the relay, byte by byte.

use std::net::SocketAddr;

use connlib_relay_xdp::{Addresses, Binding, Config, Family, Framing, PATHS, Path};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    frame::{Frame, channel_data},
    lab::{
        LISTEN_PORT, LOCAL_V4, LOCAL_V6, Lab, OWN, ROUTER, at, dual_stack, in_namespace, lay_out,
    },
};

/// Packets a path.
const PACKETS: usize = 1000;

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn each_path_is_as_the_model_says() {
    in_namespace(|| {
        lay_out();
        for config in [dual_stack(), without_nat()] {
            let mut lab = Lab::again(config);
            for path in PATHS {
                let mut random = ChaCha8Rng::seed_from_u64(u64::from(path.index()));
                for number in 0..PACKETS {
                    let frame = prepare(&mut lab, path, &mut random);
                    check(&mut lab, path, &frame, number);
                    lab.unbind_all();
                }
            }
        }
    });
}

/// With addresses that are the same inside and outside.
fn without_nat() -> Config {
    let both = dual_stack();
    Config {
        v4: both.v4.map(|own| Addresses { public: own.local, ..own }),
        v6: both.v6.map(|own| Addresses { public: own.local, ..own }),
        ..both
    }
}

fn check(lab: &mut Lab, path: Path, frame: &Frame, number: usize) {
    let before = lab.maps.counters().unwrap();
    let verdict = lab.run(&frame.bytes());
    let (action, expected) = lab.model.relay(frame).unwrap();
    let story = format!("{path:?}, packet {number}: {frame:?}");
    assert_eq!(verdict.action, action, "{story}");
    let mut expected_bytes = expected.bytes();
    // The shortest frames keep what was behind their data.
    assert!(verdict.frame.len() <= expected_bytes.len().max(60 + 2), "{story}");
    expected_bytes.extend(verdict.frame.iter().skip(expected_bytes.len()));
    assert_eq!(verdict.frame, expected_bytes, "{story}");

    let data = expected.payload.len() - path.to.framing.header();
    let after = lab.maps.counters().unwrap();
    assert_eq!(after.relayed(path).packets, before.relayed(path).packets + 1, "{story}");
    assert_eq!(after.relayed(path).bytes, before.relayed(path).bytes + data as u64, "{story}");
    let [after, before] = [after, before].map(|counters| counters.relayed_as(path.to.framing));
    assert_eq!(after.packets, before.packets + 1, "{story}");
}

/// Binds channels and makes a packet that takes a path.
pub(crate) fn prepare(lab: &mut Lab, path: Path, random: &mut ChaCha8Rng) -> Frame {
    let channel = random.random_range(0x4000..0x5000);
    let data = data(random);
    let allocation_port = port(random);

    let frame = match (path.from.framing, path.to.framing) {
        (Framing::Channel, Framing::Udp) => {
            let client = remote(path.from.family, random);
            let peer = remote(path.to.family, random);
            lab.bind(Binding { client, channel, allocation_port, peer });
            let padding = padding(random);
            let payload = channel_data(channel, &data, &padding);
            Frame { source: client, payload, ..blank(path.from.family, LISTEN_PORT, random) }
        }
        (Framing::Udp, _) => {
            let peer = remote(path.from.family, random);
            let client = remote(path.to.family, random);
            lab.bind(Binding { client, channel, allocation_port, peer });
            Frame {
                source: peer,
                payload: data,
                ..blank(path.from.family, allocation_port, random)
            }
        }
        (Framing::Channel, Framing::Channel) => {
            // By either family of the relay's, and by either name of its.
            let own = lab.model.own(if random.random() { Family::V4 } else { Family::V6 });
            let [here, there] = [random.random(), random.random()]
                .map(|is_public: bool| own[usize::from(is_public)]);
            let client = remote(path.from.family, random);
            let other_client = remote(path.to.family, random);
            let other_port = allocation_port ^ 1;
            lab.bind(Binding {
                client,
                channel,
                allocation_port,
                peer: SocketAddr::new(there, other_port),
            });
            lab.bind(Binding {
                client: other_client,
                channel: random.random_range(0x4000..0x5000),
                allocation_port: other_port,
                peer: SocketAddr::new(here, allocation_port),
            });
            let padding = padding(random);
            let payload = channel_data(channel, &data, &padding);
            Frame { source: client, payload, ..blank(path.from.family, LISTEN_PORT, random) }
        }
    };
    with_odd_checksums(lab, frame, path, random)
}

/// A packet to the relay without a source and a payload.
fn blank(family: Family, port: u16, random: &mut ChaCha8Rng) -> Frame {
    let own = if family == Family::V4 { LOCAL_V4 } else { LOCAL_V6 };
    Frame {
        ethernet: [OWN, ROUTER],
        source: at(own, 0),
        destination: at(own, port),
        hops: random.random_range(2..=255),
        class: random.random(),
        identification: random.random(),
        dont_fragment: random.random(),
        has_checksum: true,
        payload: Vec::new(),
    }
}

/// Checksums at their edges, before or after, or none at all.
fn with_odd_checksums(lab: &Lab, frame: Frame, path: Path, random: &mut ChaCha8Rng) -> Frame {
    let mut odd = frame.clone();
    let header = path.from.framing.header();
    let word = header..header + 2;
    let has_word = frame.payload.len() >= header + 5;
    match random.random_range(0..8) {
        0 if path.from.family == Family::V4 && path.to.family == Family::V4 => {
            odd.has_checksum = false;
        }
        // With the word zero, the checksum is what the word must be for the checksum to be zero: it then is 0xffff.
        1 if has_word => {
            odd.payload[word.clone()].fill(0);
            let checksum = odd.checksum();
            odd.payload[word].copy_from_slice(&checksum.to_be_bytes());
            assert_eq!(odd.checksum(), 0xffff);
        }
        2 if has_word => {
            odd.payload[word.clone()].fill(0);
            let (_, relayed) = lab.model.relay(&odd).unwrap();
            odd.payload[word].copy_from_slice(&relayed.checksum().to_be_bytes());
            let (_, relayed) = lab.model.relay(&odd).unwrap();
            assert_eq!(relayed.checksum(), 0xffff);
        }
        _ => {}
    }
    odd
}

/// Somebody behind the router, on the link, or on another interface.
fn remote(family: Family, random: &mut ChaCha8Rng) -> SocketAddr {
    let choice = random.random_range(0..4);
    let ip = match (family, choice) {
        (Family::V4, 0) => "10.0.0.7".to_owned(),
        (Family::V4, 1) => "10.1.0.9".to_owned(),
        (Family::V4, _) => format!("198.51.{}.{}", random.random::<u8>(), random.random::<u8>()),
        (Family::V6, 0) => "fd01::9".to_owned(),
        (Family::V6, _) => format!("2001:db8:1::{:x}", random.random::<u16>()),
    };
    at(&ip, random.random_range(1..=u16::MAX))
}

fn port(random: &mut ChaCha8Rng) -> u16 {
    random.random_range(49_152..=u16::MAX)
}

/// Of any length, often a short one.
fn data(random: &mut ChaCha8Rng) -> Vec<u8> {
    let longest = if random.random() { 1400 } else { 16 };
    let mut data = vec![0; random.random_range(0..=longest)];
    if random.random_range(0..8) != 0 {
        random.fill(&mut data[..]);
    }
    data
}

/// Up to three bytes of anything.
fn padding(random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut padding = vec![0; random.random_range(0..4)];
    random.fill(&mut padding[..]);
    padding
}
