//! A gateway's session.

mod host;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use connlib_link::{SendQueue, StreamServer};
use connlib_net::events::{Event as SystemEvent, Events};
use connlib_net::netlink::Ipv6Support;
use connlib_net::nft::Masquerade;
use connlib_net::retry::Retry;
use connlib_net::timer::Timer;
use connlib_net::tun::{LinkSettings, Offloads, Tun};
use connlib_net::{resolvers, udp};
use connlib_packet::{Ecn, PacketBatch, TunPacket};
use connlib_portal_api::ClientId;
use connlib_portal_api::client::{Event as PortalEvent, Network, PortalClient};
use connlib_portal_api::messages::common::Capabilities;
use connlib_portal_api::messages::gateway::GatewayRole;
use connlib_portal_api::messages::gateway::{
    AuthorizationCreated, BroadcastIceCandidates, CreateAuthorization, FromPortal, Init, ToPortal,
};
use connlib_tunnel::{Datagrams, GatewayConfig, GatewayEvent, GatewayTunnel, Output};

use self::host::{Host, InterfaceConfig};
use crate::command::{Command, Commands, Counters, SessionError, seed};
use crate::convert;
use crate::gateway_dns::DnsServer;
use crate::io::{Connector, Io, PacketTunnel};
use crate::logged::{Chain, Logged};
use crate::portal::{PortalSettings, socket_options};
use crate::relays::PortalRelays;
use crate::resolve::{Names, Resolved};
use crate::signals::{Signal, Signals};

/// What portals know gateways of this protocol by.
const COMPONENT: &str = "gateway";

/// The version of the existing system's gateway whose behaviour this one has: portals look at it.
const PROTOCOL_VERSION: &str = "1.6.1";

/// Settings of a gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The portal.
    pub portal: PortalSettings,
    /// Name of the TUN device.
    pub tun: String,
    /// Whether forwarding and masquerade are set up by the gateway itself.
    pub manage_nat: bool,
}

/// Something that whoever started the session may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The portal has let us in and said what we may do: clients can connect.
    Ready,
    /// The portal is away. Clients that are connected don't notice.
    PortalLost,
    /// It is over. This was counted.
    Ended(Counters),
}

/// Runs a gateway until it is stopped or cannot go on. `report` is called for what happens.
///
/// Everything that was changed on the machine is taken back at the end: routes, forwarding, masquerade.
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
    session.shut_down().await;
    report(Event::Ended(Counters { tunnel: session.tunnel.stats(), io: session.io.stats() }));
    session.restore();
    result
}

struct Session {
    /// Goes first: it is taken back while the TUN device is still there.
    host: Host,
    tunnel: GatewayTunnel,
    io: Io,
    portal: PortalClient<GatewayRole>,
    system: Events,
    names: Names,
    dns: DnsServer,
    signals: Signals<ClientId>,
    relays: PortalRelays,
    timer: Timer,
    /// When to make sockets once more, after there were none to be had.
    rebind: Retry,
}

