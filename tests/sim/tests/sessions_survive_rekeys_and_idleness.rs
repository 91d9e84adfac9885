//! WireGuard's sessions are renewed every two minutes, for as long as there is traffic, and start anew after a pause.
//!
//! boringtun is known for sessions that go deaf in one direction after a handshake (cloudflare/boringtun#495).
#![allow(missing_docs)]

use std::time::Duration;

use connlib_sim::{
    Access, FlowId, FlowSpec, Line, Mapping, ResourceSpec, SILENT_PORT, What, World,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LINE: Line = Line::clean(Duration::from_millis(10));

fn connected(seed: u64, line: Line, access: Access) -> (World, FlowId) {
    let mut world = World::new(seed);
    world.add_gateway(1, Access::public(line));
    let client = world.add_client(access);
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    let flow = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"));
    world.run(5 * SECOND);
    (world, flow)
}

#[test]
fn steady_traffic_never_stops() {
    let (mut world, flow) = connected(1, LINE, Access::public(LINE));
    let start = world.now();
    world.run(30 * MINUTE);
    let silence = world.longest_silence(flow, start);
    assert!(silence < 200 * SECOND / 1000, "{silence:?}");
    let tally = world.finish();
    assert_eq!((tally.excused, tally.lost), (0, 0));
}

#[test]
fn a_pause_of_any_length_costs_no_packet() {
    for pause in
        [5, 11, 19, 21, 30, 55, 100, 119, 121, 150, 165, 175, 181, 240, 535, 545, 1200, 4000]
    {
        for period in [100, 7000] {
            let (mut world, flow) = connected(1, LINE, Access::public(LINE));
            world.pause(flow);
            world.run(pause * SECOND);
            let before = world.answers(flow);
            world.resume(flow);
            world.run(Duration::from_millis(10 * period));
            println!("pause {pause} period {period}: {} answers", world.answers(flow) - before);
            world.pause(flow);
            world.run(400 * SECOND);
            world.resume(flow);
            world.run(5 * MINUTE);
            let tally = world.finish();
            assert_eq!((tally.excused, tally.lost), (0, 0), "after a pause of {pause} s");
        }
    }
}

#[test]
fn a_packet_now_and_then_always_arrives() {
    for period in [9, 11, 16, 26, 61, 125, 170, 185, 200, 300, 539, 545, 700] {
        let (mut world, flow) = connected(2, LINE, Access::behind(Mapping::Symmetric, LINE));
        world.pause(flow);
        let spec = FlowSpec::to_address(0, What::Udp(7), "10.0.0.2").every(period * SECOND);
        world.start(spec);
        world.run(20 * period * SECOND);
        let tally = world.finish();
        assert_eq!((tally.excused, tally.lost), (0, 0), "every {period} s");
    }
}

/// Sends only one way, or both ways independently.
fn one_way(up: bool, down: bool, period: u64, line: Line) {
    let (mut world, flow) = connected(3, line, Access::behind(Mapping::EndpointIndependent, line));
    world.pause(flow);
    world.run(30 * SECOND);
    if up {
        let spec = FlowSpec::to_address(0, What::Udp(SILENT_PORT), "10.0.0.2");
        world.start(spec.every(Duration::from_millis(period)));
    }
    if down {
        world.start_push(flow, Duration::from_millis(period), 40 * MINUTE);
    }
    let before = world.handshakes();
    world.run(40 * MINUTE);
    let handshakes = world.handshakes() - before;
    println!("{handshakes} handshakes with a packet every {period} ms, up: {up}, down: {down}");
    if line.is_clean() && period < 10_000 {
        // Renewed after two minutes of use, and not because somebody had gone deaf. After longer pauses, boringtun
        // takes a packet that was not answered within a second for a reason to renew the session as well.
        assert!((12..=21).contains(&handshakes), "{handshakes} handshakes");
    }
    let tally = world.finish();
    assert!(tally.sent > 40 * 60_000 / period);
    if line.is_clean() {
        assert_eq!((tally.excused, tally.lost), (0, 0));
    }
}

#[test]
fn traffic_in_one_direction_never_stops() {
    for period in [100, 1300, 8000, 14_000] {
        one_way(true, false, period, LINE);
        one_way(false, true, period, LINE);
    }
}

#[test]
fn independent_traffic_both_ways_never_stops() {
    for period in [100, 1300, 8000, 14_000, 35_000] {
        one_way(true, true, period, LINE);
    }
}

#[test]
fn handshakes_that_get_lost_stop_nothing() {
    let line = Line { loss: 0.05, jitter: Duration::from_millis(15), ..LINE };
    for period in [300, 8000] {
        one_way(true, false, period, line);
        one_way(false, true, period, line);
        one_way(true, true, period, line);
    }
}

#[test]
fn traffic_that_begins_as_a_session_ends_is_not_disturbed() {
    let line = Line::clean(Duration::from_millis(40));
    for pause in 165..185 {
        let (mut world, flow) = connected(4, line, Access::public(line));
        world.pause(flow);
        world.run(pause * SECOND);
        let before = world.handshakes();
        let spec = FlowSpec::to_address(0, What::Udp(7), "10.0.0.2");
        world.start(spec.every(Duration::from_millis(20)));
        world.run(20 * SECOND);
        let handshakes = world.handshakes() - before;
        assert!(handshakes <= 4, "{handshakes} handshakes after {pause} s");
        let tally = world.finish();
        assert_eq!((tally.excused, tally.lost), (0, 0), "after a pause of {pause} s");
    }
}
