//! The world: what is in it, and the loop that makes time pass.

mod agenda;
mod apps;
mod faults;
mod signalling;
mod streams;
mod travel;

pub use faults::bounds;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{LazyLock, Once};
use std::time::{Duration, Instant};

use connlib_packet::IcmpError;
use connlib_tunnel::{ResourceId, SiteId};

use self::agenda::{Agenda, Happening};
use crate::app::{Flow, FlowId, FlowSpec};
use crate::hosts::{self, ClientHost, Effect, GatewayHost, RelayHost};
use crate::internet::streams::Streams;
use crate::internet::{Access, Internet, Node};
use crate::logs;
use crate::model::{Model, Tally};
use crate::names::Names;
use crate::portal::{Portal, ResourceSpec, gateway_id};
use crate::random::Random;
use crate::trace::Trace;
use crate::wire::Wire;

/// When all worlds begin. The only look at a real clock.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One way between a peer and the portal.
const PORTAL_LATENCY: Duration = Duration::from_millis(15);
/// A line that is down for so long breaks connections to the portal.
const BREAKS_CONNECTIONS: Duration = Duration::from_secs(10);
/// Between a gateway and a host behind it.
const SITE_LATENCY: Duration = Duration::from_millis(1);

/// Everything.
pub struct World {
    seed: u64,
    now: Instant,
    agenda: Agenda,
    random: Random,
    trace: Trace,
    internet: Internet,
    streams: Streams,
    portal: Portal,
    portal_is_up: bool,
    /// Since when all peers are connected to the portal.
    complete_since: Option<Instant>,
    wires: BTreeMap<Node, Wire>,
    clients: Vec<Machine<ClientHost>>,
    gateways: Vec<Machine<GatewayHost>>,
    /// `None`: it does not run.
    relays: Vec<Option<RelayHost>>,
    names: Names,
    flows: Vec<Flow>,
    probes: u32,
    model: Model,
    initiations: u64,
    /// Authorizations that ended without their client being told.
    unaware: BTreeSet<(usize, ResourceId)>,
    /// Clients that are about to learn of it.
    learning: Vec<(Instant, usize, ResourceId)>,
    /// Clients whose policy changed while somebody could not be told.
    to_be_told: BTreeSet<usize>,
}