impl Session {
    fn start(settings: &Settings) -> Result<Self, SessionError> {
        let now = Instant::now();
        let config = GatewayConfig { seed: seed()?, ..GatewayConfig::default() };
        let tunnel = GatewayTunnel::new(&config, now);
        let portal_config =
            settings.portal.config(COMPONENT, PROTOCOL_VERSION, tunnel.public_key());
        let network = Network::default();
        let connector = Connector::new(Arc::clone(&network.sockets));
        let portal = PortalClient::new(portal_config, network)?;
        let mut io = Io::new(udp::UdpSockets::bind(socket_options(None))?, connector);
        let tun = Tun::open(&settings.tun, Offloads::ALL)?;
        // What we forward was joined by GRO before and must not be cut again: no limit for super-packets.
        LinkSettings::default().apply(&settings.tun)?;
        io.set_tun(tun);
        let resolv_conf = resolvers::upstream_file(
            resolvers::RESOLV_CONF.as_ref(),
            resolvers::RESOLVED_UPLINKS.as_ref(),
        );
        let system = Events::new(&settings.tun, &resolv_conf)
            .map_err(SessionError::io("cannot watch the machine's network"))?;
        let names = Names::new(system.resolvers());
        let dns = DnsServer::start(seed()?, system.resolvers());
        let host = Host::new(&settings.tun, settings.manage_nat)?;
        let mut session = Self {
            tunnel,
            io,
            portal,
            system,
            names,
            dns,
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
            self.drain();
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
                resolved = self.names.next() => self.handle_resolved(resolved),
                event = self.system.next() => self.handle_system(event),
                () = self.host.retry.due() => self.set_up()?,
                () = self.rebind.due() => self.renew_sockets(),
                () = self.signals.due() => {}
                command = commands.recv(), if commands_open => match command {
                    Some(Command::Stop) => return Ok(()),
                    Some(Command::Reset) => self.reset(),
                    Some(Command::SetInternetResourceActive(_)) => {}
                    None => commands_open = false,
                },
            }
        }
    }

    /// Does what the tunnel wants done, and notes when it wants to be woken.
    fn drain(&mut self) {
        loop {
            match self.tunnel.poll_output() {
                Output::Transmit(transmit) => self.io.transmit(&transmit),
                Output::Stream(request) => self.io.handle_stream(request),
                Output::TunPacket(packet) => self.io.deliver_packet(&packet),
                Output::Event(event) => self.handle_tunnel(event),
                Output::Timeout(at) => {
                    self.timer.set(at);
                    self.signal();
                    return;
                }
            }
            if self.signals.is_full() {
                self.signal();
            }
        }
    }

    /// Tells clients what candidates we have, as far as the portal takes it.
    fn signal(&mut self) {
        let portal = &mut self.portal;
        self.signals.flush(|Signal { peers, candidates, is_new }| {
            let message = BroadcastIceCandidates {
                client_ids: peers.clone().into(),
                candidates: candidates.clone().into(),
            };
            let message = match is_new {
                true => ToPortal::BroadcastIceCandidates(message),
                false => ToPortal::BroadcastInvalidatedIceCandidates(message),
            };
            portal.send(&message).is_ok()
        });
    }

    fn handle_tunnel(&mut self, event: GatewayEvent) {
        match event {
            GatewayEvent::NewCandidates { client, candidates } => {
                self.signals.add(ClientId(client.0), candidates);
            }
            GatewayEvent::NoRelays => self.say(&ToPortal::NoRelays),
            GatewayEvent::InvalidatedCandidates { client, candidates } => {
                self.signals.remove(ClientId(client.0), candidates);
            }
            GatewayEvent::ResolveName { id, name } => self.names.resolve(id, &name),
            GatewayEvent::ClientConnected { client, path } => {
                let (local, remote) = shown(path.local, path.remote);
                tracing::info!(%client, local, remote, "path established");
            }
            GatewayEvent::PathChanged { client, path } => {
                let (local, remote) = shown(path.local, path.remote);
                tracing::info!(%client, local, remote, "path changed");
            }
            GatewayEvent::ClientGone { client, reason } => {
                self.signals.forget(ClientId(client.0));
                tracing::info!(%client, %reason, "client gone");
            }
        }
    }

    fn handle_portal(
        &mut self,
        event: PortalEvent<FromPortal>,
        report: &mut impl FnMut(Event),
    ) -> Result<(), SessionError> {
        match event {
            PortalEvent::Connected => self.handle_joined(),
            PortalEvent::Message(FromPortal::Init(init)) => {
                self.handle_init(&init)?;
                report(Event::Ready);
            }
            PortalEvent::Message(message) => self.handle_message(&message),
            PortalEvent::Disconnected { error, retry_in } => {
                report(Event::PortalLost);
                self.signals.set_joined(false);
                tracing::info!(error = %Chain(&error), ?retry_in, "portal is away");
            }
            PortalEvent::Fatal(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn handle_joined(&mut self) {
        tracing::info!("signed in");
        let capabilities = ToPortal::SetSnownetCapabilities(Capabilities { iceless: false });
        self.say(&capabilities);
        self.signals.set_joined(true);
    }

    /// Calls the portal anew, as the network is another one.
    fn call_portal(&mut self) {
        self.signals.set_joined(false);
        self.portal.reconnect_now();
    }

    fn say(&mut self, message: &ToPortal) {
        if let Err(error) = self.portal.send(message) {
            tracing::debug!(%error, "the portal did not hear a message");
        }
    }

    fn handle_init(&mut self, init: &Init) -> Result<(), SessionError> {
        let now = Instant::now();
        let (ipv4, ipv6) = (init.interface.ipv4, init.interface.ipv6);
        self.tunnel.set_interface(ipv4, ipv6);
        let masquerade = Masquerade {
            ipv4: init.config.ipv4_masquerade_enabled,
            ipv6: init.config.ipv6_masquerade_enabled,
        };
        self.host.config = Some(InterfaceConfig { ipv4, ipv6, masquerade });
        self.set_up()?;
        let lasting: Vec<_> =
            init.authorizations.iter().map(|a| convert::retained(a, now)).collect();
        self.tunnel.retain_authorizations(lasting, now);
        self.relays.set(&init.relays);
        self.update_relays();
        Ok(())
    }

    /// Sets up what the portal wants. What is refused while clients may be connected is tried again; what is in force
    /// goes on meanwhile.
    fn set_up(&mut self) -> Result<(), SessionError> {
        let Some(config) = self.host.config else { return Ok(()) };
        match self.host.set_up(config) {
            Ok(support) => {
                let ipv6 = (support == Ipv6Support::Available).then_some(config.ipv6.into());
                let addresses = [Some(config.ipv4.into()), ipv6];
                self.dns.set_addresses(addresses.into_iter().flatten().collect());
                self.host.is_ready = true;
                self.host.retry.succeeded();
            }
            Err(error) if self.host.is_ready => {
                tracing::info!(error = %Chain(&error), "could not set up the interface");
                self.host.retry.later();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn handle_message(&mut self, message: &FromPortal) {
        let now = Instant::now();
        match message {
            FromPortal::CreateAuthorization(message) => self.create_authorization(message, now),
            FromPortal::IceCandidates(message) => {
                for candidate in message.candidates.iter() {
                    self.tunnel.add_remote_candidate(message.client_id.0.into(), candidate, now);
                }
            }
            FromPortal::InvalidateIceCandidates(message) => {
                for candidate in message.candidates.iter() {
                    let client = message.client_id.0.into();
                    self.tunnel.remove_remote_candidate(client, candidate, now);
                }
            }
            FromPortal::RejectAccess(message) => {
                let (client, resource) = (message.client_id, message.resource_id);
                tracing::info!(%client, %resource, "access taken back");
                self.tunnel.reject_access(client.0.into(), resource.0.into(), now);
            }
            FromPortal::ResourceUpdated(resource) => {
                let filters = convert::filters(resource.filters());
                self.tunnel.update_resource_filters(resource.id().0.into(), &filters);
            }
            FromPortal::RelaysPresence(presence) => {
                self.relays.apply(presence);
                self.update_relays();
            }
            FromPortal::AccessAuthorizationExpiryUpdated(message) => {
                let expires_at = convert::expiry(message.expires_at, now);
                let (client, resource) = (message.client_id.0.into(), message.resource_id.0.into());
                self.tunnel.update_expiry(client, resource, expires_at);
            }
            FromPortal::Init(_) => {}
        }
    }

    fn create_authorization(&mut self, message: &CreateAuthorization, now: Instant) {
        let Some(authorization) = convert::authorization(message, now) else { return };
        let (client, resource) = (message.client.id, message.resource.id());
        match self.tunnel.create_authorization(authorization, now) {
            Ok(()) => {
                tracing::info!(%client, %resource, "authorized");
                let reference = message.reference.clone();
                self.say(&ToPortal::AuthorizationCreated(AuthorizationCreated { reference }));
            }
            // Without an answer the portal tells the client that nobody is there, and it may try elsewhere.
            Err(error) => tracing::info!(%client, %resource, %error, "could not authorize"),
        }
    }

    fn handle_resolved(&mut self, resolved: Resolved) {
        self.tunnel.handle_resolved(resolved.id, resolved.result, Instant::now());
    }

    fn handle_system(&mut self, event: SystemEvent) {
        match event {
            SystemEvent::NetworkChange(_) => {
                tracing::info!("the network has changed");
                self.update_addresses(Instant::now());
                self.call_portal();
            }
            SystemEvent::AddressesChanged(_) => self.update_addresses(Instant::now()),
            SystemEvent::ResolversChanged(servers) => {
                self.names.set_servers(&servers);
                self.dns.set_servers(&servers);
            }
        }
    }

    /// Begins anew with sockets and portal; clients keep their sessions.
    fn reset(&mut self) {
        tracing::info!("reset");
        self.renew_sockets();
        self.call_portal();
    }

    fn renew_sockets(&mut self) {
        self.io.rebind(&mut self.rebind);
        self.update_addresses(Instant::now());
    }

    fn update_addresses(&mut self, now: Instant) {
        let hosts = host_addresses(&self.host.tun_name, self.io.sockets());
        self.tunnel.set_local_addresses(&hosts, now);
    }

    fn update_relays(&mut self) {
        self.tunnel.set_relays(&self.relays.relays(), Instant::now());
    }

    /// Says goodbye.
    async fn shut_down(&mut self) {
        self.tunnel.shutdown(Instant::now());
        self.drain();
        self.io.finish().await;
    }

    fn restore(self) {
        self.host.restore();
    }
}

/// This machine's addresses, each with the port of our socket of its family.
pub(crate) fn host_addresses(tun: &str, sockets: &udp::UdpSockets) -> Vec<SocketAddr> {
    let addresses = udp::interfaces(tun).logged("could not list addresses").unwrap_or_default();
    let with_port = |ip: std::net::IpAddr| {
        let port = if ip.is_ipv4() { sockets.port_v4() } else { sockets.port_v6() };
        port.map(|port| SocketAddr::new(ip, port))
    };
    addresses.into_iter().filter_map(with_port).collect()
}

pub(crate) fn shown(local: Option<SocketAddr>, remote: SocketAddr) -> (String, String) {
    (local.map(|local| local.to_string()).unwrap_or_default(), remote.to_string())
}

impl PacketTunnel for GatewayTunnel {
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

pub(crate) fn datagrams<'a>(run: &'a udp::Run<'_>) -> Datagrams<'a> {
    Datagrams {
        local: run.local,
        remote: run.remote,
        ecn: Ecn::from_bits(run.ecn),
        stride: run.segment_size,
        bytes: run.bytes,
    }
}
