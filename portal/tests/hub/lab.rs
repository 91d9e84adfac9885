//! A portal with virtual time, and peers that are nothing but what they say and hear.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use connlib_portal::hub::{
    AlreadyConnected, ClientPeer, CloseReason, ConnectionId, Credential, GatewayPeer, Hub, Now,
    Output, Peer, RelayPeer,
};
use connlib_portal::policy::{self, Policy};
use connlib_portal::store::{SignIn, Store, TokenId};
use connlib_portal_api::{ClientId, GatewayId, PublicKey};
use serde_json::{Value, json};
use uuid::Uuid;

/// Two sites, three gateways, two clients. Ids are short, so that they can be told apart.
pub(crate) const POLICY: &str = r#"
account = "lab"
[[site]]
name = "hq"
[[site]]
name = "dc"
[[gateway]]
name = "gw-1"
site = "hq"
[[gateway]]
name = "gw-2"
site = "hq"
[[gateway]]
name = "gw-dc"
site = "dc"
[[client]]
name = "alice"
[[client]]
name = "bob"
[[resource]]
name = "net"
type = "cidr"
address = "10.88.0.0/24"
sites = ["hq"]
[[resource]]
name = "web"
type = "dns"
address = "web.example"
filters = ["tcp/443"]
sites = ["hq"]
[[resource]]
name = "vault"
type = "cidr"
address = "10.99.0.0/24"
sites = ["dc"]
[[policy]]
name = "alice reaches hq"
clients = ["alice"]
resources = ["net", "web"]
[[policy]]
name = "bob reaches the vault"
clients = ["bob"]
resources = ["vault"]
"#;

pub(crate) fn parse(text: &str) -> Policy {
    policy::parse(text).expect("a valid policy").0
}

pub(crate) fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

pub(crate) struct Lab {
    pub(crate) hub: Hub,
    pub(crate) now: Now,
    pub(crate) store: Store,
    /// Why connections were closed, in order.
    pub(crate) closed: Vec<(ConnectionId, CloseReason)>,
    pub(crate) pinged: Vec<ConnectionId>,
    /// When the hub wants to be called next.
    pub(crate) wake_at: Option<Instant>,
    inboxes: BTreeMap<ConnectionId, Vec<Value>>,
    last_ref: u64,
}

impl Lab {
    pub(crate) fn new(policy: &str) -> Self {
        let now = Now { instant: Instant::now(), unix: 1_000_000 };
        let hub = Hub::new(parse(policy), [7; 32], now);
        let mut lab = Self {
            hub,
            now,
            store: Store::in_memory().expect("a database"),
            closed: Vec::new(),
            pinged: Vec::new(),
            wake_at: None,
            inboxes: BTreeMap::new(),
            last_ref: 0,
        };
        lab.drain();
        lab
    }

    /// The portal's process ends and another one starts with the same database.
    pub(crate) fn restart_portal(&mut self) {
        let mut hub = Hub::new(self.hub.policy().clone(), [8; 32], self.now);
        let authorizations = self.store.authorizations().expect("authorizations");
        hub.restore(authorizations, self.store.relays().expect("relays"), self.now);
        self.hub = hub;
        self.drain();
    }

    pub(crate) fn set_policy(&mut self, text: &str) {
        self.hub.set_policy(parse(text), self.now);
        self.drain();
    }

    pub(crate) fn revoke(&mut self, token: &str) {
        let tokens = BTreeSet::from([TokenId(token.into())]);
        self.hub.revoke_tokens(&tokens, self.now);
        self.drain();
    }

    /// Lets time pass; peers send their heartbeats.
    pub(crate) fn wait(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        let start = self.now;
        while let Some(at) = self.wake_at.filter(|at| *at <= end) {
            assert!(at >= self.now.instant, "time runs backwards");
            let passed = at - start.instant;
            self.now = Now { instant: at, unix: start.unix + passed.as_secs() };
            for connection in self.inboxes.keys().copied().collect::<Vec<_>>() {
                self.hub.handle_alive(connection, self.now);
            }
            self.hub.handle_timeout(self.now);
            self.drain();
            assert!(
                self.wake_at.is_none_or(|next| next > at),
                "it wants to be woken at once again"
            );
        }
        self.now = Now { instant: end, unix: start.unix + duration.as_secs() };
    }