/// A machine, with the program on it if that runs.
struct Machine<H> {
    host: Option<H>,
    access: Access,
    generation: u32,
    /// Since when its line is down.
    down_since: Option<Instant>,
    rings_before: u64,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        static LISTENER: Once = Once::new();
        LISTENER.call_once(|| {
            let _ = tracing::subscriber::set_global_default(logs::Listener::new());
        });
        logs::take_warnings();
        let now = *EPOCH;
        let random = Random::new(seed);
        Self {
            seed,
            now,
            agenda: Agenda::default(),
            trace: Trace::new(now),
            internet: Internet::new(random.fork(1)),
            streams: Streams::new(random.fork(4)),
            random: random.fork(2),
            portal: Portal::default(),
            portal_is_up: true,
            complete_since: None,
            wires: BTreeMap::new(),
            clients: Vec::new(),
            gateways: Vec::new(),
            relays: Vec::new(),
            names: Names::default(),
            flows: Vec::new(),
            probes: 0,
            model: Model::new(now),
            initiations: 0,
            unaware: BTreeSet::new(),
            learning: Vec::new(),
            to_be_told: BTreeSet::new(),
        }
    }

    /// The present, on the virtual clock.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// When everything began.
    pub fn start_of_time(&self) -> Instant {
        self.trace.start()
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.model.tally
    }

    /// Two runs with the same fingerprint took the same course.
    pub fn fingerprint(&self) -> u64 {
        self.trace.fingerprint()
    }

    /// How long the run has taken so far, in virtual time.
    pub fn elapsed(&self) -> Duration {
        self.trace.since_start(self.now)
    }

    /// Starts a gateway of a site. Returns its number.
    pub fn add_gateway(&mut self, site: u128, access: Access) -> usize {
        let number = self.gateways.len();
        let site = SiteId::from_u128(site);
        self.portal.policy.gateways.insert(gateway_id(number), site);
        self.gateways.push(Machine::new(access));
        self.wires.insert(Node::Gateway(number), Wire::default());
        self.internet.attach(Node::Gateway(number), access);
        for client in 0..self.clients.len() {
            self.model.set_patience(client, self.patience(client));
        }
        self.boot_gateway(number);
        number
    }

    /// Starts a client. Returns its number.
    pub fn add_client(&mut self, access: Access) -> usize {
        let number = self.clients.len();
        self.clients.push(Machine::new(access));
        self.wires.insert(Node::Client(number), Wire::default());
        self.internet.attach(Node::Client(number), access);
        self.model.add_client(number, Duration::ZERO, self.now);
        self.model.set_patience(number, self.patience(number));
        self.boot_client(number);
        number
    }

    /// Starts a relay that everybody is told of. Returns its number.
    pub fn add_relay(&mut self) -> usize {
        let number = self.relays.len();
        let [ipv4, ipv6] = hosts::relay_addresses(number);
        self.internet.attach_server(Node::Relay(number), ipv4, ipv6);
        self.relays.push(None);
        self.start_relay(number);
        for client in 0..self.clients.len() {
            self.model.set_patience(client, self.patience(client));
        }
        number
    }

    /// Adds a resource that these clients may use.
    pub fn add_resource(&mut self, spec: ResourceSpec, clients: &[usize]) {
        let id = spec.id;
        self.portal.policy.resources.insert(id, spec);
        for client in clients {
            self.portal.grant(*client, id, None);
        }
        self.post();
    }

    /// A name has these addresses from now on.
    pub fn set_name(&mut self, name: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.names.set(name, &addresses);
    }

    /// Starts an application.
    pub fn start(&mut self, spec: FlowSpec) -> FlowId {
        let id = FlowId(self.flows.len());
        self.flows.push(Flow::new(id, spec, self.now));
        self.schedule(self.now, Happening::Tick(id));
        id
    }

    /// The host that an application talks to by its address sends to it, for a while, without being asked.
    pub fn start_push(&mut self, flow: FlowId, period: Duration, lasts: Duration) {
        self.schedule(self.now, Happening::Push(flow, period, self.now + lasts));
    }

    /// An application pauses.
    pub fn pause(&mut self, flow: FlowId) {
        self.flows[flow.0].is_running = false;
    }

    /// An application goes on.
    pub fn resume(&mut self, flow: FlowId) {
        let now = self.now;
        let flow_state = &mut self.flows[flow.0];
        if !std::mem::replace(&mut flow_state.is_running, true) {
            flow_state.resumed_at = now;
            self.schedule(self.now, Happening::Tick(flow));
        }
    }

    /// Does something at a later time.
    pub fn later(&mut self, after: Duration, what: impl FnOnce(&mut Self) + 'static) {
        self.schedule(self.now + after, Happening::Meddle(Box::new(what)));
    }

    /// How many answers an application got.
    pub fn answers(&self, flow: FlowId) -> usize {
        self.answers_since(flow, *EPOCH)
    }

    /// How many answers an application got since then.
    pub fn answers_since(&self, flow: FlowId, from: Instant) -> usize {
        self.model.answers(flow, from, self.now)
    }

    /// How long after `from` an application got its first answer.
    pub fn first_answer(&self, flow: FlowId, from: Instant) -> Duration {
        self.model.first_answer(flow, from)
    }

    /// The longest time that an application has waited for an answer since then.
    pub fn longest_silence(&self, flow: FlowId, from: Instant) -> Duration {
        self.model.longest_silence(flow, from, self.now)
    }

    /// The ICMP errors that an application got about what it has sent since then.
    pub fn errors_since(&self, flow: FlowId, from: Instant) -> Vec<IcmpError> {
        self.model.errors(flow, from)
    }

    /// The hosts that an application has reached by what it has sent since then.
    pub fn hosts_since(&self, flow: FlowId, from: Instant) -> Vec<IpAddr> {
        self.model.hosts(flow, from)
    }

    /// Turns the internet resource of a client on or off.
    pub fn set_internet_active(&mut self, client: usize, active: bool) {
        let now = self.now;
        self.with_client(client, |host, out| host.set_internet_active(active, now, out));
    }

    /// Whether a client has a path to a gateway.
    pub fn is_connected(&self, client: usize, gateway: usize) -> bool {
        let host = self.clients[client].host.as_ref();
        host.is_some_and(|host| host.is_connected(gateway_id(gateway)))
    }

    /// How many WireGuard handshakes were begun so far, attempts counted.
    pub fn handshakes(&self) -> u64 {
        self.initiations
    }

    /// How often the timers of this machine went off since the last call.
    pub fn wakes(&mut self, node: Node) -> u64 {
        match node {
            Node::Client(number) => {
                let machine = &mut self.clients[number];
                let rings = machine.host.as_ref().map_or(0, |host| host.alarm.rings);
                rings.saturating_sub(std::mem::replace(&mut machine.rings_before, rings))
            }
            Node::Gateway(number) => {
                let machine = &mut self.gateways[number];
                let rings = machine.host.as_ref().map_or(0, |host| host.alarm.rings);
                rings.saturating_sub(std::mem::replace(&mut machine.rings_before, rings))
            }
            Node::Stun | Node::Relay(_) => 0,
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.next_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
            if !self.model.violations.is_empty() {
                self.fail();
            }
        }
        self.now = end;
        self.model.judge(self.now);
        if !self.model.violations.is_empty() {
            self.fail();
        }
    }

    /// Waits until the last probe is judged. A world that fails has panicked before.
    pub fn finish(mut self) -> Tally {
        for flow in &mut self.flows {
            flow.is_running = false;
        }
        self.run(Duration::from_secs(60));
        self.model.tally
    }

    fn fail(&mut self) {
        let violations = std::mem::take(&mut self.model.violations).join("\n");
        let (seed, after, trace) = (self.seed, self.elapsed(), &self.trace);
        panic!(
            "{trace}\nseed {seed} after {after:?}:\n{violations}\n\
             To replay it: CONNLIB_SIM_SEED={seed} cargo test -p connlib-sim"
        );
    }

    fn next_at(&self) -> Option<Instant> {
        let alarms = self.alarms().map(|(at, _)| at);
        alarms.chain(self.agenda.next_at()).chain(self.portal.next_timeout()).min()
    }

    fn alarms(&self) -> impl Iterator<Item = (Instant, Node)> {
        let clients = self.clients.iter().enumerate();
        let clients = clients.filter_map(|(number, machine)| {
            Some((machine.host.as_ref()?.alarm.at?, Node::Client(number)))
        });
        let gateways = self.gateways.iter().enumerate();
        let gateways = gateways.filter_map(|(number, machine)| {
            Some((machine.host.as_ref()?.alarm.at?, Node::Gateway(number)))
        });
        let relays = self.relays.iter().enumerate();
        let relays = relays
            .filter_map(|(number, relay)| Some((relay.as_ref()?.alarm.at?, Node::Relay(number))));
        clients.chain(gateways).chain(relays)
    }

    fn step(&mut self) {
        if let Some(happening) = self.agenda.pop_due(self.now) {
            self.happen(happening);
        } else if self.portal.next_timeout().is_some_and(|at| at <= self.now) {
            self.portal.handle_timeout(self.now);
            self.post();
        } else {
            let due = self.alarms().filter(|(at, _)| *at <= self.now).map(|(_, node)| node).next();
            if let Some(node) = due {
                self.trace.note(self.now, &[1, number_of(node)], || format!("{node:?} wakes"));
                let now = self.now;
                match node {
                    Node::Client(number) => self.with_client(number, |h, out| h.wake(now, out)),
                    Node::Gateway(number) => self.with_gateway(number, |h, out| h.wake(now, out)),
                    Node::Relay(number) => self.with_relay(number, |h, out| h.wake(now, out)),
                    Node::Stun => {}
                }
            }
        }
        for warning in logs::take_warnings() {
            self.model.violations.push(format!("logged: {warning}"));
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Backbone(datagram) => {
                let fate = self.internet.forward(datagram, now);
                self.follow(fate, Happening::Arrival);
            }
            Happening::Arrival(datagram) => self.arrive(&datagram),
            Happening::Stream(id) => self.pump_stream(id),
            Happening::Join(node, generation) => self.join(node, generation),
            Happening::Wire(node, generation) => self.pump(node, generation),
            Happening::Resolved(number, generation, id, name) => {
                if self.gateways[number].generation == generation {
                    let known = self.names.resolve(&name);
                    self.with_gateway(number, |host, out| {
                        host.handle_resolved(id, &name, Some(known), now, out);
                    });
                }
            }
            Happening::Answered(number, generation, query) => {
                if self.clients[number].generation == generation {
                    let is_up = self.clients[number].down_since.is_none();
                    let answer = self.names.answer(&query.message).filter(|_| is_up);
                    self.with_client(number, |h, out| h.handle_answer(&query, answer, now, out));
                }
            }
            Happening::Reply(number, generation, packet, cargo) => {
                if self.gateways[number].generation == generation {
                    self.with_gateway(number, |h, out| h.handle_tun(packet, cargo, now, out));
                }
            }
            Happening::Tick(flow) => self.tick(flow),
            Happening::Push(flow, period, until) => self.push(flow, period, until),
            Happening::Meddle(what) => what(self),
        }
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.agenda.add(at, happening);
    }

    fn with_client(&mut self, number: usize, f: impl FnOnce(&mut ClientHost, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        if let Some(host) = &mut self.clients[number].host {
            f(host, &mut effects);
        }
        self.apply(Node::Client(number), effects);
    }

    fn with_gateway(&mut self, number: usize, f: impl FnOnce(&mut GatewayHost, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        if let Some(host) = &mut self.gateways[number].host {
            f(host, &mut effects);
        }
        self.apply(Node::Gateway(number), effects);
    }

    fn with_relay(&mut self, number: usize, f: impl FnOnce(&mut RelayHost, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        if let Some(host) = &mut self.relays[number] {
            f(host, &mut effects);
        }
        self.apply(Node::Relay(number), effects);
    }

    fn is_down(&self, node: Node) -> bool {
        match node {
            Node::Client(number) => self.clients[number].down_since.is_some(),
            Node::Gateway(number) => self.gateways[number].down_since.is_some(),
            Node::Stun | Node::Relay(_) => false,
        }
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn number_of(node: Node) -> u64 {
    match node {
        Node::Client(number) => number as u64,
        Node::Gateway(number) => 1000 + number as u64,
        Node::Stun => 2000,
        Node::Relay(number) => 3000 + number as u64,
    }
}
