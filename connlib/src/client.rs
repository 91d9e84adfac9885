//! A client's session.

mod host;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use connlib_link::{SendQueue, StreamServer};
use connlib_net::dns_control::{DnsControl, Method};
use connlib_net::events::{Event as SystemEvent, Events};
use connlib_net::netlink::SOCKET_MARK;
use connlib_net::retry::Retry;
use connlib_net::timer::Timer;
use connlib_net::tun::{LinkSettings, Offloads, Tun};
use connlib_net::udp;
use connlib_packet::{PacketBatch, TunPacket};
use connlib_portal_api::client::{Event as PortalEvent, Network, PortalClient};
use connlib_portal_api::messages::client::{
    AuthorizationCreated, ClientRole, FromPortal, GatewayIceCandidates, Init, RequestAuthorization,
    ToPortal,
};
use connlib_portal_api::messages::common::Capabilities;
use connlib_portal_api::{GatewayId, ResourceId};
use connlib_tunnel::client::{ClientConfig, ClientEvent, ClientTunnel, Gateway};
use connlib_tunnel::{LinkKeys, Output};
use tokio::net::TcpSocket;

use self::host::Host;
use crate::bootstrap::SystemResolvers;
use crate::command::{Command, Commands, Counters, SessionError, seed};
use crate::convert;
use crate::dns::{Answer, Carrier};
use crate::doh::Https;
use crate::gateway::{datagrams, host_addresses, shown};
use crate::io::{Connector, Io, PacketTunnel};
use crate::logged::{Chain, Logged};
use crate::portal::{PortalSettings, socket_options};
use crate::relays::PortalRelays;
use crate::signals::{Signal, Signals};

pub use connlib_net::dns_control::{Method as DnsMethod, UnknownMethod};
pub use connlib_tunnel::client::{FailureReason, ResourceState, ResourceStatus};

/// What portals know headless clients of this protocol by.
const COMPONENT: &str = "headless-client";

/// The version of the existing system's client whose behaviour this one has: portals look at it.
const PROTOCOL_VERSION: &str = "1.5.12";

/// Settings of a client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The portal.
    pub portal: PortalSettings,
    /// Name of the TUN device.
    pub tun: String,
    /// How the system's DNS settings are changed.
    pub dns: Method,
    /// Whether the internet resource is wanted.
    pub internet_resource_active: bool,
}

/// Something that whoever started the session may want to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The portal has let us in, for the first time or again.
    SignedIn,
    /// The interface is set up: resources can be reached.
    Ready,
    /// The resources and how they are.
    Resources(Vec<ResourceState>),
    /// The portal is away. What is connected goes on.
    PortalLost,
    /// It is over. This was counted.
    Ended(Counters),
}

/// Runs a client until it is stopped or cannot go on. `report` is called for what happens.
///
/// Everything that was changed on the machine is taken back at the end: routes, rules, DNS.
///
/// # Errors
///
/// See [`SessionError`]. A portal that is away is no error unless the budget in the settings is spent.
pub async fn run(
    settings: Settings,
    mut commands: Commands,
    mut report: impl FnMut(Event),
) -> Result<(), SessionError> {
    let mut session = Session::start(&settings)?;
    let result = session.run(&mut commands, &mut report).await;
    session.shut_down(&mut report).await;
    report(Event::Ended(Counters { tunnel: session.tunnel.stats(), io: session.io.stats() }));
    session.restore().await;
    result
}

struct Session {
    /// Goes first: it is taken back while the TUN device is still there.
    host: Host,
    tunnel: ClientTunnel,
    io: Io,
    portal: PortalClient<ClientRole>,
    system: Events,
    resolvers: SystemResolvers,
    queries: Carrier,
    signals: Signals<GatewayId>,
    relays: PortalRelays,
    timer: Timer,
    /// When to make sockets once more, after there were none to be had.
    rebind: Retry,
}

