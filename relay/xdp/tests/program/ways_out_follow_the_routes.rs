//! The program remembers the ways out, and not for longer than they are good.

use std::{
    thread,
    time::{Duration, Instant},
};

use connlib_relay_xdp::{Action, Binding, Pass};

use crate::{
    frame::{Frame, channel_data},
    lab::{LISTEN_PORT, LOCAL_V4, Lab, OWN, ROUTER, at, dual_stack, in_namespace, ip},
};

const CHANNEL: u16 = 0x4000;

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn a_neighbour_with_another_card_is_found() {
    in_namespace(|| {
        let mut lab = bound_to("198.51.100.1");
        assert_eq!(lab.run(&frame(10).bytes()).frame[..6], ROUTER);
        ip("neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:33 dev up0 nud permanent");
        await_that(|| lab.run(&frame(10).bytes()).frame[..6] == [2, 0, 0, 0, 0, 0x33]);
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn another_route_is_taken() {
    in_namespace(|| {
        let mut lab = bound_to("198.51.100.1");
        assert_eq!(lab.run(&frame(10).bytes()).action, Action::Transmit);
        ip("route add 198.51.100.0/24 via 10.1.0.9");
        await_that(|| lab.run(&frame(10).bytes()).action == Action::Redirect);
        ip("route replace unreachable 198.51.100.0/24");
        await_that(|| lab.run(&frame(10).bytes()).action == Action::Pass);
        assert!(lab.maps.counters().unwrap().passed(Pass::NoRoute) > 0);
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn a_way_is_only_as_wide_as_it_is() {
    in_namespace(|| {
        let mut lab = bound_to("198.51.100.1");
        // 1500 bytes with the headers of IPv4 and UDP.
        for (data, action) in [
            (10, Action::Transmit),
            (1473, Action::Pass),
            (1472, Action::Transmit),
            (1473, Action::Pass),
        ] {
            assert_eq!(lab.run(&frame(data).bytes()).action, action, "{data} bytes");
        }
        assert_eq!(lab.maps.counters().unwrap().passed(Pass::TooBig), 2);
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn a_route_may_depend_on_the_class_of_a_packet() {
    in_namespace(|| {
        let mut lab = bound_to("198.51.100.1");
        ip("route add 198.51.100.0/24 via 10.1.0.9 table 7");
        ip("rule add tos 0x10 table 7");
        for (class, action) in [
            (0, Action::Transmit),
            (0x10, Action::Redirect),
            (0x12, Action::Redirect),
            (1, Action::Transmit),
        ] {
            let frame = Frame { class, ..frame(10) };
            assert_eq!(lab.run(&frame.bytes()).action, action, "{class:x}");
        }
    });
}

/// With a deadline that is far beyond what it takes.
fn await_that(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never happened");
        thread::sleep(Duration::from_millis(5));
    }
}

fn bound_to(peer: &str) -> Lab {
    let mut lab = Lab::new(dual_stack());
    lab.bind(Binding {
        client: at("198.51.100.7", 40_000),
        channel: CHANNEL,
        allocation_port: 50_000,
        peer: at(peer, 9),
    });
    lab
}

fn frame(data: usize) -> Frame {
    Frame {
        ethernet: [OWN, ROUTER],
        source: at("198.51.100.7", 40_000),
        destination: at(LOCAL_V4, LISTEN_PORT),
        hops: 64,
        class: 0,
        identification: 7,
        dont_fragment: true,
        has_checksum: true,
        payload: channel_data(CHANNEL, &vec![1; data], &[]),
    }
}
