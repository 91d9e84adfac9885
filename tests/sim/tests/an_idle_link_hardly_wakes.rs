//! What a link costs that nobody uses: a phone in a pocket.
#![allow(missing_docs)]

use std::time::Duration;

use connlib_sim::{Access, FlowSpec, Line, Mapping, Node, ResourceSpec, What, World};

const LINE: Line = Line::clean(Duration::from_millis(10));
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_link_that_nobody_uses() {
    let mut world = World::new(1);
    world.add_gateway(1, Access::public(LINE));
    let client = world.add_client(Access::behind(Mapping::EndpointIndependent, LINE));
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    let flow = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"));
    world.run(Duration::from_secs(10));
    world.pause(flow);
    world.run(Duration::from_secs(120));
    world.wakes(Node::Client(0));
    world.wakes(Node::Gateway(0));
    world.run(HOUR);
    let wakes = (world.wakes(Node::Client(0)), world.wakes(Node::Gateway(0)));
    println!("client and gateway wake {wakes:?} times an hour");
    assert!(wakes.0 <= 220 && wakes.1 <= 250, "{wakes:?}");
    world.finish();
}

#[test]
fn a_client_without_a_link() {
    let mut world = World::new(1);
    world.add_client(Access::public(LINE));
    world.run(Duration::from_secs(60));
    world.wakes(Node::Client(0));
    world.run(HOUR);
    let wakes = world.wakes(Node::Client(0));
    println!("a client without a link wakes {wakes} times an hour");
    assert!(wakes <= 150, "{wakes}");
}