    /// Lets time pass in which nobody says anything.
    pub(crate) fn wait_in_silence(&mut self, duration: Duration) {
        self.now.instant += duration;
        self.now.unix += duration.as_secs();
        self.hub.handle_timeout(self.now);
        self.drain();
    }

    pub(crate) fn client_id(&self, name: &str) -> ClientId {
        let owner = self.hub.policy().client_by_name(name).expect("a client").id;
        ClientId(policy::device_id(owner, "device"))
    }

    pub(crate) fn gateway_id(&self, name: &str) -> GatewayId {
        self.hub.policy().gateway_by_name(name).expect("a gateway").id
    }

    pub(crate) fn resource_id(&self, name: &str) -> String {
        let resources = self.hub.policy().resources.values();
        let mut named = resources.filter(|resource| resource.name == name);
        named.next().expect("a resource").id.to_string()
    }

    fn device(&mut self, id: Uuid, owner: Uuid) -> connlib_portal::store::Device {
        let sign_in =
            SignIn { id, owner, external_id: "device", name: "name", max_devices: 8, online: &[] };
        self.store.sign_in(&sign_in, self.now.unix).expect("a device").device
    }

    pub(crate) fn connect_client(&mut self, name: &str, key: PublicKey) -> ConnectionId {
        self.connect_client_until(name, key, None)
    }

    /// A client of that name whose token, called "NAME-token", has an end.
    pub(crate) fn connect_client_until(
        &mut self,
        name: &str,
        key: PublicKey,
        expires_at: Option<u64>,
    ) -> ConnectionId {
        let id = self.client_id(name);
        let owner = self.hub.policy().client_by_name(name).expect("a client").id;
        let device = self.device(id.0, owner);
        let (addresses, psk_base) = (device.addresses, device.psk_base);
        let peer = Peer::Client(ClientPeer { id, owner, key, addresses, psk_base });
        self.connect(peer, &format!("{name}-token"), expires_at).expect("a connection")
    }

    pub(crate) fn connect_gateway(&mut self, name: &str, key: PublicKey) -> ConnectionId {
        self.try_connect_gateway(name, key).expect("a connection")
    }

    pub(crate) fn try_connect_gateway(
        &mut self,
        name: &str,
        key: PublicKey,
    ) -> Result<ConnectionId, AlreadyConnected> {
        let id = self.gateway_id(name);
        let device = self.device(id.0, id.0);
        let (addresses, psk_base) = (device.addresses, device.psk_base);
        let peer = Peer::Gateway(GatewayPeer { id, key, addresses, psk_base });
        self.connect(peer, &format!("{name}-token"), None)
    }

    pub(crate) fn connect_relay(&mut self, last_octet: u8) -> ConnectionId {
        let ipv4 = Some([203, 0, 113, last_octet].into());
        let peer = Peer::Relay(RelayPeer { ipv4, ipv6: None, port: 3478 });
        self.connect(peer, "relay-token", None).expect("a connection")
    }

    fn connect(
        &mut self,
        peer: Peer,
        token: &str,
        expires_at: Option<u64>,
    ) -> Result<ConnectionId, AlreadyConnected> {
        let credential = Credential { token: TokenId(token.into()), expires_at };
        let connected = self.hub.connect(peer, credential, self.now);
        if let Ok(id) = connected {
            self.inboxes.insert(id, Vec::new());
        }
        self.drain();
        connected
    }

    /// Connects and joins. Gives the connection and its `init`.
    pub(crate) fn client(&mut self, name: &str, key: PublicKey) -> (ConnectionId, Value) {
        let id = self.connect_client(name, key);
        (id, self.join(id, "client", Value::Null))
    }

