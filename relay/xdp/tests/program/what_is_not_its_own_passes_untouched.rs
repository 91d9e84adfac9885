//! All that the program must leave as it is, each a small step away from a packet that it relays.

use std::net::Ipv4Addr;

use connlib_relay_xdp::{Action, Addresses, Binding, Config, Outcome, Pass};
use etherparse::{IpNumber, Ipv4Header};

use crate::{
    frame::{Frame, channel_data},
    lab::{
        FOREIGN, LISTEN_PORT, LOCAL_V4, LOCAL_V6, Lab, OWN, PUBLIC_V4, PUBLIC_V6, ROUTER, SIDE, at,
        dual_stack, ethernet_of, in_namespace,
    },
};

const CHANNEL: u16 = 0x4abc;
const PORT: u16 = 50_000;
const DATA: &[u8] = b"a small step from being relayed";

/// Where the IP header starts.
const IP: usize = 14;
/// Where the UDP header starts, for each family.
const UDP_V4: usize = IP + 20;
const UDP_V6: usize = IP + 40;

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_is_no_plain_datagram() {
    in_namespace(|| {
        let mut lab = bound();
        let frames = [from_client_v4(), from_client_v6(), from_peer_v4(), from_peer_v6()];
        for frame in frames.map(|frame| frame.bytes()) {
            relays(&mut lab, &frame);
            let mut passes = |what: &str, frame: Vec<u8>| passes(&mut lab, what, &frame, None);
            passes("a VLAN tag", [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat());
            passes("ARP", with(&frame, 12, &[8, 6]));
            passes("nothing but an Ethernet header", frame[..14].to_vec());
            for length in 15..frame.len() {
                passes("cut short", frame[..length].to_vec());
            }
        }

        for frame in [from_client_v4(), from_peer_v4()].map(|frame| frame.bytes()) {
            let mut passes = |what: &str, frame: Vec<u8>| passes(&mut lab, what, &frame, None);
            passes("version 6 of IP as version 4", with_ip(&frame, 0, &[0x65]));
            passes("a header that is too short", with_ip(&frame, 0, &[0x44]));
            passes("the first fragment", with_ip(&frame, 6, &[0x20, 0]));
            passes("the first fragment, fragmentation forbidden", with_ip(&frame, 6, &[0x60, 0]));
            passes("another fragment", with_ip(&frame, 6, &[0, 1]));
            passes("the reserved flag", with_ip(&frame, 6, &[0x80, 0]));
            passes("TCP", with_ip(&frame, 9, &[6]));
            passes("ICMP", with_ip(&frame, 9, &[1]));
            passes("a wrong header checksum", with(&frame, IP + 10, &[0x12, 0x34]));
            let length = u16::try_from(frame.len() - IP).unwrap();
            passes("UDP shorter than IP", with_ip(&frame, 2, &(length + 1).to_be_bytes()));
            passes("UDP longer than IP", with_ip(&frame, 2, &(length - 1).to_be_bytes()));
            passes("UDP without a header", with(&frame, UDP_V4 + 4, &[0, 7]));
            passes("options", with_options(&frame));
        }

        for frame in [from_client_v6(), from_peer_v6()].map(|frame| frame.bytes()) {
            let mut passes = |what: &str, frame: Vec<u8>| passes(&mut lab, what, &frame, None);
            passes("version 4 of IP as version 6", with(&frame, IP, &[0x40]));
            passes("TCP", with(&frame, IP + 6, &[6]));
            passes("no checksum", with(&frame, UDP_V6 + 6, &[0, 0]));
            let length = u16::try_from(frame.len() - UDP_V6).unwrap();
            passes("UDP shorter than IP", with(&frame, IP + 4, &(length + 1).to_be_bytes()));
            passes("UDP longer than IP", with(&frame, IP + 4, &(length - 1).to_be_bytes()));
            passes("a jumbogram", with(&frame, IP + 4, &[0, 0]));
            for (name, header) in [("hop-by-hop", 0_u8), ("a fragment's", 44), ("destination", 60)]
            {
                passes(name, with_extension(&frame, header));
            }
        }
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_is_not_for_the_relay() {
    in_namespace(|| {
        let mut lab = bound();
        for mut frame in [from_client_v4(), from_client_v6(), from_peer_v4(), from_peer_v6()] {
            relays(&mut lab, &frame.bytes());
            let (own, is_v4) = (frame.destination, frame.source.is_ipv4());
            let mut passes =
                |what: &str, frame: &Frame| passes(&mut lab, what, &frame.bytes(), None);
            // This one is an allocation's, but in the other family.
            let other = if is_v4 { PORT } else { PORT + 1 };
            for port in [other, 0, 22, 53, 3478, LISTEN_PORT - 1, PORT - 1, PORT + 2, u16::MAX] {
                frame.destination.set_port(port);
                passes("a port of the host's", &frame);
            }
            let others = if is_v4 {
                [PUBLIC_V4, "10.0.0.6", "255.255.255.255", "0.0.0.0"]
            } else {
                [PUBLIC_V6, "fd00::6", "ff02::1", "::"]
            };
            for other in others {
                frame.destination = at(other, own.port());
                passes("an address that is not ours", &frame);
            }
        }
    });
}

/// A switch floods what it does not know, and an interface on which somebody listens sees all of it.
#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_ethernet_brings_for_somebody_else() {
    in_namespace(|| {
        let mut lab = bound();
        let side = ethernet_of(SIDE);
        for mut frame in [from_client_v4(), from_client_v6(), from_peer_v4(), from_peer_v6()] {
            for own in [OWN, side] {
                frame.ethernet[0] = own;
                relays(&mut lab, &frame.bytes());
            }
            let foreign = ethernet_of(FOREIGN);
            let multicast = [OWN[0] | 1, OWN[1], OWN[2], OWN[3], OWN[4], OWN[5]];
            for other in [ROUTER, foreign, multicast, [0xff; 6], [0; 6]] {
                frame.ethernet[0] = other;
                passes(&mut lab, "another host's", &frame.bytes(), None);
            }
            for byte in 0..6 {
                frame.ethernet[0] = OWN;
                frame.ethernet[0][byte] ^= 0x40;
                passes(&mut lab, "another host's", &frame.bytes(), None);
            }
        }
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_user_space_decides_about() {
    in_namespace(|| {
        let mut lab = bound();
        for frame in [from_client_v4(), from_client_v6()] {
            relays(&mut lab, &frame.bytes());
            let mut passes = |what: &str, payload: Vec<u8>, reason| {
                let frame = Frame { payload, ..frame.clone() };
                passes(&mut lab, what, &frame.bytes(), Some(reason));
            };
            let binding_request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
            passes("STUN", binding_request, Pass::Control);
            passes("nothing", Vec::new(), Pass::Control);
            passes("half a header", vec![0x4a, 0xbc, 0], Pass::Control);
            for first in [0x00, 0x14, 0x3f, 0x50, 0x7f, 0x80, 0xff_u16] {
                let payload = channel_data(first << 8 | CHANNEL & 0xff, DATA, &[]);
                passes("what starts otherwise", payload, Pass::Control);
            }
            passes("padding of a word", channel_data(CHANNEL, DATA, &[0; 4]), Pass::Length);
            let with_length =
                |length: u16| [&CHANNEL.to_be_bytes(), &length.to_be_bytes(), DATA].concat();
            let length = u16::try_from(DATA.len()).unwrap();
            for length in [length + 1, length + 4, length - 4, 0, 0x4000, u16::MAX - 3, u16::MAX] {
                passes("a length that does not fit", with_length(length), Pass::Length);
            }
            passes("an unknown channel", channel_data(CHANNEL + 1, DATA, &[]), Pass::NoChannel);
        }

        for mut frame in [from_client_v4(), from_client_v6()] {
            frame.source.set_port(1);
            passes(&mut lab, "an unknown client", &frame.bytes(), Some(Pass::NoChannel));
        }
        for mut frame in [from_peer_v4(), from_peer_v6()] {
            relays(&mut lab, &frame.bytes());
            frame.source.set_port(1);
            passes(&mut lab, "an unknown peer", &frame.bytes(), Some(Pass::NoPeer));
        }
        for frame in [from_client_v4(), from_client_v6(), from_peer_v4(), from_peer_v6()] {
            for hops in [0, 1] {
                let frame = Frame { hops, ..frame.clone() };
                passes(&mut lab, "the last hop", &frame.bytes(), Some(Pass::Expired));
            }
        }
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_cannot_be_sent() {
    in_namespace(|| {
        let mut lab = Lab::new(dual_stack());
        let mut passes = |what: &str, peer: &str, change: &dyn Fn(&mut Frame), reason| {
            lab.bind(Binding { peer: at(peer, 9), ..binding_of_v4() });
            let mut frame = from_client_v4();
            change(&mut frame);
            passes(&mut lab, what, &frame.bytes(), Some(reason));
            lab.unbind_all();
        };
        let as_it_is = |_: &mut Frame| {};
        passes("no neighbour", "10.0.0.99", &as_it_is, Pass::NoRoute);
        passes("an interface that is not served", "10.2.0.9", &as_it_is, Pass::Egress);
        passes("no route", "127.0.0.1", &as_it_is, Pass::NoRoute);
        // The way out takes 1500 bytes.
        let long = |frame: &mut Frame| frame.payload = channel_data(CHANNEL, &[1; 1473], &[]);
        passes("too long", "198.51.100.1", &long, Pass::TooBig);
        let long = |frame: &mut Frame| frame.payload = channel_data(CHANNEL, &[1; 1453], &[]);
        passes("too long with IPv6's header", "2001:db8:1::1", &long, Pass::TooBig);
        let unsummed = |frame: &mut Frame| frame.has_checksum = false;
        passes("no checksum, to IPv6", "2001:db8:1::1", &unsummed, Pass::Checksum);
        passes("to a client that is not there", PUBLIC_V4, &as_it_is, Pass::NoPeer);
        passes("to a client that is not there", LOCAL_V6, &as_it_is, Pass::NoPeer);
    });
}

/// Between interfaces of one machine, or of its guests, checksums are left for the last one to finish, as are those of
/// datagrams that the kernel has joined.
#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_is_not_finished() {
    in_namespace(|| {
        let mut lab = bound();
        for frame in [from_client_v4(), from_client_v6(), from_peer_v4(), from_peer_v6()] {
            let finished = frame.bytes();
            relays(&mut lab, &finished);
            let udp = if frame.source.is_ipv4() { UDP_V4 } else { UDP_V6 };
            // Both addresses, the length and the protocol.
            let addresses = if frame.source.is_ipv4() { IP + 12..IP + 20 } else { IP + 8..IP + 40 };
            let words = [&finished[addresses], &finished[udp + 4..udp + 6], &[0, 17]].concat();
            let words = words.chunks_exact(2).map(|word| [word[0], word[1]]);
            let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(word))).sum();
            let sum = (sum & 0xffff) as u16 + (sum >> 16) as u16;
            let unfinished = with(&finished, udp + 6, &sum.to_be_bytes());
            passes(&mut lab, "unfinished", &unfinished, Some(Pass::Unfinished));
            let damaged = with(&finished, udp + 6, &(sum + 1).to_be_bytes());
            relays(&mut lab, &damaged);
        }
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_was_bound_once() {
    in_namespace(|| {
        let mut lab = bound();
        let frames = [from_client_v4(), from_client_v6(), from_peer_v4(), from_peer_v6()];
        for frame in &frames {
            relays(&mut lab, &frame.bytes());
        }
        lab.unbind_all();
        for frame in &frames[..2] {
            passes(&mut lab, "unbound", &frame.bytes(), Some(Pass::NoChannel));
        }
        for frame in &frames[2..] {
            passes(&mut lab, "not allocated", &frame.bytes(), None);
        }
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn a_relay_with_one_family_has_no_business_with_the_other() {
    in_namespace(|| {
        let both = dual_stack();
        let mut lab = Lab::new(Config { v6: None, ..both.clone() });
        lab.bind(Binding { peer: at("198.51.100.1", 9), ..binding_of_v4() });
        relays(&mut lab, &from_client_v4().bytes());
        for frame in [from_client_v6(), from_peer_v6()] {
            passes(&mut lab, "IPv6", &frame.bytes(), None);
        }
        lab.unbind_all();
        lab.bind(binding_of_v4());
        passes(&mut lab, "to IPv6", &from_client_v4().bytes(), Some(Pass::NoRoute));
        let mut nowhere = from_client_v6();
        nowhere.destination = at("::", LISTEN_PORT);
        passes(&mut lab, "nowhere", &nowhere.bytes(), None);

        let mut lab = Lab::again(Config { v4: None, ..both });
        lab.bind(Binding { peer: at("2001:db8:1::1", 9), ..binding_of_v6() });
        relays(&mut lab, &from_client_v6().bytes());
        for frame in [from_client_v4(), from_peer_v4()] {
            passes(&mut lab, "IPv4", &frame.bytes(), None);
        }
    });
}

/// What is between clients of one relay never leaves it, so what seems to be from itself is forged. The kernel drops it, by
/// either of the relay's names.
#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_claims_to_be_from_the_relay() {
    in_namespace(|| {
        let mut lab = Lab::new(dual_stack());
        for (own, to) in [(PUBLIC_V4, LOCAL_V4), (PUBLIC_V6, LOCAL_V6)] {
            let other = at(own, PORT + 7);
            lab.bind(Binding { peer: other, ..binding_of_v4() });
            for name in [own, to] {
                let payload = DATA.to_vec();
                let frame = Frame { source: at(name, PORT + 7), payload, ..blank(to, PORT) };
                passes(&mut lab, name, &frame.bytes(), None);
            }
            lab.unbind_all();
        }
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn a_relay_listens_where_it_is_told_to() {
    in_namespace(|| {
        let v4 = Addresses::<Ipv4Addr> {
            local: "10.0.0.77".parse().unwrap(),
            public: "10.0.0.77".parse().unwrap(),
        };
        let config = Config { listen_port: 443, v4: Some(v4), ..dual_stack() };
        let mut lab = Lab::new(config);
        lab.bind(binding_of_v4());
        let mut frame = from_client_v4();
        frame.destination = at("10.0.0.77", 443);
        relays(&mut lab, &frame.bytes());
        frame.destination = at("10.0.0.77", LISTEN_PORT);
        passes(&mut lab, "another port", &frame.bytes(), None);
        frame.destination = at(LOCAL_V4, 443);
        passes(&mut lab, "another address", &frame.bytes(), None);
    });
}

/// Asserts that a frame passes as it is, and that this is counted, or is not.
fn passes(lab: &mut Lab, what: &str, frame: &[u8], reason: Option<Pass>) {
    let before = lab.maps.counters().unwrap();
    let verdict = lab.run(frame);
    assert_eq!(verdict.action, Action::Pass, "{what}: {frame:x?}");
    assert_eq!(verdict.frame, frame, "{what}");
    let counters = lab.maps.counters().unwrap();
    for outcome in Outcome::all() {
        let is_reason = reason.map(Outcome::Passed) == Some(outcome);
        let expected = before.of(outcome).packets + u64::from(is_reason);
        assert_eq!(counters.of(outcome).packets, expected, "{what}: {outcome:?}");
    }
}

fn relays(lab: &mut Lab, frame: &[u8]) {
    assert_eq!(lab.run(frame).action, Action::Transmit);
}

/// With clients of each family, each bound to a peer of the other family.
fn bound() -> Lab {
    let mut lab = Lab::new(dual_stack());
    lab.bind(binding_of_v4());
    lab.bind(binding_of_v6());
    lab
}

fn binding_of_v4() -> Binding {
    Binding {
        client: at("198.51.100.7", 40_000),
        channel: CHANNEL,
        allocation_port: PORT,
        peer: at("2001:db8:1::9", 9),
    }
}

fn binding_of_v6() -> Binding {
    Binding {
        client: at("2001:db8:1::7", 40_000),
        channel: CHANNEL,
        allocation_port: PORT + 1,
        peer: at("198.51.100.9", 9),
    }
}

fn from_client_v4() -> Frame {
    let payload = channel_data(CHANNEL, DATA, &[]);
    Frame { source: at("198.51.100.7", 40_000), payload, ..blank(LOCAL_V4, LISTEN_PORT) }
}

fn from_client_v6() -> Frame {
    let payload = channel_data(CHANNEL, DATA, &[]);
    Frame { source: at("2001:db8:1::7", 40_000), payload, ..blank(LOCAL_V6, LISTEN_PORT) }
}

fn from_peer_v4() -> Frame {
    Frame { source: at("198.51.100.9", 9), payload: DATA.to_vec(), ..blank(LOCAL_V4, PORT + 1) }
}

fn from_peer_v6() -> Frame {
    Frame { source: at("2001:db8:1::9", 9), payload: DATA.to_vec(), ..blank(LOCAL_V6, PORT) }
}

fn blank(own: &str, port: u16) -> Frame {
    Frame {
        ethernet: [OWN, ROUTER],
        source: at(own, 0),
        destination: at(own, port),
        hops: 64,
        class: 0,
        identification: 7,
        dont_fragment: true,
        has_checksum: true,
        payload: Vec::new(),
    }
}

fn with(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    changed
}

/// With other bytes in the IPv4 header, whose checksum is then right.
fn with_ip(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = with(&with(frame, IP + at, bytes), IP + 10, &[0, 0]);
    let words = changed[IP..UDP_V4]
        .chunks_exact(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    changed[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    changed
}

/// With four bytes of IPv4 options that say nothing.
fn with_options(frame: &[u8]) -> Vec<u8> {
    let (mut ip, payload) = Ipv4Header::from_slice(&frame[IP..]).unwrap();
    ip.options = [1; 4].into();
    ip.total_len += 4;
    ip.header_checksum = ip.calc_header_checksum();
    [&frame[..IP], &ip.to_bytes(), payload].concat()
}

/// With an IPv6 extension header of eight bytes.
fn with_extension(frame: &[u8], number: u8) -> Vec<u8> {
    let extension = [IpNumber::UDP.0, 0, 1, 4, 0, 0, 0, 0];
    let length = u16::try_from(frame.len() - UDP_V6 + 8).unwrap();
    let frame = with(&with(frame, IP + 6, &[number]), IP + 4, &length.to_be_bytes());
    [&frame[..UDP_V6], &extension, &frame[UDP_V6..]].concat()
}