impl Session {
    fn start(settings: &Settings) -> Result<Self, SessionError> {
        let now = Instant::now();
        let config = ClientConfig {
            seed: seed()?,
            internet_resource_active: settings.internet_resource_active,
        };
        let mut tunnel = ClientTunnel::new(config, now);
        let resolvers = SystemResolvers::default();
        let portal_config =
            settings.portal.config(COMPONENT, PROTOCOL_VERSION, tunnel.public_key());
        let network = network(&resolvers);
        let connector = Connector::new(Arc::clone(&network.sockets));
        let portal = PortalClient::new(portal_config, network.clone())?;
        let sockets = udp::UdpSockets::bind(socket_options(Some(SOCKET_MARK)))?;
        let mut io = Io::new(sockets, connector);
        let tun = Tun::open(&settings.tun, Offloads::ALL)?;
        LinkSettings::default().apply(&settings.tun)?;
        io.set_tun(tun);
        // First of all: it undoes what a crashed predecessor left behind.
        let dns = DnsControl::new(settings.dns, &settings.tun)?;
        let system = Events::new(&settings.tun, &dns.upstream_file())
            .map_err(SessionError::io("cannot watch the machine's network"))?;
        resolvers.set(system.resolvers());
        tunnel.set_system_resolvers(system.resolvers().to_vec(), now);
        let host = Host::new(&settings.tun, dns)?;
        let https = Https::new(network, settings.portal.extra_ca_file.clone());
        let mut session = Self {
            tunnel,
            io,
            portal,
            system,
            resolvers,
            queries: Carrier::new(Some(SOCKET_MARK), Some(https)),
            host,
            signals: Signals::default(),
            relays: PortalRelays::default(),
            timer: Timer::new(now).map_err(SessionError::io("cannot make a timer"))?,
            rebind: Retry::default(),
        };
        session.update_addresses(now);
        Ok(session)
    }

    async fn run(
        &mut self,
        commands: &mut Commands,
        report: &mut impl FnMut(Event),
    ) -> Result<(), SessionError> {
        let mut commands_open = true;
        loop {
            if self.drain(report) {
                let result = self.host.set_up();
                self.host.go_on(result)?;
            }
            tokio::select! {
                ready = self.io.ready() => {
                    ready.map_err(SessionError::io("the TUN device is gone"))?;
                    self.io
                        .pump(&mut self.tunnel)
                        .map_err(SessionError::io("the TUN device is gone"))?;
                }
                elapsed = self.timer.elapsed() => {
                    elapsed.map_err(SessionError::io("cannot wait"))?;
                    self.tunnel.handle_timeout(Instant::now());
                }
                event = self.portal.next_event() => self.handle_portal(event, report)?,
                answer = self.queries.next() => self.handle_answer(answer),
                event = self.system.next() => self.handle_system(event),
                () = self.host.routes.changed() => {
                    let result = self.host.routes.sync().map(|_| ()).map_err(SessionError::from);
                    self.host.go_on(result)?;
                }
                applied = self.host.dns.applied() => {
                    let is_applied = applied.is_ok();
                    self.host.go_on(applied.map_err(SessionError::from))?;
                    if is_applied {
                        self.host.is_ready = true;
                        self.host.retry.succeeded();
                        report(Event::Ready);
                    }
                }
                () = self.host.retry.due() => {
                    let result = self.host.restore_order();
                    self.host.go_on(result)?;
                }
                () = self.rebind.due() => self.renew_sockets(),
                () = self.signals.due() => {}
                command = commands.recv(), if commands_open => match command {
                    Some(Command::Stop) => return Ok(()),
                    Some(Command::Reset) => self.reset(),
                    Some(Command::SetInternetResourceActive(active)) => {
                        self.tunnel.set_internet_resource_active(active, Instant::now());
                    }
                    None => commands_open = false,
                },
            }
        }
    }

    /// Does what the tunnel wants done, and notes when it wants to be woken. Whether the interface is to be set up.
    fn drain(&mut self, report: &mut impl FnMut(Event)) -> bool {
        let mut is_changed = false;
        loop {
            match self.tunnel.poll_output(Instant::now()) {
                Output::Transmit(transmit) => self.io.transmit(&transmit),
                Output::Stream(request) => self.io.handle_stream(request),
                Output::TunPacket(packet) => self.io.deliver_packet(&packet),
                Output::Event(ClientEvent::TunConfig(config)) => {
                    self.host.config = Some(config);
                    is_changed = true;
                }
                Output::Event(event) => self.handle_tunnel(event, report),
                Output::Timeout(at) => {
                    self.timer.set(at);
                    self.signal();
                    return is_changed;
                }
            }
        }
    }

    /// Tells gateways what candidates we have, as far as the portal takes it.
    fn signal(&mut self) {
        let portal = &mut self.portal;
        self.signals.flush(|Signal { peers, candidates, is_new }| {
            peers.iter().all(|gateway_id| {
                let candidates = candidates.clone().into();
                let candidates = GatewayIceCandidates { gateway_id: *gateway_id, candidates };
                let message = match is_new {
                    true => ToPortal::NewGatewayIceCandidates(candidates),
                    false => ToPortal::InvalidateGatewayIceCandidates(candidates),
                };
                portal.send(&message).is_ok()
            })
        });
    }

