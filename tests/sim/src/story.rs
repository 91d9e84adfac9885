//! Worlds and their troubles by chance.

use std::time::Duration;

use connlib_tunnel::Filter;

use crate::app::{FlowId, FlowSpec, What};
use crate::internet::{Access, Line, Mapping, Node};
use crate::model::Tally;
use crate::names::Family;
use crate::portal::ResourceSpec;
use crate::random::Random;
use crate::site::{CLOSED_PORT, SILENT_PORT};
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// Wake-ups of a machine an hour when nothing is going on, for each link: checks of up to two
/// paths every 25 s, and those that get lost.
pub const WAKES_PER_IDLE_HOUR: u64 = 1000;

/// And for each relay: allocation and channels are refreshed every five minutes, and the allocation is asked for when
/// answers get lost.
pub const WAKES_PER_IDLE_HOUR_AND_RELAY: u64 = 260;

/// What a story came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What became of its probes.
    pub tally: Tally,
    /// Virtual time that passed.
    pub elapsed: Duration,
    /// Equal for equal courses.
    pub fingerprint: u64,
}

/// Lives through the world of a seed.
///
/// # Panics
///
/// If something happens there that must not be.
pub fn live(seed: u64) -> Outcome {
    let mut story = Story::new(seed);
    for _ in 0..story.random.between(2, 7) {
        story.chapter();
    }
    story.end()
}

struct Story {
    world: World,
    random: Random,
    clients: usize,
    gateways: usize,
    sites: usize,
    /// Gateways are behind routers: those of clients must not be symmetric then, unless there is a relay.
    are_gateways_hidden: bool,
    relays: usize,
    flows: Vec<FlowId>,
    /// Everything that was broken is mended after so long.
    mended_after: Duration,
    /// Hosts that send without being asked have stopped after so long.
    pushes_for: Duration,
    conditions: Conditions,
}

