//! What goes wrong in the world, and how soon all must be well again.

use std::ops::Range;
use std::time::Duration;

use connlib_tunnel::{Filter, ResourceId};

use super::apps::DISBELIEF;
use super::{BREAKS_CONNECTIONS, Happening, Machine, PORTAL_LATENCY, World, ms};
use crate::hosts::{ClientHost, GatewayHost, RelayHost};
use crate::internet::{Access, Line, Mapping, Node, SERVER_LATENCY};
use crate::portal::ResourceSpec;

/// What a line that loses up to a tenth of its datagrams, each way, adds to anything.
pub(super) const LOSSES: Duration = Duration::from_secs(25);

/// Longest silence after each of these, beyond its own length and on a network without delays.
pub mod bounds {
    use std::time::Duration;

    /// The client has another address.
    pub const ROAMED: Duration = Duration::from_millis(1000);
    /// A line is there again.
    pub const PLUGGED_IN: Duration = Duration::from_millis(200);
    /// A gateway that had said goodbye is there again.
    pub const RESTARTED: Duration = Duration::from_millis(500);
    /// A gateway that had crashed is there again.
    pub const CRASHED: Duration = Duration::from_millis(2000);
    /// A line was away for so long that links were given up.
    pub const RELINKED: Duration = Duration::from_millis(3000);
    /// A gateway has crashed, and what a client had through it ended before it was back: nobody tells the client, which
    /// asks about who is silent every five seconds.
    pub const UNTOLD: Duration = Duration::from_secs(16);
    /// A path is lost without anybody's being told.
    pub const FORGOTTEN: Duration = Duration::from_secs(40);
    /// A relay that is in use does not answer any more, or knows nothing: another one takes over.
    pub const RELAY_LOST: Duration = Duration::from_millis(3000);
    /// A gateway's network lets no datagrams through any more: it finds out when it asks for its addresses.
    pub const GATEWAY_WALLED: Duration = Duration::from_secs(40);
    /// A client's network lets no datagrams through any more: relays are reached by streams.
    pub const WALLED: Duration = Duration::from_millis(6000);
    /// Datagrams get through again, and there was no other way: servers that tell us our addresses are asked once a
    /// minute.
    pub const UNWALLED: Duration = Duration::from_secs(65);
    /// Something in the policy is another thing now.
    pub const POLICY: Duration = Duration::from_millis(1000);
}

impl World {
    /// A client gets other addresses, after `gap` without any.
    pub fn roam(&mut self, client: usize, access: Access, gap: Duration) {
        let node = Node::Client(client);
        // Behind its router, a gateway first has to hear of the new address by the portal.
        let signalling = if self.is_gateway_hidden() { bounds::RELINKED } else { Duration::ZERO };
        self.break_client(client, gap + bounds::ROAMED + signalling);
        self.internet.detach(node);
        self.sever_streams(node);
        self.disconnect(node);
        self.clients[client].access = access;
        let now = self.now;
        if gap > Duration::ZERO {
            self.with_client(client, |host, out| host.set_addresses(&[], now, out));
        }
        self.later(gap, move |world| world.attach_client(client));
    }

    fn attach_client(&mut self, client: usize) {
        let (node, now) = (Node::Client(client), self.now);
        self.internet.attach(node, self.clients[client].access);
        self.clients[client].down_since = None;
        self.model.set_patience(client, self.patience(client));
        let hosts = self.internet.addresses(node);
        self.with_client(client, |host, out| host.set_addresses(&hosts, now, out));
        self.connect(node);
    }

    /// A host's cable is pulled for a while; addresses stay.
    pub fn unplug(&mut self, node: Node, gap: Duration) {
        let bound = match gap {
            // Longer than this, and ICE has given up its checks.
            gap if gap > Duration::from_secs(8) => bounds::RELINKED,
            _ => bounds::PLUGGED_IN,
        };
        self.break_node(node, gap + bound);
        self.forget_lessons();
        let now = self.now;
        match node {
            Node::Client(number) => self.clients[number].down_since = Some(now),
            Node::Gateway(number) => self.gateways[number].down_since = Some(now),
            Node::Stun | Node::Relay(_) => {}
        }
        self.internet.set_up(node, false);
        if gap > BREAKS_CONNECTIONS {
            self.later(BREAKS_CONNECTIONS, move |world| world.disconnect(node));
        }
        self.later(gap, move |world| {
            match node {
                Node::Client(number) => world.clients[number].down_since = None,
                Node::Gateway(number) => world.gateways[number].down_since = None,
                Node::Stun | Node::Relay(_) => {}
            }
            world.internet.set_up(node, true);
            if gap > BREAKS_CONNECTIONS {
                world.connect(node);
            }
        });
    }

