//! Networks that let no datagrams through: relays are reached by streams then, and for no longer than that.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use connlib_sim::{
    Access, FlowId, FlowSpec, Line, Mapping, Node, ResourceSpec, What, World, bounds,
};

const LINE: Line = Line::clean(Duration::from_millis(10));
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

const CLIENT: Node = Node::Client(0);
const GATEWAY: Node = Node::Gateway(0);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

struct Lab {
    world: World,
    flow: FlowId,
}

/// A client behind a router and a gateway, `relays` relays, and those that are walled from the beginning.
fn lab(seed: u64, relays: usize, gateway: Access, walled: &[Node]) -> Lab {
    let mut world = World::new(seed);
    for _ in 0..relays {
        world.add_relay();
    }
    world.add_gateway(1, gateway);
    let client = world.add_client(Access::behind(Mapping::EndpointIndependent, LINE));
    for node in walled {
        world.wall(*node, HOUR);
    }
    world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
    world.run(2 * SECOND);
    let spec = FlowSpec::to_address(client, What::Udp(7), "10.0.0.1").every(ms(50));
    let flow = world.start(spec);
    world.run(20 * SECOND);
    Lab { world, flow }
}

fn open() -> Access {
    Access::public(LINE)
}

fn hidden() -> Access {
    Access::behind(Mapping::Symmetric, LINE)
}

impl Lab {
    /// Runs for a while, in which the application waits no longer than this.
    fn waits_at_most(&mut self, limit: Duration, lasts: Duration) {
        let start = self.world.now();
        self.world.run(lasts);
        self.has_waited_at_most(limit, start);
    }

    fn has_waited_at_most(&self, limit: Duration, since: Instant) {
        let silence = self.world.longest_silence(self.flow, since);
        println!("{silence:?} of {limit:?}");
        assert!(silence <= limit, "{silence:?}");
    }

    fn streams(&self) -> [usize; 2] {
        [CLIENT, GATEWAY].map(|node| self.world.streams(node))
    }
}

#[test]
fn who_is_walled_from_the_start_takes_a_stream_and_the_other_end_does_not() {
    for (walled, streams) in
        [(&[CLIENT][..], [1, 0]), (&[GATEWAY], [0, 1]), (&[CLIENT, GATEWAY], [1, 1])]
    {
        for relays in [1, 2] {
            for gateway in [open(), hidden(), open().dual()] {
                let mut lab = lab(1, relays, gateway, walled);
                lab.has_waited_at_most(ms(4000), lab.world.start_of_time());
                assert_eq!(lab.streams(), streams, "{walled:?}");
                // Long enough for allocations and channels to have expired.
                lab.waits_at_most(ms(200), 700 * SECOND);
                assert_eq!(lab.streams(), streams, "{walled:?}");
                lab.world.finish();
            }
        }
    }
}

/// How long it takes until a stream is used instead.
fn bound(walled: &[Node]) -> Duration {
    if walled.contains(&GATEWAY) { bounds::GATEWAY_WALLED } else { bounds::WALLED }
}

#[test]
fn a_wall_that_comes_and_goes_is_passed_and_forgotten() {
    for walled in [&[CLIENT][..], &[GATEWAY], &[CLIENT, GATEWAY]] {
        for relays in [1, 2] {
            for gateway in [open(), hidden()] {
                println!("{walled:?}, {relays} relays, {:?}", gateway.ipv4);
                let mut lab = lab(2, relays, gateway, &[]);
                assert_eq!(lab.streams(), [0, 0]);
                for node in walled {
                    lab.world.wall(*node, 90 * SECOND);
                }
                lab.waits_at_most(bound(walled), 85 * SECOND);
                assert_ne!(lab.streams(), [0, 0]);
                // Nothing is lost on the way back.
                lab.waits_at_most(ms(300), 60 * SECOND);
                assert_eq!(lab.streams(), [0, 0]);
                lab.world.finish();
            }
        }
    }
}