/// How good the lines of a world are.
#[derive(Debug, Clone, Copy)]
struct Conditions {
    jitter: Duration,
    loss: f64,
    duplication: f64,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed).fork(3);
        let conditions = match random.index(4) {
            0 | 1 => Conditions { jitter: Duration::ZERO, loss: 0.0, duplication: 0.0 },
            2 => Conditions {
                jitter: random.duration(Duration::ZERO, SECOND / 25),
                loss: 0.0,
                duplication: 0.02,
            },
            _ => Conditions {
                jitter: random.duration(Duration::ZERO, SECOND / 25),
                loss: random.between(5, 100) as f64 / 1000.0,
                duplication: 0.01,
            },
        };
        let clients = random.pick(&[1, 1, 1, 2]);
        let gateways = random.pick(&[1, 1, 2]);
        let sites = if gateways == 2 { random.pick(&[1, 2]) } else { 1 };
        let are_gateways_hidden = random.chance(0.2);
        let relays = random.pick(&[0, 0, 0, 0, 0, 1, 2]);
        let mut story = Self {
            world: World::new(seed),
            random,
            clients,
            gateways,
            sites,
            are_gateways_hidden,
            relays,
            flows: Vec::new(),
            mended_after: Duration::ZERO,
            pushes_for: Duration::ZERO,
            conditions,
        };
        story.build();
        story
    }

    fn build(&mut self) {
        for _ in 0..self.relays {
            self.world.add_relay();
        }
        for number in 0..self.gateways {
            let mut access = match self.are_gateways_hidden {
                true => Access::behind(self.hidden_mapping(), self.line()),
                false => Access::public(self.line()),
            };
            access.ipv6 = self.random.pick(&[None, Some(None)]);
            self.world.add_gateway((number % self.sites) as u128 + 1, access);
        }
        for _ in 0..self.clients {
            let access = self.client_access();
            self.world.add_client(access);
        }
        let all: Vec<usize> = (0..self.clients).collect();
        for site in 1..=self.sites {
            let id = |kind: u128| site as u128 * 10 + kind;
            let site = site as u128;
            let web = [Filter::Tcp { first: 80, last: 80 }, Filter::Icmp];
            self.world.add_resource(
                ResourceSpec::network(id(1), site, &format!("10.{site}.0.0/16")),
                &all,
            );
            self.world
                .add_resource(ResourceSpec::network(id(2), site, &format!("fd0{site}::/16")), &all);
            let filtered = ResourceSpec::network(id(3), site, &format!("172.16.{site}.0/24"));
            self.world.add_resource(filtered.filtered(&web), &all);
            self.world.add_resource(
                ResourceSpec::names(id(4), site, &format!("*.site{site}.example")),
                &all,
            );
            self.name(site as usize);
        }
        for _ in 0..self.random.between(2, 5) * self.clients as u64 {
            let flow = self.flow();
            let flow = self.world.start(flow);
            self.flows.push(flow);
        }
    }

    fn line(&mut self) -> Line {
        let latency = self.random.duration(SECOND / 1000, SECOND / 20);
        let Conditions { jitter, loss, duplication } = self.conditions;
        Line { latency, jitter, loss, duplication }
    }

    /// What a router does if those at the other end hide their hosts as well.
    fn hidden_mapping(&mut self) -> Mapping {
        match self.relays {
            0 => Mapping::EndpointIndependent,
            _ => self.random.pick(&[Mapping::EndpointIndependent, Mapping::Symmetric]),
        }
    }

    fn client_access(&mut self) -> Access {
        let line = self.line();
        let mut access = match self.random.index(3) {
            0 => Access::public(line),
            _ if self.are_gateways_hidden => Access::behind(self.hidden_mapping(), line),
            1 => Access::behind(Mapping::EndpointIndependent, line),
            _ => Access::behind(Mapping::Symmetric, line),
        };
        access.ipv6 = self.random.pick(&[None, None, Some(None), Some(Some(Mapping::Firewall))]);
        access.nat_lifetime = self.random.pick(&[30, 60, 120, 300]) * SECOND;
        access
    }

    /// The name of a site gets addresses, new ones perhaps.
    fn name(&mut self, site: usize) {
        let host = self.random.between(1, 200);
        let four = format!("10.{site}.9.{host}");
        let six = format!("fd0{site}:9::{host}");
        self.world.set_name(&format!("web.site{site}.example"), &[&four, &six]);
        self.world.set_name(&format!("four.site{site}.example"), &[&four]);
    }

    fn flow(&mut self) -> FlowSpec {
        let client = self.random.index(self.clients);
        let site = self.random.index(self.sites) + 1;
        let what = match self.random.index(8) {
            0 | 1 => What::Udp(7),
            2 => What::Ping,
            3 => What::Udp(SILENT_PORT),
            4 => What::Udp(CLOSED_PORT),
            _ => What::Tcp(80),
        };
        let family = self.random.pick(&[Family::V4, Family::V6]);
        let host = self.random.between(1, 200);
        let spec = match self.random.index(9) {
            0 | 1 => FlowSpec::to_address(client, what, &format!("10.{site}.0.{host}")),
            2 => FlowSpec::to_address(client, what, &format!("fd0{site}::{host}")),
            3 => FlowSpec::to_address(client, what, &format!("172.16.{site}.{host}")),
            4 => FlowSpec::to_address(client, what, &format!("192.168.{site}.{host}")),
            5 => FlowSpec::to_name(client, what, &format!("four.site{site}.example"), family),
            _ => FlowSpec::to_name(client, what, &format!("web.site{site}.example"), family),
        };
        let period = self.random.pick(&[50, 150, 400, 1000, 3000]);
        let size = self.random.pick(&[8, 32, 500, 1200]);
        spec.every(Duration::from_millis(period)).of_size(size)
    }

    /// Something happens, and some time passes.
    fn chapter(&mut self) {
        self.mended_after = self.mended_after.saturating_sub(self.trouble());
        match self.random.index(4) {
            0 => {
                let pause = self.random.duration(5 * SECOND, 700 * SECOND);
                self.idle(pause);
                self.run(15 * SECOND);
            }
            1 => {
                let moment = self.random.duration(SECOND / 100, 2 * SECOND);
                self.run(moment);
            }
            _ => {
                let while_ = self.random.duration(2 * SECOND, 40 * SECOND);
                self.run(while_);
            }
        }
    }

    fn run(&mut self, duration: Duration) {
        self.world.run(duration);
        self.mended_after = self.mended_after.saturating_sub(duration);
        self.pushes_for = self.pushes_for.saturating_sub(duration);
    }

    fn idle(&mut self, duration: Duration) {
        let flows = self.flows.clone();
        flows.iter().for_each(|flow| self.world.pause(*flow));
        self.run(duration);
        flows.iter().for_each(|flow| self.world.resume(*flow));
    }

    /// One of all the things that go wrong.
    fn trouble(&mut self) -> Duration {
        let client = self.random.index(self.clients);
        let gateway = self.random.index(self.gateways);
        let site = self.random.index(self.sites) + 1;
        let resource = site as u128 * 10 + u128::from(self.random.between(1, 5));
        let short = self.random.duration(Duration::ZERO, 8 * SECOND);
        let long = self.random.duration(8 * SECOND, 90 * SECOND);
        let is_polite = self.random.chance(0.5);
        match self.random.index(if self.relays > 0 { 21 } else { 17 }) {
            0 => {
                let access = self.client_access();
                let gap = self.random.pick(&[Duration::ZERO, short]);
                self.world.roam(client, access, gap);
                self.takes(gap);
            }
            1 => {
                let node = self.random.pick(&[Node::Client(client), Node::Gateway(gateway)]);
                let gap = self.random.pick(&[short, short, long]);
                self.world.unplug(node, gap);
                self.takes(gap);
            }
            2 | 3 => {
                self.world.restart_gateway(gateway, is_polite, short);
                self.takes(short);
            }
            4 => {
                self.world.restart_client(client, is_polite, short);
                self.takes(short);
            }
            5 | 6 => {
                self.world.stop_portal(long);
                self.takes(long);
            }
            7 => {
                let node = self.random.pick(&[Node::Client(client), Node::Gateway(gateway)]);
                self.world.cut_off(node, short);
                self.takes(short);
            }
            8 => {
                self.world.revoke(client, resource);
                self.takes(short);
                self.world.later(short, move |world| world.grant(client, resource, None));
            }
            9 => self.world.end_authorization(client, resource),
            10 => {
                let lasts = self.random.duration(20 * SECOND, 60 * SECOND);
                self.world.revoke(client, resource);
                self.world.grant(client, resource, Some(lasts));
            }
            11 => self.name(site),
            12 => self.world.restart_routers(Node::Client(client)),
            13 => {
                let web = Filter::Tcp { first: 80, last: 80 };
                let echo = Filter::Udp { first: 7, last: CLOSED_PORT };
                let filters = [vec![], vec![web, Filter::Icmp], vec![echo], vec![web, echo]];
                let chosen = self.random.index(filters.len());
                self.world.set_filters(resource, &filters[chosen]);
            }
            14 => {
                let flow = self.random.index(self.flows.len());
                // The host would not know which gateway to answer by.
                if self.gateways == self.sites {
                    let period = self.random.duration(SECOND / 10, 20 * SECOND);
                    self.world.start_push(self.flows[flow], period, 3 * long);
                    self.pushes_for = self.pushes_for.max(3 * long);
                }
            }
            // The last where there are no relays.
            16 | 18 => {
                let node = self.random.pick(&[Node::Client(client), Node::Gateway(gateway)]);
                let gap = self.random.pick(&[short, long, 3 * long]);
                self.world.wall(node, gap);
                self.takes(gap);
            }
            20 => self.world.renew_credentials(),
            17 | 19 => {
                let (relay, is_noticed) = (self.random.index(self.relays), is_polite);
                self.world.restart_relay(relay, is_noticed, short);
                self.takes(short);
            }
            _ => {
                let line = self.line();
                let node = self.random.pick(&[Node::Client(client), Node::Gateway(gateway)]);
                self.world.set_line(node, line);
            }
        }
        Duration::ZERO
    }

    fn takes(&mut self, duration: Duration) {
        self.mended_after = self.mended_after.max(duration);
    }

    /// All is mended; then everything works as it should, and in the end nobody moves any more.
    fn end(mut self) -> Outcome {
        let wait = self.mended_after + 60 * SECOND;
        self.run(wait);
        self.run(20 * SECOND);
        let flows = self.flows.clone();
        flows.iter().for_each(|flow| self.world.pause(*flow));
        self.run(self.pushes_for + 60 * SECOND);
        let nodes =
            (0..self.clients).map(Node::Client).chain((0..self.gateways).map(Node::Gateway));
        let nodes: Vec<Node> = nodes.collect();
        for node in &nodes {
            self.world.wakes(*node);
        }
        self.run(1200 * SECOND);
        for node in nodes {
            let links = match node {
                Node::Client(_) => self.gateways,
                _ => self.clients,
            };
            let budget = WAKES_PER_IDLE_HOUR / 3 * links as u64
                + WAKES_PER_IDLE_HOUR_AND_RELAY / 3 * self.relays as u64;
            let wakes = self.world.wakes(node);
            assert!(wakes <= budget, "{node:?} wakes {wakes} times in 20 minutes");
        }
        let (fingerprint, elapsed) = (self.world.fingerprint(), self.world.elapsed());
        Outcome { tally: self.world.finish(), elapsed, fingerprint }
    }
}
