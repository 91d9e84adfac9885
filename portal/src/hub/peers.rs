//! Who is connected.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use connlib_portal_api::credentials::GATEWAY_TURN_EXPIRY;
use connlib_portal_api::messages::common::{Relay, UnixTime};
use connlib_portal_api::messages::{Role as _, client, gateway, relay};
use connlib_portal_api::{ClientId, GatewayId, PublicKey, RelayId, ResourceId};
use uuid::Uuid;

use crate::store::{Addresses, PskBase, TokenId};

/// How long a peer may take to join after its connection stands (spec 1.2).
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may be silent: more than three heartbeats, distinct so that they don't come together (spec 1.3).
const IDLE_TIMEOUT: Duration = Duration::from_secs(37);
const RELAY_IDLE_TIMEOUT: Duration = Duration::from_secs(41);
/// How long a gateway may take to show that it lives when a second one claims to be it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections are not looked through more often than this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Names a connection for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A second connection claims to be a gateway that is connected. The first one is being asked
/// whether it lives; trying again in two seconds tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this gateway is connected already")]
pub struct AlreadyConnected;

/// Who connects.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A client's device.
    Client(ClientPeer),
    /// A gateway.
    Gateway(GatewayPeer),
    /// A relay.
    Relay(RelayPeer),
}

/// A client's device.
#[derive(Debug, Clone)]
pub struct ClientPeer {
    /// The device.
    pub id: ClientId,
    /// The client of the policy that it belongs to.
    pub owner: Uuid,
    /// Its key of this process.
    pub key: PublicKey,
    /// Its addresses in the tunnel.
    pub addresses: Addresses,
    /// What its preshared keys are made from.
    pub psk_base: PskBase,
}

/// A gateway.
#[derive(Debug, Clone)]
pub struct GatewayPeer {
    /// The gateway.
    pub id: GatewayId,
    /// Its key of this process.
    pub key: PublicKey,
    /// Its addresses in the tunnel.
    pub addresses: Addresses,
    /// What its preshared keys are made from.
    pub psk_base: PskBase,
}

/// A relay. It says who it is when it joins.
#[derive(Debug, Clone)]
pub struct RelayPeer {
    /// Its public IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its public IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its port.
    pub port: u16,
}

/// The token that a peer signed in with.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Which one.
    pub token: TokenId,
    /// When it ends, in unix seconds.
    pub expires_at: Option<u64>,
}

/// A connection and what its peer has been told.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) credential: Credential,
    pub(super) joined: bool,
    /// What a relay turned out to be when it joined.
    pub(super) relay_id: Option<RelayId>,
    /// Relays that the peer knows, with the credentials it was given.
    pub(super) relays: BTreeMap<RelayId, Vec<Relay>>,
    /// Resources that a client knows.
    pub(super) resources: BTreeMap<ResourceId, client::Resource>,
    /// Whether something that we did not understand was logged before.
    pub(super) complained: bool,
    connected_at: Instant,
    last_heard: Instant,
    probe_until: Option<Instant>,
}

impl Connection {
    pub(super) fn topic(&self) -> &'static str {
        match self.peer {
            Peer::Client(_) => client::ClientRole::TOPIC,
            Peer::Gateway(_) => gateway::GatewayRole::TOPIC,
            Peer::Relay(_) => relay::RelayRole::TOPIC,
        }
    }

    /// The id by which relays are chosen, the key by which their credentials are made, and when
    /// these end: never while the peer's session lasts.
    pub(super) fn relay_user(&self) -> Option<(Uuid, PublicKey, UnixTime)> {
        let never = GATEWAY_TURN_EXPIRY;
        match &self.peer {
            Peer::Client(peer) => {
                let end = self.credential.expires_at.map_or(never, |at| UnixTime(at.min(never.0)));
                Some((peer.id.0, peer.key, end))
            }
            Peer::Gateway(peer) => Some((peer.id.0, peer.key, never)),
            Peer::Relay(_) => None,
        }
    }

    fn deadline(&self) -> Instant {
        let idle = match self.peer {
            Peer::Relay(_) => RELAY_IDLE_TIMEOUT,
            _ => IDLE_TIMEOUT,
        };
        let join = (!self.joined).then(|| self.connected_at + JOIN_TIMEOUT);
        let deadline = join.unwrap_or(self.last_heard + idle);
        self.probe_until.map_or(deadline, |probe| probe.min(deadline))
    }
}

