//! Networks that let no datagrams through: relays are reached by streams then, and for no longer than that.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use connlib_sim::{Access, FlowId, FlowSpec, Line, Mapping, Node, ResourceSpec, What, World};

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

#[test]
fn a_wall_that_comes_and_goes_is_passed_and_forgotten() {
    for walled in [&[CLIENT][..], &[GATEWAY], &[CLIENT, GATEWAY]] {
        for relays in [1, 2] {
            for gateway in [open(), hidden()] {
                println!("{walled:?} {relays} {gateway:?}");
                let mut lab = lab(2, relays, gateway, &[]);
                assert_eq!(lab.streams(), [0, 0]);
                for node in walled {
                    lab.world.wall(*node, 60 * SECOND);
                }
                lab.waits_at_most(ms(5000), 55 * SECOND);
                assert_ne!(lab.streams(), [0, 0]);
                // Nothing is lost on the way back.
                lab.waits_at_most(ms(300), 60 * SECOND);
                assert_eq!(lab.streams(), [0, 0]);
                lab.world.finish();
            }
        }
    }
}