#[test]
fn without_relays_there_is_nothing_behind_a_wall() {
    for (node, seconds) in [(CLIENT, 5), (GATEWAY, 5), (CLIENT, 30), (GATEWAY, 30)] {
        let mut lab = lab(3, 0, open(), &[]);
        let wall = seconds * SECOND;
        lab.world.wall(node, wall);
        lab.waits_at_most(wall + 3 * SECOND, 60 * SECOND);
        lab.world.finish();
    }
}

#[test]
fn a_relay_that_restarts_takes_its_streams_with_it() {
    for (relays, pause, limit) in [(1, 0, 4), (1, 5, 12), (2, 30, 2)] {
        for is_noticed in [false, true] {
            for walled in [&[CLIENT][..], &[CLIENT, GATEWAY]] {
                let mut lab = lab(4, relays, open(), walled);
                for number in 0..relays {
                    println!("{relays} relays, away for {pause} s, {is_noticed}, {walled:?}");
                    lab.world.restart_relay(number, is_noticed, pause * SECOND);
                    lab.waits_at_most(limit * SECOND, 60 * SECOND);
                }
                lab.world.finish();
            }
        }
    }
}

#[test]
fn who_goes_elsewhere_behind_walls_takes_another_stream() {
    let elsewhere = [open(), Access::behind(Mapping::EndpointIndependent, LINE), hidden()];
    for access in elsewhere {
        for gap in [0, 3] {
            for gateway in [open(), hidden()] {
                println!("{:?} after {gap} s, {:?}", access.ipv4, gateway.ipv4);
                let mut lab = lab(5, 2, gateway, &[CLIENT]);
                lab.world.roam(0, access, gap * SECOND);
                lab.waits_at_most((gap + 1) * SECOND + bounds::WALLED, 60 * SECOND);
                assert_eq!(lab.streams(), [1, 0]);
                lab.world.finish();
            }
        }
    }
}

#[test]
fn a_line_that_was_down_carries_on_with_its_stream() {
    for seconds in [1, 2, 5, 12, 40] {
        let mut lab = lab(6, 1, open(), &[CLIENT]);
        println!("{seconds} s");
        lab.world.unplug(CLIENT, seconds * SECOND);
        lab.waits_at_most(2 * seconds * SECOND + 2 * SECOND, 120 * SECOND);
        lab.world.finish();
    }
}

#[test]
fn a_router_that_forgets_a_stream_costs_little() {
    let mut lab = lab(7, 1, open(), &[CLIENT]);
    lab.world.restart_routers(CLIENT);
    lab.waits_at_most(2 * SECOND, 60 * SECOND);
    lab.world.finish();
}

#[test]
fn ends_that_restart_behind_walls_come_back() {
    for says_goodbye in [true, false] {
        for walled in [&[CLIENT][..], &[GATEWAY], &[CLIENT, GATEWAY]] {
            println!("{walled:?} {says_goodbye}");
            let mut lab = lab(8, 1, open(), walled);
            lab.world.restart_client(0, says_goodbye, SECOND);
            lab.waits_at_most(SECOND + bounds::WALLED, 30 * SECOND);
            lab.world.restart_gateway(0, says_goodbye, SECOND);
            lab.waits_at_most(SECOND + bounds::WALLED, 30 * SECOND);
            lab.world.finish();
        }
    }
}

#[test]
fn a_client_moves_without_the_portal() {
    let mut lab = lab(9, 1, open(), &[]);
    lab.world.stop_portal(100 * SECOND);
    lab.world.wall(CLIENT, 60 * SECOND);
    lab.waits_at_most(bounds::WALLED, 90 * SECOND);
    lab.world.finish();
}

#[test]
fn credentials_that_change_lose_nothing() {
    for relays in [1, 2] {
        for walled in [&[CLIENT][..], &[GATEWAY], &[CLIENT, GATEWAY]] {
            let mut lab = lab(10, relays, hidden(), walled);
            for _ in 0..3 {
                lab.world.renew_credentials();
                lab.waits_at_most(ms(200), 60 * SECOND);
            }
            lab.world.finish();
        }
    }
}