    /// The routers in front of a host restart and have forgotten all mappings.
    pub fn restart_routers(&mut self, node: Node) {
        // Two hidden ends only find out when they ask for their addresses, or when their checks fail.
        let bound = if self.is_gateway_hidden() { bounds::FORGOTTEN } else { bounds::ROAMED };
        self.break_node(node, bound);
        self.internet.restart_routers(node);
        self.forget_streams(node);
    }

    /// The network in front of a host lets no datagrams through for a while.
    pub fn wall(&mut self, node: Node, gap: Duration) {
        let over = match gap {
            gap if gap > Duration::from_secs(8) => gap + bounds::UNWALLED,
            _ => gap + bounds::PLUGGED_IN,
        };
        let bound = match node {
            _ if self.relays.is_empty() => over,
            Node::Client(_) => bounds::WALLED,
            _ => over.min(bounds::GATEWAY_WALLED),
        };
        let until = self.now + gap;
        self.trace.note(self.now, &[19], || format!("{node:?} is walled for {gap:?}"));
        for client in self.clients_of(node) {
            let before = self.model.unsettled_for(client, self.now);
            self.break_client(client, bound);
            if before > Duration::ZERO {
                // What goes wrong already takes its time by streams, and what a gateway says for the last time is not heard.
                self.break_client(client, bounds::FORGOTTEN.max(2 * before + bound));
            }
        }
        self.internet.wall(node, until);
    }

    /// Whether datagrams can't get out to anybody at one end of a client's links.
    fn is_walled(&self, client: usize) -> bool {
        let gateways = (0..self.gateways.len()).map(Node::Gateway);
        let mut ends = gateways.chain([Node::Client(client)]);
        ends.any(|node| self.internet.walled_until(node).is_some_and(|until| self.now < until))
    }

