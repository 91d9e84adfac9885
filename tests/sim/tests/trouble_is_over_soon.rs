//! How long applications wait when something goes wrong, on a network that is otherwise sound.
#![allow(missing_docs)]

use std::time::Duration;

use connlib_sim::{
    Access, Family, FlowId, FlowSpec, Line, Mapping, Node, ResourceSpec, What, World,
};

const LINE: Line = Line::clean(Duration::from_millis(10));
const SECOND: Duration = Duration::from_secs(1);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

struct Lab {
    world: World,
    client: usize,
    gateway: usize,
    flows: Vec<FlowId>,
}

/// A client behind a router, and applications that send something 50 times a second.
fn lab(seed: u64) -> Lab {
    let mut world = World::new(seed);
    let gateway = world.add_gateway(1, Access::public(LINE));
    let client = world.add_client(Access::behind(Mapping::EndpointIndependent, LINE));
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    world.add_resource(ResourceSpec::names(2, 1, "*.example"), &[client]);
    world.set_name("web.example", &["10.1.0.1"]);
    let flows = [
        FlowSpec::to_address(client, What::Udp(7), "10.0.0.1").every(ms(20)),
        FlowSpec::to_address(client, What::Ping, "10.0.0.2").every(ms(20)),
        FlowSpec::to_name(client, What::Udp(443), "web.example", Family::V4).every(ms(20)),
    ]
    .map(|flow| world.start(flow))
    .to_vec();
    world.run(20 * SECOND);
    Lab { world, client, gateway, flows }
}

impl Lab {
    /// Runs for a while, and then no application has waited longer than this.
    fn waits_at_most(mut self, limit: Duration) {
        let start = self.world.now();
        self.world.run(30 * SECOND);
        for flow in &self.flows {
            let silence = self.world.longest_silence(*flow, start);
            println!("{flow:?}: {silence:?} of {limit:?}");
            assert!(silence <= limit, "{flow:?}: {silence:?}");
        }
        self.world.finish();
    }
}

#[test]
fn nobody_notices_that_the_portal_is_away() {
    let mut lab = lab(1);
    lab.world.stop_portal(10 * SECOND);
    lab.waits_at_most(ms(100));
}

#[test]
fn another_address_costs_a_quarter_of_a_second() {
    for (access, gap) in [
        (Access::behind(Mapping::EndpointIndependent, LINE), 0),
        (Access::behind(Mapping::Symmetric, LINE), 0),
        (Access::public(LINE), 0),
        (Access::behind(Mapping::EndpointIndependent, LINE), 3000),
        (Access::behind(Mapping::Symmetric, LINE), 3000),
        (Access::public(LINE), 3000),
    ] {
        let mut lab = lab(2);
        lab.world.roam(lab.client, access, ms(gap));
        lab.waits_at_most(ms(gap + 250));
    }
}

#[test]
fn another_address_needs_no_portal() {
    let mut lab = lab(3);
    lab.world.stop_portal(100 * SECOND);
    lab.world.roam(lab.client, Access::behind(Mapping::Symmetric, LINE), ms(0));
    lab.waits_at_most(ms(250));
}

#[test]
fn a_gateway_that_says_goodbye_is_back_half_a_second_after_its_start() {
    let mut lab = lab(4);
    lab.world.restart_gateway(lab.gateway, true, SECOND);
    lab.waits_at_most(ms(1500));
}

#[test]
fn a_gateway_that_crashed_is_back_two_seconds_after_its_start() {
    let mut lab = lab(5);
    lab.world.restart_gateway(lab.gateway, false, SECOND);
    lab.waits_at_most(ms(3000));
}

#[test]
fn another_gateway_of_the_site_takes_over() {
    let mut lab = lab(6);
    lab.world.add_gateway(1, Access::public(LINE));
    lab.world.run(SECOND);
    lab.world.restart_gateway(lab.gateway, true, 100 * SECOND);
    lab.waits_at_most(ms(1000));
}

#[test]
fn a_line_that_was_down_is_used_as_soon_as_it_is_up() {
    for seconds in [1, 3, 5, 7u32] {
        let mut lab = lab(7);
        lab.world.unplug(Node::Client(lab.client), seconds * SECOND);
        lab.waits_at_most(seconds * SECOND + ms(200));
    }
}

#[test]
fn a_gateways_line_that_was_down_is_used_as_soon_as_it_is_up() {
    for seconds in [1, 5u32] {
        let mut lab = lab(8);
        lab.world.unplug(Node::Gateway(lab.gateway), seconds * SECOND);
        lab.waits_at_most(seconds * SECOND + ms(200));
    }
}

#[test]
fn a_gateway_that_restarted_while_the_line_was_down_is_found_soon() {
    for says_goodbye in [true, false] {
        let mut lab = lab(10);
        lab.world.unplug(Node::Client(lab.client), 12 * SECOND);
        lab.world.run(2 * SECOND);
        lab.world.restart_gateway(lab.gateway, says_goodbye, SECOND);
        lab.waits_at_most(12 * SECOND + ms(600));
    }
}

#[test]
fn a_router_that_restarts_is_not_noticed() {
    let mut lab = lab(9);
    lab.world.restart_routers(Node::Client(lab.client));
    lab.waits_at_most(ms(100));
}

#[test]
fn a_hidden_gateway_that_starts_without_a_network_is_found_by_who_waits_for_it() {
    for gap in (2..=16).map(|halves| ms(500) * halves) {
        let mut world = World::new(12);
        let hidden = Access::behind(Mapping::EndpointIndependent, LINE);
        let gateway = world.add_gateway(1, hidden);
        let client = world.add_client(hidden);
        world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
        world.wall(Node::Gateway(gateway), gap);
        let start = world.now();
        let flow = FlowSpec::to_address(client, What::Udp(7), "10.0.0.1").every(ms(100));
        let flow = world.start(flow);
        world.run(20 * SECOND);
        let waited = world.first_answer(flow, start);
        assert!(waited <= gap + ms(2500), "{waited:?}, without a network for {gap:?}");
        world.finish();
    }
}