    fn handle_tunnel(&mut self, event: ClientEvent, report: &mut impl FnMut(Event)) {
        match event {
            ClientEvent::RequestAuthorization { resource, preferred_gateways } => {
                tracing::info!(%resource, "authorization requested");
                let gateways: Vec<_> = preferred_gateways.iter().map(|g| GatewayId(g.0)).collect();
                self.say(&ToPortal::RequestAuthorization(RequestAuthorization {
                    resource_id: ResourceId(resource.0),
                    connected_gateway_ids: gateways.into(),
                    ipv4: None,
                    ipv6: None,
                }));
            }
            ClientEvent::NewCandidates { gateway, candidates } => {
                self.signals.add(GatewayId(gateway.0), candidates);
            }
            ClientEvent::NoRelays => self.say(&ToPortal::NoRelays),
            ClientEvent::InvalidatedCandidates { gateway, candidates } => {
                self.signals.remove(GatewayId(gateway.0), candidates);
            }
            // The caller has it.
            ClientEvent::TunConfig(_) => {}
            ClientEvent::Resources(resources) => report(Event::Resources(resources)),
            ClientEvent::GatewayConnected { gateway, path } => {
                let (local, remote) = shown(path.local, path.remote);
                tracing::info!(%gateway, local, remote, "path established");
            }
            ClientEvent::GatewayPathChanged { gateway, path } => {
                let (local, remote) = shown(path.local, path.remote);
                tracing::info!(%gateway, local, remote, "path changed");
            }
            ClientEvent::GatewayDisconnected { gateway, failure } => {
                self.signals.forget(GatewayId(gateway.0));
                let reason = failure.map(|failure| failure.to_string());
                tracing::info!(%gateway, reason, "gateway gone");
            }
            ClientEvent::AuthorizationFailed { resource, reason } => {
                tracing::info!(%resource, ?reason, "no access");
            }
            ClientEvent::DnsQuery(query) => self.queries.send(query),
            ClientEvent::DnsQueryFinished(id) => self.queries.finish(id),
        }
    }