    /// Whether a gateway can't be reached unless it sends something first.
    fn is_gateway_hidden(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway.access.ipv4 != Some(None))
    }

    /// A line gets better or worse.
    pub fn set_line(&mut self, node: Node, line: Line) {
        self.internet.set_line(node, line);
        match node {
            Node::Client(number) => self.clients[number].access.line = line,
            Node::Gateway(number) => self.gateways[number].access.line = line,
            Node::Stun | Node::Relay(_) => {}
        }
        for client in 0..self.clients.len() {
            self.model.set_patience(client, self.patience(client));
        }
    }

    /// A gateway stops, saying goodbye or not, and starts again after a pause.
    pub fn restart_gateway(&mut self, number: usize, says_goodbye: bool, pause: Duration) {
        let bound = if says_goodbye { bounds::RESTARTED } else { bounds::CRASHED };
        self.break_node(Node::Gateway(number), pause + bound);
        self.stop_gateway(number, says_goodbye);
        self.later(pause, move |world| world.boot_gateway(number));
    }

    /// A gateway stops for good.
    pub fn stop_gateway(&mut self, number: usize, says_goodbye: bool) {
        let now = self.now;
        if says_goodbye {
            self.with_gateway(number, |host, out| host.shut_down(now, out));
        }
        self.gateways[number].halt();
        self.leave_streams(Node::Gateway(number));
        self.disconnect(Node::Gateway(number));
    }

    pub(super) fn boot_gateway(&mut self, number: usize) {
        let (node, now) = (Node::Gateway(number), self.now);
        if self.gateways[number].host.is_some() {
            return;
        }
        let seed = self.random.seed32();
        self.gateways[number].host = Some(GatewayHost::new(number, seed, now));
        let hosts = self.internet.addresses(node);
        self.with_gateway(number, |host, out| host.set_addresses(&hosts, now, out));
        if let Some(wire) = self.wires.get_mut(&node) {
            wire.forget_held();
        }
        self.connect(node);
    }

    /// A client stops, saying goodbye or not, and starts again after a pause.
    pub fn restart_client(&mut self, number: usize, says_goodbye: bool, pause: Duration) {
        let now = self.now;
        self.break_client(number, pause + bounds::RELINKED);
        if says_goodbye {
            self.with_client(number, |host, out| host.shut_down(now, out));
        }
        self.clients[number].halt();
        self.leave_streams(Node::Client(number));
        self.disconnect(Node::Client(number));
        self.later(pause, move |world| world.boot_client(number));
    }

    pub(super) fn boot_client(&mut self, number: usize) {
        let (node, now) = (Node::Client(number), self.now);
        if self.clients[number].host.is_some() {
            return;
        }
        let seed = self.random.seed32();
        self.clients[number].host = Some(ClientHost::new(number, seed, now));
        let hosts = self.internet.addresses(node);
        self.with_client(number, |host, out| host.set_addresses(&hosts, now, out));
        if let Some(wire) = self.wires.get_mut(&node) {
            wire.forget_held();
        }
        for flow in self.flows.iter_mut().filter(|flow| flow.spec.client == number) {
            flow.restart();
        }
        self.connect(node);
    }

    pub(super) fn start_relay(&mut self, number: usize) {
        let (seed, now) = (self.random.seed32(), self.now);
        self.relays[number] = Some(RelayHost::new(number, seed, now));
        self.announce_relays();
    }

    fn announce_relays(&mut self) {
        let running = self.relays.iter().enumerate().filter(|(_, relay)| relay.is_some());
        self.portal.set_relays(running.map(|(number, _)| number).collect());
        self.post();
    }

    /// A relay stops, knowing nothing any more when it starts again after a pause. For as long as `is_noticed` is not
    /// true, the portal goes on naming it.
    pub fn restart_relay(&mut self, number: usize, is_noticed: bool, pause: Duration) {
        for client in 0..self.clients.len() {
            let bound = if self.needs_relay() { bounds::RELAY_LOST } else { bounds::PLUGGED_IN };
            self.break_client(client, pause + bound);
        }
        self.relays[number] = None;
        self.break_streams(number);
        if is_noticed {
            self.announce_relays();
        }
        self.later(pause, move |world| world.start_relay(number));
    }

    /// Peers get other credentials for the relays, which changes nothing for anybody. Not while somebody is not connected:
    /// it would not hear that the addresses at relays are others now, and find out when the old ones are given up.
    pub fn renew_credentials(&mut self) {
        if self.complete_since.is_none() {
            return;
        }
        self.portal.renew_credentials();
        self.post();
    }

    /// Whether there may be a client that reaches its gateways by a relay alone.
    fn needs_relay(&self) -> bool {
        let is_symmetric = |access: &Access| access.ipv4 == Some(Some(Mapping::Symmetric));
        self.clients.iter().any(|client| is_symmetric(&client.access)) && self.is_gateway_hidden()
            || self.gateways.iter().any(|gateway| is_symmetric(&gateway.access))
    }

    /// The portal is away for a while.
    pub fn stop_portal(&mut self, gap: Duration) {
        self.portal_is_up = false;
        let nodes: Vec<Node> = self.wires.keys().copied().collect();
        for node in nodes {
            self.disconnect(node);
        }
        self.later(gap, |world| {
            world.portal_is_up = true;
            let nodes: Vec<Node> = world.wires.keys().copied().collect();
            for node in nodes {
                world.connect(node);
            }
        });
    }

    /// One peer loses its connection to the portal, and gets a new one after a while.
    pub fn cut_off(&mut self, node: Node, gap: Duration) {
        self.disconnect(node);
        self.later(gap, move |world| world.connect(node));
    }

    /// There is no path between a client and its gateways: what it sends may get lost, or be refused.
    pub fn expect_no_path(&mut self, client: usize) {
        self.break_client(client, Duration::from_secs(1 << 30));
    }

    /// A client may not use a resource any more.
    pub fn revoke(&mut self, client: usize, resource: u128) {
        let resource = ResourceId::from_u128(resource);
        self.change_policy(client);
        if self.complete_since.is_none() {
            self.authorization_expires(client, resource);
        }
        self.portal.revoke(client, resource);
        self.post();
    }

    /// A client may use a resource, for so long at a time.
    pub fn grant(&mut self, client: usize, resource: u128, lasts: Option<Duration>) {
        self.change_policy(client);
        self.portal.grant(client, ResourceId::from_u128(resource), lasts);
        self.post();
    }

    /// An authorization ends; the client has to find out, and may ask for it again.
    pub fn end_authorization(&mut self, client: usize, resource: u128) {
        let resource = ResourceId::from_u128(resource);
        self.change_policy(client);
        self.authorization_expires(client, resource);
        self.portal.end_authorization(client, resource);
        self.post();
    }

    /// An authorization ends because its time is over.
    pub(super) fn authorization_expires(&mut self, client: usize, resource: ResourceId) {
        self.unaware.insert((client, resource));
        self.authorization_is_over(client);
        if self.gateways.iter().any(|machine| machine.host.is_none()) {
            self.break_client(client, bounds::UNTOLD);
        }
    }

    fn change_policy(&mut self, client: usize) {
        self.break_client(client, bounds::POLICY);
        if self.complete_since.is_none() {
            self.to_be_told.insert(client);
        }
    }

    /// Somebody learns what has changed in the policy.
    pub(super) fn tell(&mut self) {
        for client in self.to_be_told.clone() {
            self.break_client(client, bounds::POLICY);
        }
        if self.complete_since.is_some() {
            self.to_be_told.clear();
        }
    }

    /// A client does not know yet that an authorization is over.
    pub(super) fn authorization_is_over(&mut self, client: usize) {
        self.break_client(client, bounds::POLICY + DISBELIEF);
        if self.is_walled(client) {
            // What the gateway says as it forgets the client may meet the wall.
            self.break_client(client, bounds::FORGOTTEN);
        }
    }

    /// A resource lets other things through.
    pub fn set_filters(&mut self, resource: u128, filters: &[Filter]) {
        for client in 0..self.clients.len() {
            self.change_policy(client);
        }
        let id = ResourceId::from_u128(resource);
        let spec = self.portal.policy.resources.get(&id).cloned();
        if let Some(spec) = spec {
            self.portal.set_filters(ResourceSpec { filters: filters.to_vec(), ..spec });
        }
        self.post();
    }

    /// From now on nothing that is sent has to arrive for so long, besides what the network's delays add.
    pub(super) fn break_client(&mut self, client: usize, for_so_long: Duration) {
        // By streams, what fails is tried again after as long as it has failed for.
        let by_streams =
            if self.is_walled(client) { for_so_long + bounds::WALLED } else { Duration::ZERO };
        let until = self.now + for_so_long + by_streams + self.slack(client);
        self.model.unsettle(client, self.now, until);
        self.trace.note(self.now, &[13, client as u64], || {
            format!("trouble for client {client} for {for_so_long:?}")
        });
    }

    fn break_node(&mut self, node: Node, for_so_long: Duration) {
        self.clients_of(node).for_each(|client| self.break_client(client, for_so_long));
    }

    fn clients_of(&self, node: Node) -> Range<usize> {
        match node {
            Node::Client(client) => client..client + 1,
            // Any client may use any gateway.
            _ => 0..self.clients.len(),
        }
    }

    /// A peer is connected to the portal again: what waited for that begins now.
    pub(super) fn prolong(&mut self, node: Node) {
        for client in self.clients_of(node) {
            let until = self.now + bounds::RELINKED + self.slack(client);
            self.model.prolong(client, self.now, until);
        }
    }

    /// What the network's delays and losses add to any bound.
    fn slack(&self, client: usize) -> Duration {
        let losses = if self.is_clean(client) { Duration::ZERO } else { LOSSES };
        12 * self.round_trip(client) + 10 * PORTAL_LATENCY + losses
    }

    /// Whether nothing is lost between a client and its gateways.
    pub(super) fn is_clean(&self, client: usize) -> bool {
        let gateways = self.gateways.iter().map(|machine| machine.access.line);
        gateways.chain([self.clients[client].access.line]).all(|line| line.is_clean())
    }

    /// How long a packet may take there and back, the path included that has to be found first.
    pub(super) fn patience(&self, client: usize) -> Duration {
        Duration::from_secs(2) + self.slack(client)
    }

    fn round_trip(&self, client: usize) -> Duration {
        let client = Node::Client(client);
        let gateways = 0..self.gateways.len();
        let round_trips = gateways.map(|g| self.internet.round_trip(client, Node::Gateway(g)));
        // By two relays, perhaps, each of them passed both ways.
        let relayed = if self.relays.is_empty() { Duration::ZERO } else { 8 * SERVER_LATENCY };
        round_trips.max().unwrap_or_default() + relayed
    }

    fn disconnect(&mut self, node: Node) {
        let now = self.now;
        if let Some(wire) = self.wires.get_mut(&node)
            && wire.is_connected
        {
            self.trace.note(now, &[14], || format!("{node:?} has lost the portal"));
            wire.disconnect();
            self.complete_since = None;
            self.forget_lessons();
            self.portal.leave(node, now);
            if let Node::Client(number) = node {
                self.with_client(number, |host, out| host.handle_portal_lost(now, out));
            }
            self.post();
        }
    }

    /// Who was about to hear that it has to ask again, or to do so, could not.
    fn forget_lessons(&mut self) {
        let failed = std::mem::take(&mut self.learning).into_iter();
        let failed = failed.filter(|(at, ..)| self.now < *at + Duration::from_secs(5));
        self.unaware.extend(failed.map(|(_, client, resource)| (client, resource)));
    }

    fn connect(&mut self, node: Node) {
        let Some(wire) = self.wires.get(&node) else { return };
        if !wire.is_connected {
            let generation = wire.generation;
            let takes = 4 * PORTAL_LATENCY + self.random.duration(ms(10), ms(100));
            self.schedule(self.now + takes, Happening::Join(node, generation));
        }
    }
}

impl<H> Machine<H> {
    pub(super) fn new(access: Access) -> Self {
        Self { host: None, access, generation: 0, down_since: None, rings_before: 0 }
    }

    /// The program is gone; what it waits for comes to nobody.
    fn halt(&mut self) {
        self.host = None;
        self.generation += 1;
    }
}
