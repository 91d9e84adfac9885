//! Access on a network where nothing goes wrong.
#![allow(missing_docs)]

use std::time::Duration;

use connlib_packet::{IcmpError, Unreachable};
use connlib_sim::{
    Access, CLOSED_PORT, Family, FlowSpec, Line, Mapping, ResourceSpec, What, World,
};
use connlib_tunnel::Filter;

const LINE: Line = Line::clean(Duration::from_millis(10));
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_packet_arrives_from_the_first_on() {
    let mut world = World::new(1);
    world.add_gateway(1, Access::public(LINE).dual());
    let client = world.add_client(Access::behind(Mapping::EndpointIndependent, LINE));
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    world.add_resource(ResourceSpec::network(2, 1, "fd02::/16"), &[client]);
    world.add_resource(ResourceSpec::names(3, 1, "*.example"), &[client]);
    world.set_name("web.example", &["10.1.0.1", "fd02::1"]);
    world.run(SECOND);
    let flows = [
        FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"),
        FlowSpec::to_address(client, What::Udp(7), "fd02::7"),
        FlowSpec::to_address(client, What::Ping, "10.0.0.1"),
        FlowSpec::to_address(client, What::Ping, "fd02::1"),
        FlowSpec::to_address(client, What::Tcp(80), "10.0.0.1"),
        FlowSpec::to_name(client, What::Tcp(443), "web.example", Family::V4),
        FlowSpec::to_name(client, What::Tcp(443), "web.example", Family::V6),
        FlowSpec::to_name(client, What::Udp(443), "web.example", Family::V4),
        FlowSpec::to_name(client, What::Ping, "web.example", Family::V6),
    ]
    .map(|flow| world.start(flow));
    world.run(10 * SECOND);
    for flow in flows {
        assert!(world.answers(flow) >= 30, "{flow:?}: {}", world.answers(flow));
    }
    let tally = world.finish();
    assert_eq!((tally.excused, tally.lost), (0, 0));
}

#[test]
fn what_may_not_pass_is_refused_and_never_delivered() {
    let mut world = World::new(2);
    world.add_gateway(1, Access::public(LINE));
    let client = world.add_client(Access::public(LINE));
    let web = [Filter::Tcp { first: 80, last: 80 }];
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8").filtered(&web), &[client]);
    world.add_resource(ResourceSpec::names(3, 1, "*.example"), &[client]);
    world.add_resource(ResourceSpec::network(4, 2, "172.16.0.0/12"), &[client]);
    world.set_name("four.example", &["10.1.0.1"]);
    world.run(SECOND);
    let prohibited = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"));
    let unknown = world.start(FlowSpec::to_address(client, What::Udp(7), "192.168.7.7"));
    let offline = world.start(FlowSpec::to_address(client, What::Udp(7), "172.16.0.1"));
    let six = FlowSpec::to_name(client, What::Udp(7), "four.example", Family::V6);
    let six = world.start(six);
    let closed = FlowSpec::to_name(client, What::Udp(CLOSED_PORT), "four.example", Family::V4);
    let closed = world.start(closed);
    let start = world.now();
    world.run(10 * SECOND);
    for (flow, reason) in [
        (prohibited, Unreachable::Prohibited),
        (unknown, Unreachable::Network),
        (offline, Unreachable::Network),
        (six, Unreachable::Host),
        (closed, Unreachable::Port),
    ] {
        let errors = world.errors_since(flow, start);
        assert!(errors.len() > 50, "{flow:?}");
        assert!(errors.iter().all(|error| *error == IcmpError::Unreachable(reason)), "{errors:?}");
    }
    world.finish();
}