    fn handle_portal(
        &mut self,
        event: PortalEvent<FromPortal>,
        report: &mut impl FnMut(Event),
    ) -> Result<(), SessionError> {
        match event {
            PortalEvent::Connected => {
                self.handle_joined();
                report(Event::SignedIn);
            }
            PortalEvent::Message(message) => self.handle_message(message),
            PortalEvent::Disconnected { error, retry_in } => {
                report(Event::PortalLost);
                self.handle_portal_lost();
                tracing::info!(error = %Chain(&error), ?retry_in, "portal is away");
            }
            PortalEvent::Fatal(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn handle_joined(&mut self) {
        tracing::info!("signed in");
        self.say(&ToPortal::SetSnownetCapabilities(Capabilities { iceless: false }));
        self.signals.set_joined(true);
    }

    fn handle_portal_lost(&mut self) {
        self.signals.set_joined(false);
        self.tunnel.handle_portal_lost();
    }

    /// Calls the portal anew, as the network is another one.
    fn call_portal(&mut self) {
        self.handle_portal_lost();
        self.queries.reset();
        self.portal.reconnect_now();
    }

    fn say(&mut self, message: &ToPortal) {
        if let Err(error) = self.portal.send(message) {
            tracing::debug!(%error, "the portal did not hear a message");
        }
    }

    fn handle_message(&mut self, message: FromPortal) {
        let now = Instant::now();
        match message {
            FromPortal::Init(init) => self.handle_init(&init, now),
            FromPortal::ConfigChanged(config) => {
                self.tunnel.set_interface(convert::interface(&config.interface), now);
            }
            FromPortal::ResourceCreatedOrUpdated(resource) => {
                match convert::client_resource(&resource) {
                    Some(resource) => self.tunnel.upsert_resource(resource, now),
                    // What we do not understand any more must not go on as it was.
                    None => self.tunnel.remove_resource(resource.id().0.into(), now),
                }
            }
            FromPortal::ResourceDeleted(id) => self.tunnel.remove_resource(id.0.into(), now),
            FromPortal::RelaysPresence(presence) => {
                self.relays.apply(&presence);
                self.update_relays(now);
            }
            FromPortal::AuthorizationCreated(message) => self.handle_authorized(&message, now),
            FromPortal::AuthorizationCreationFailed(message) => {
                let reason = convert::failure_reason(message.reason);
                let resource = message.resource_id.0.into();
                self.tunnel.handle_authorization_failed(resource, reason, now);
            }
            FromPortal::GatewayIceCandidates(message) => {
                for candidate in message.candidates.iter() {
                    self.tunnel.add_remote_candidate(message.gateway_id.0.into(), candidate, now);
                }
            }
            FromPortal::InvalidateGatewayIceCandidates(message) => {
                for candidate in message.candidates.iter() {
                    let gateway = message.gateway_id.0.into();
                    self.tunnel.remove_remote_candidate(gateway, candidate, now);
                }
            }
            // Other clients reach this one by device pools, which it does not take part in.
            _ => tracing::debug!("ignored a message about device pools"),
        }
    }

    fn handle_init(&mut self, init: &Init, now: Instant) {
        self.tunnel.set_interface(convert::interface(&init.interface), now);
        let resources = init.resources.iter().filter_map(convert::client_resource).collect();
        self.tunnel.set_resources(resources, now);
        self.relays.set(&init.relays);
        self.update_relays(now);
        self.tunnel.handle_portal_connected(now);
    }

    fn handle_authorized(&mut self, message: &AuthorizationCreated, now: Instant) {
        let (gateway, resource) = (message.gateway_id, message.resource_id);
        tracing::info!(%gateway, %resource, "authorized");
        if message.use_iceless {
            tracing::info!(%gateway, "the portal wants a way to connect that we did not offer");
        }
        let gateway = Gateway {
            id: message.gateway_id.0.into(),
            public_key: message.gateway_public_key.0,
            ipv4: message.gateway_ipv4,
            ipv6: message.gateway_ipv6,
            site: message.site_id.0.into(),
        };
        let keys = LinkKeys {
            preshared_key: message.preshared_key.0,
            client_ice: convert::ice_credentials(&message.client_ice_credentials),
            gateway_ice: convert::ice_credentials(&message.gateway_ice_credentials),
        };
        self.tunnel.handle_authorization_created(resource.0.into(), gateway, keys, now);
    }

    fn handle_answer(&mut self, answer: Answer) {
        match answer.result {
            Ok(message) => {
                let now = Instant::now();
                self.tunnel.handle_dns_response(answer.id, &answer.from, &message, now);
            }
            Err(error) => {
                tracing::debug!(%error, "a DNS query failed");
                self.tunnel.handle_dns_failure(answer.id, Instant::now());
            }
        }
    }

    fn handle_system(&mut self, event: SystemEvent) {
        let now = Instant::now();
        match event {
            SystemEvent::NetworkChange(_) => {
                tracing::info!("the network has changed");
                self.update_addresses(now);
                self.tunnel.handle_network_change(now);
                self.call_portal();
            }
            SystemEvent::AddressesChanged(_) => self.update_addresses(now),
            SystemEvent::ResolversChanged(servers) => {
                self.resolvers.set(&servers);
                self.tunnel.set_system_resolvers(servers, now);
            }
        }
    }

    /// Begins anew with sockets and portal; gateways keep their sessions.
    fn reset(&mut self) {
        tracing::info!("reset");
        self.renew_sockets();
        self.call_portal();
    }

    fn renew_sockets(&mut self) {
        let now = Instant::now();
        self.io.rebind(&mut self.rebind);
        self.update_addresses(now);
        self.tunnel.handle_network_change(now);
    }

    fn update_addresses(&mut self, now: Instant) {
        let hosts = host_addresses(&self.host.tun_name, self.io.sockets());
        self.tunnel.set_local_addresses(&hosts, now);
    }

    fn update_relays(&mut self, now: Instant) {
        self.tunnel.set_relays(&self.relays.relays(), now);
    }

    /// Says goodbye.
    async fn shut_down(&mut self, report: &mut impl FnMut(Event)) {
        self.tunnel.shutdown(Instant::now());
        let _ = self.drain(report);
        self.io.finish().await;
    }

    async fn restore(self) {
        self.host.dns.revert().await.logged("could not restore the DNS settings");
        self.host.routes.remove().logged("could not remove the routes");
    }
}

/// Connections to the portal bypass the tunnel.
fn network(resolvers: &SystemResolvers) -> Network {
    let resolvers = resolvers.clone();
    Network {
        resolver: Arc::new(move |host| resolvers.clone().resolve(host, SOCKET_MARK)),
        sockets: Arc::new(|remote: SocketAddr| {
            let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            connlib_net::set_mark(&socket, SOCKET_MARK)?;
            Ok(socket)
        }),
    }
}

impl PacketTunnel for ClientTunnel {
    fn handle_tun(&mut self, packet: TunPacket<'_>, queue: &mut SendQueue, now: Instant) {
        self.handle_tun(packet, queue, now);
    }

    fn handle_datagrams(&mut self, run: udp::Run<'_>, batch: &mut PacketBatch, now: Instant) {
        self.handle_datagrams(datagrams(&run), batch, now);
    }

    fn handle_stream_opened(&mut self, server: StreamServer, local: SocketAddr, now: Instant) {
        self.handle_stream_opened(server, local, now);
    }

    fn handle_stream_closed(&mut self, server: StreamServer, now: Instant) {
        self.handle_stream_closed(server, now);
    }
}