    pub(crate) fn gateway(&mut self, name: &str, key: PublicKey) -> (ConnectionId, Value) {
        let id = self.connect_gateway(name, key);
        (id, self.join(id, "gateway", Value::Null))
    }

    pub(crate) fn relay(&mut self, last_octet: u8, stamp_secret: &str) -> ConnectionId {
        let id = self.connect_relay(last_octet);
        self.join(id, "relay", json!({ "stamp_secret": stamp_secret }));
        id
    }

    pub(crate) fn join(&mut self, id: ConnectionId, topic: &str, payload: Value) -> Value {
        self.say(id, topic, "phx_join", payload);
        let frames = self.inboxes.get_mut(&id).expect("an inbox");
        let rest = frames.split_off(2);
        let first = std::mem::replace(frames, rest);
        assert_eq!(first[0]["event"], "phx_reply");
        assert_eq!(first[0]["ref"], self.last_ref);
        assert_eq!(first[0]["payload"]["status"], "ok");
        assert_eq!(first[1]["event"], "init");
        assert_eq!(first[1]["ref"], Value::Null);
        assert_eq!(first[1]["topic"], topic);
        first[1]["payload"].clone()
    }

    pub(crate) fn say(&mut self, id: ConnectionId, topic: &str, event: &str, payload: Value) {
        self.last_ref += 1;
        let frame =
            json!({ "topic": topic, "event": event, "payload": payload, "ref": self.last_ref });
        self.hub.handle_text(id, &frame.to_string(), self.now);
        self.drain();
    }

    /// A client asks for a resource.
    pub(crate) fn request(&mut self, id: ConnectionId, resource: &str) {
        let request =
            json!({ "resource_id": self.resource_id(resource), "connected_gateway_ids": [] });
        self.say(id, "client", "request_authorization", request);
    }

    /// A gateway confirms the authorization that it hears next.
    pub(crate) fn confirm(&mut self, id: ConnectionId) -> Value {
        let create = self.hear(id, "create_authorization");
        self.say(id, "gateway", "authorization_created", json!({ "ref": create["ref"] }));
        create
    }

    /// A client and a gateway get as far as they can.
    pub(crate) fn authorize(
        &mut self,
        client: ConnectionId,
        gateway: ConnectionId,
        resource: &str,
    ) {
        self.request(client, resource);
        self.confirm(gateway);
        self.hear(client, "authorization_created");
    }

    pub(crate) fn disconnect(&mut self, id: ConnectionId) {
        self.inboxes.remove(&id);
        self.hub.handle_disconnect(id, self.now);
        self.drain();
    }

    /// The next message that a peer hears must be of this event. Gives its payload.
    #[track_caller]
    pub(crate) fn hear(&mut self, id: ConnectionId, event: &str) -> Value {
        let frames = self.inboxes.get_mut(&id).expect("an inbox");
        assert!(!frames.is_empty(), "expected {event}, heard nothing");
        let frame = frames.remove(0);
        assert_eq!(frame["event"], event, "{frame}");
        frame["payload"].clone()
    }

    #[track_caller]
    pub(crate) fn hear_nothing(&self, id: ConnectionId) {
        assert_eq!(self.inboxes[&id], Vec::<Value>::new());
    }

    /// How many messages wait to be heard.
    pub(crate) fn unheard(&self, id: ConnectionId) -> usize {
        self.inboxes[&id].len()
    }

    fn drain(&mut self) {
        loop {
            match self.hub.poll_output() {
                Output::Send { to, text } => {
                    let frame = serde_json::from_str(&text).expect("JSON");
                    self.inboxes.entry(to).or_default().push(frame);
                }
                Output::Ping(id) => self.pinged.push(id),
                Output::Close { connection, reason } => {
                    self.closed.push((connection, reason));
                }
                Output::Persist(change) => {
                    self.store.apply(&change, self.now.unix).expect("a change");
                }
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return;
                }
            }
        }
    }
}
