//! What the portal decides takes effect, and what it takes back is not delivered any more.
//!
//! That nothing passes which a gateway was told not to let through is checked for every packet of every simulation.
#![allow(missing_docs)]

use std::time::Duration;

use connlib_packet::{IcmpError, Unreachable};
use connlib_sim::{Access, Family, FlowId, FlowSpec, Line, Node, ResourceSpec, What, World};
use connlib_tunnel::Filter;

const LINE: Line = Line::clean(Duration::from_millis(10));
const SECOND: Duration = Duration::from_secs(1);

struct Lab {
    world: World,
    flow: FlowId,
    /// Reaches another resource all the time.
    bystander: FlowId,
}

fn lab(seed: u64) -> Lab {
    let mut world = World::new(seed);
    world.add_gateway(1, Access::public(LINE));
    let client = world.add_client(Access::public(LINE));
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    world.add_resource(ResourceSpec::network(2, 1, "172.16.0.0/12"), &[client]);
    world.run(SECOND);
    let flow = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"));
    let bystander = world.start(FlowSpec::to_address(client, What::Udp(7), "172.16.0.1"));
    world.run(5 * SECOND);
    Lab { world, flow, bystander }
}

impl Lab {
    /// Ends the test; nobody else has noticed anything.
    fn end(self) {
        let silence =
            self.world.longest_silence(self.bystander, self.world.start_of_time() + SECOND * 2);
        assert!(silence <= Duration::from_millis(250), "{silence:?}");
        self.world.finish();
    }
}

#[test]
fn a_revoked_resource_is_unreachable_until_it_is_granted_again() {
    let mut lab = lab(1);
    let world = &mut lab.world;
    world.revoke(0, 1);
    world.run(SECOND);
    let start = world.now();
    world.run(5 * SECOND);
    assert_eq!(world.answers_since(lab.flow, start), 0);
    let errors = world.errors_since(lab.flow, start);
    let unreachable = IcmpError::Unreachable(Unreachable::Network);
    assert!(errors.len() > 40 && errors.iter().all(|error| *error == unreachable), "{errors:?}");
    world.grant(0, 1, None);
    world.run(Duration::from_millis(500));
    let start = world.now();
    world.run(5 * SECOND);
    assert!(world.answers_since(lab.flow, start) > 45);
    lab.end();
}

#[test]
fn an_authorization_that_ended_is_asked_for_anew() {
    let mut lab = lab(2);
    let start = lab.world.now();
    lab.world.end_authorization(0, 1);
    lab.world.run(10 * SECOND);
    let silence = lab.world.longest_silence(lab.flow, start);
    assert!(silence <= Duration::from_millis(500), "{silence:?}");
    // Who tries again gets through: that is no reason to give up.
    assert_eq!(lab.world.errors_since(lab.flow, start), []);
    lab.end();
}

#[test]
fn an_authorization_that_ends_while_its_link_is_made_is_asked_for_anew() {
    for after in (0..200).step_by(4).map(Duration::from_millis) {
        for (resource, to_name) in [(1, false), (2, true)] {
            let mut world = World::new(7);
            world.add_gateway(1, Access::public(LINE));
            let client = world.add_client(Access::public(LINE));
            world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
            world.add_resource(ResourceSpec::names(2, 1, "*.example"), &[client]);
            world.set_name("web.example", &["10.5.0.1"]);
            world.run(SECOND);
            let start = world.now();
            let flow = match to_name {
                true => FlowSpec::to_name(client, What::Udp(7), "web.example", Family::V4),
                false => FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"),
            };
            let flow = world.start(flow);
            world.later(after, move |world| world.end_authorization(client, resource));
            world.run(10 * SECOND);
            let silence = world.longest_silence(flow, start);
            let limit = after + 3 * SECOND;
            assert!(silence <= limit, "{silence:?}, ended after {after:?}, by name: {to_name}");
            assert_eq!(world.errors_since(flow, start), [], "ended after {after:?}");
            world.finish();
        }
    }
}

#[test]
fn an_authorization_that_ends_while_the_line_is_down_is_asked_for_anew_when_it_is_up() {
    let mut world = World::new(8);
    world.add_gateway(1, Access::public(LINE));
    let client = world.add_client(Access::public(LINE));
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    let flow = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"));
    world.run(5 * SECOND);
    let start = world.now();
    world.unplug(Node::Client(client), 4 * SECOND);
    world.run(SECOND);
    // What the gateway says as it forgets the client is lost.
    world.end_authorization(client, 1);
    world.run(20 * SECOND);
    let silence = world.longest_silence(flow, start);
    assert!(silence <= 4 * SECOND + Duration::from_millis(700), "{silence:?}");
    world.finish();
}

#[test]
fn an_authorization_that_expires_is_asked_for_anew() {
    let mut lab = lab(3);
    lab.world.revoke(0, 1);
    lab.world.grant(0, 1, Some(20 * SECOND));
    lab.world.run(10 * SECOND);
    let start = lab.world.now();
    lab.world.run(120 * SECOND);
    let silence = lab.world.longest_silence(lab.flow, start);
    assert!(silence <= Duration::from_millis(500), "{silence:?}");
    lab.end();
}

#[test]
fn filters_change_while_packets_travel() {
    let mut lab = lab(4);
    let world = &mut lab.world;
    world.set_filters(1, &[Filter::Tcp { first: 80, last: 80 }]);
    world.run(SECOND);
    let start = world.now();
    world.run(5 * SECOND);
    assert_eq!(world.answers_since(lab.flow, start), 0);
    let errors = world.errors_since(lab.flow, start);
    assert!(errors.len() > 40, "{errors:?}");
    assert!(errors.iter().all(|error| *error == IcmpError::prohibited()), "{errors:?}");
    world.set_filters(1, &[Filter::Udp { first: 7, last: 7 }]);
    world.run(4 * SECOND);
    let start = world.now();
    world.run(5 * SECOND);
    assert!(world.answers_since(lab.flow, start) > 45);
    lab.end();
}

#[test]
fn what_changed_while_the_portal_was_away_holds_when_it_is_back() {
    let mut lab = lab(5);
    let world = &mut lab.world;
    world.stop_portal(10 * SECOND);
    world.run(SECOND);
    world.revoke(0, 1);
    world.run(12 * SECOND);
    let start = world.now();
    world.run(5 * SECOND);
    assert_eq!(world.answers_since(lab.flow, start), 0);
    lab.end();
}

#[test]
fn a_name_that_moves_is_followed_and_flows_stay_where_they_are() {
    let mut lab = lab(6);
    let world = &mut lab.world;
    world.add_resource(ResourceSpec::names(3, 1, "*.example"), &[0]);
    world.set_name("web.example", &["10.5.0.1"]);
    world.run(SECOND);
    let long = FlowSpec::to_name(0, What::Udp(443), "web.example", Family::V4);
    let long = world.start(long);
    let short = world.start(FlowSpec::to_name(0, What::Tcp(443), "web.example", Family::V4));
    world.run(40 * SECOND);
    world.set_name("web.example", &["10.5.0.2"]);
    // Applications ask again, and gateways then ask at most every 30 s.
    world.run(65 * SECOND);
    let start = world.now();
    world.run(10 * SECOND);
    assert_eq!(world.hosts_since(long, start), ["10.5.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(world.hosts_since(short, start), ["10.5.0.2".parse::<std::net::IpAddr>().unwrap()]);
    lab.end();
}
