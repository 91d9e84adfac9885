//! Networks that make it hard to find a path, and what applications are told if there is none.
#![allow(missing_docs)]

use std::time::Duration;

use connlib_sim::{Access, Family, FlowSpec, Line, Mapping, Node, ResourceSpec, What, World};

const LINE: Line = Line::clean(Duration::from_millis(10));
const SECOND: Duration = Duration::from_secs(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A world with a gateway and a client, and how long the first packet waits for its answer.
fn first_answer(seed: u64, gateway: Access, client: Access, spec: FlowSpec) -> Option<Duration> {
    let mut world = World::new(seed);
    world.add_gateway(1, gateway);
    let client = world.add_client(client);
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    world.add_resource(ResourceSpec::names(2, 1, "*.example"), &[client]);
    world.set_name("web.example", &["10.1.0.1"]);
    world.run(2 * SECOND);
    let start = world.now();
    let flow = world.start(spec);
    world.run(20 * SECOND);
    (world.answers(flow) > 0).then(|| world.first_answer(flow, start))
}

#[test]
fn any_pair_of_routers_that_has_a_path_finds_it_within_half_a_second() {
    let spec = || FlowSpec::to_address(0, What::Udp(7), "10.0.0.1");
    let open = Access::public(LINE);
    let usual = Access::behind(Mapping::EndpointIndependent, LINE);
    let symmetric = Access::behind(Mapping::Symmetric, LINE);
    for (gateway, client) in [
        (open, open),
        (open, usual),
        (open, symmetric),
        (usual, open),
        (usual, usual),
        (symmetric, open),
        (symmetric.dual(), symmetric.dual()),
    ] {
        let waited = first_answer(1, gateway, client, spec());
        println!("{:?} {:?}: {waited:?}", gateway.ipv4, client.ipv4);
        assert!(
            waited.is_some_and(|waited| waited <= ms(500)),
            "{gateway:?} {client:?} {waited:?}"
        );
    }
}

#[test]
fn relays_help_where_routers_leave_no_direct_path() {
    let usual = Access::behind(Mapping::EndpointIndependent, LINE);
    let symmetric = Access::behind(Mapping::Symmetric, LINE);
    for relays in [1, 2] {
        for (gateway, client) in [(symmetric, symmetric), (symmetric, usual), (usual, symmetric)] {
            let mut world = World::new(1);
            for _ in 0..relays {
                world.add_relay();
            }
            world.add_gateway(1, gateway);
            let client = world.add_client(client);
            world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
            world.run(2 * SECOND);
            let start = world.now();
            let spec = FlowSpec::to_address(client, What::Udp(7), "10.0.0.1");
            let flow = world.start(spec.every(ms(50)));
            world.run(60 * SECOND);
            let waited = world.first_answer(flow, start);
            println!("{relays} relays, {:?} {:?}: {waited:?}", gateway.ipv4, usual.ipv4);
            assert!(waited <= ms(500), "{waited:?}");
            let silence = world.longest_silence(flow, start + SECOND);
            assert!(silence <= ms(200), "{silence:?}");
            // Long enough for allocations and channels to have expired.
            world.run(700 * SECOND);
            assert!(world.longest_silence(flow, start + SECOND) <= ms(200));
            world.finish();
        }
    }
}

#[test]
fn a_relay_that_appears_does_not_take_over_from_a_direct_path() {
    // Nearer than the portal: checks arrive before it has told the client what they come from.
    let line = Line::clean(ms(2));
    let mut world = World::new(3);
    world.add_gateway(1, Access::behind(Mapping::EndpointIndependent, line));
    let client = world.add_client(Access::public(line));
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    world.run(2 * SECOND);
    let flow = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1").every(ms(50)));
    world.run(5 * SECOND);
    let relay = world.add_relay();
    world.run(20 * SECOND);
    let start = world.now();
    world.restart_relay(relay, false, 10 * SECOND);
    world.run(20 * SECOND);
    let silence = world.longest_silence(flow, start);
    assert!(silence <= ms(200), "{silence:?}");
    world.finish();
}

#[test]
fn a_relay_that_is_lost_is_replaced_within_three_seconds() {
    let symmetric = Access::behind(Mapping::Symmetric, LINE);
    for (relays, is_noticed) in [(1, false), (1, true), (2, false), (2, true)] {
        let mut world = World::new(7);
        for _ in 0..relays {
            world.add_relay();
        }
        world.add_gateway(1, symmetric);
        let client = world.add_client(symmetric);
        world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
        world.run(2 * SECOND);
        let spec = FlowSpec::to_address(client, What::Udp(7), "10.0.0.1").every(ms(50));
        let flow = world.start(spec);
        world.run(10 * SECOND);
        for number in 0..relays {
            let start = world.now();
            let pause = if relays == 1 { ms(100) } else { 30 * SECOND };
            world.restart_relay(number, is_noticed, pause);
            world.run(60 * SECOND);
            let silence = world.longest_silence(flow, start);
            println!("{relays} relays, noticed {is_noticed}: {silence:?}");
            assert!(silence <= 3 * SECOND, "{silence:?}");
        }
        world.finish();
    }
}

#[test]
fn without_a_path_applications_are_told_and_nobody_keeps_trying() {
    let symmetric = Access::behind(Mapping::Symmetric, LINE);
    let mut world = World::new(1);
    world.add_gateway(1, symmetric);
    let client = world.add_client(symmetric);
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    world.run(2 * SECOND);
    world.expect_no_path(client);
    let flow = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"));
    world.run(120 * SECOND);
    assert_eq!(world.answers(flow), 0);
    world.pause(flow);
    world.run(120 * SECOND);
    let before = (world.wakes(Node::Client(0)), world.wakes(Node::Gateway(0)));
    assert!(before.0 > 0);
    world.run(1200 * SECOND);
    let after = (world.wakes(Node::Client(0)), world.wakes(Node::Gateway(0)));
    assert!(after.0 <= 100 && after.1 <= 100, "{after:?} in 20 minutes");
    world.finish();
}

#[test]
fn lost_messages_cost_fractions_of_a_second() {
    let line = Line { loss: 0.025, ..LINE };
    let spec = || FlowSpec::to_name(0, What::Udp(443), "web.example", Family::V4);
    let access = Access::behind(Mapping::EndpointIndependent, line);
    let mut waited: Vec<Duration> = (0..200)
        .map(|seed| first_answer(seed, Access::public(line), access, spec()))
        .map(|waited| waited.expect("an answer"))
        .collect();
    waited.sort();
    println!("half {:?}, nine of ten {:?}, all {:?}", waited[100], waited[180], waited[199]);
    assert!(waited[100] <= ms(600), "{:?}", waited[100]);
    assert!(waited[180] <= ms(1200), "{:?}", waited[180]);
    assert!(waited[199] <= ms(4000), "{:?}", waited[199]);
}