/// All connections; at most one of each device.
#[derive(Debug, Default)]
pub(super) struct Peers {
    connections: BTreeMap<ConnectionId, Connection>,
    clients: HashMap<ClientId, ConnectionId>,
    gateways: HashMap<GatewayId, ConnectionId>,
    last_id: u64,
    sweep_at: Option<Instant>,
}

impl Peers {
    /// Adds a connection, and removes the one that it replaces.
    pub(super) fn insert(
        &mut self,
        peer: Peer,
        credential: Credential,
        now: Instant,
    ) -> (ConnectionId, Option<ConnectionId>) {
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        let replaced = match &peer {
            Peer::Client(peer) => self.clients.insert(peer.id, id),
            Peer::Gateway(peer) => self.gateways.insert(peer.id, id),
            Peer::Relay(_) => None,
        };
        if let Some(replaced) = replaced {
            self.connections.remove(&replaced);
        }
        let connection = Connection {
            peer,
            credential,
            joined: false,
            relay_id: None,
            relays: BTreeMap::new(),
            resources: BTreeMap::new(),
            complained: false,
            connected_at: now,
            last_heard: now,
            probe_until: None,
        };
        self.sweep_by(connection.deadline());
        self.connections.insert(id, connection);
        (id, replaced)
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        match &connection.peer {
            Peer::Client(peer) => {
                self.clients.remove(&peer.id);
            }
            Peer::Gateway(peer) => {
                self.gateways.remove(&peer.id);
            }
            Peer::Relay(_) => {}
        }
        Some(connection)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.connections.iter().map(|(id, connection)| (*id, connection))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnectionId, &mut Connection)> {
        self.connections.iter_mut().map(|(id, connection)| (*id, connection))
    }

    pub(super) fn ids(&self, which: impl Fn(&Connection) -> bool) -> Vec<ConnectionId> {
        self.iter().filter(|(_, connection)| which(connection)).map(|(id, _)| id).collect()
    }

    /// A client that has joined.
    pub(super) fn client(&self, id: ClientId) -> Option<(ConnectionId, &ClientPeer)> {
        let connection = *self.clients.get(&id)?;
        match self.connections.get(&connection)? {
            Connection { joined: true, peer: Peer::Client(peer), .. } => Some((connection, peer)),
            _ => None,
        }
    }

    /// A gateway that has joined.
    pub(super) fn gateway(&self, id: GatewayId) -> Option<(ConnectionId, &GatewayPeer)> {
        let connection = *self.gateways.get(&id)?;
        match self.connections.get(&connection)? {
            Connection { joined: true, peer: Peer::Gateway(peer), .. } => Some((connection, peer)),
            _ => None,
        }
    }

    /// The connection of a gateway, joined or not, and the key that it announced.
    pub(super) fn gateway_connection(&self, id: GatewayId) -> Option<(ConnectionId, PublicKey)> {
        let connection = *self.gateways.get(&id)?;
        match &self.connections.get(&connection)?.peer {
            Peer::Gateway(peer) => Some((connection, peer.key)),
            _ => None,
        }
    }

    /// Something came from the peer.
    pub(super) fn heard(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.last_heard = now;
            connection.probe_until = None;
        }
    }

    /// Gives a connection a moment to show that it lives; false if that is under way.
    pub(super) fn probe(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if connection.probe_until.is_some() {
            return false;
        }
        let until = now + PROBE_TIMEOUT;
        connection.probe_until = Some(until);
        self.sweep_by(until);
        true
    }

    /// The connections whose time is over.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<ConnectionId> {
        if self.sweep_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let overdue = self.ids(|connection| connection.deadline() <= now);
        self.sweep_at = self
            .connections
            .values()
            .map(Connection::deadline)
            .filter(|deadline| *deadline > now)
            .min()
            .map(|deadline| deadline.max(now + SWEEP_INTERVAL));
        overdue
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.sweep_at
    }

    fn sweep_by(&mut self, deadline: Instant) {
        self.sweep_at = Some(self.sweep_at.map_or(deadline, |at| at.min(deadline)));
    }
}
