//! What the portal and people change takes effect on links, and not on more of them than it must.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_link::SendQueue;
use connlib_packet::{TunPacket, build};
use connlib_tunnel::client::{
    ClientConfig, ClientEvent, ClientTunnel, FailureReason, Gateway, Interface, Resource, Target,
};
use connlib_tunnel::{Filters, GatewayId, IceCredentials, LinkKeys, Output, ResourceId, SiteId};

const OFFICE: ResourceId = ResourceId::from_u128(1);
const LAB: ResourceId = ResourceId::from_u128(2);
const INTERNET: ResourceId = ResourceId::from_u128(3);
const ONE: GatewayId = GatewayId::from_u128(11);
const TWO: GatewayId = GatewayId::from_u128(12);

struct Client {
    tunnel: ClientTunnel,
    now: Instant,
}

impl Client {
    fn new() -> Self {
        let now = Instant::now();
        let config = ClientConfig { seed: [7; 32], internet_resource_active: true };
        let mut client = Self { tunnel: ClientTunnel::new(config, now), now };
        client.set_address(1);
        let resource = |id, target| Resource {
            id,
            name: String::new(),
            address_description: None,
            sites: Vec::new(),
            target,
            filters: Filters::ALL,
        };
        client.tunnel.set_resources(
            vec![
                resource(OFFICE, Target::Cidr("10.1.0.0/16".parse().unwrap())),
                resource(LAB, Target::Cidr("10.2.0.0/16".parse().unwrap())),
                resource(INTERNET, Target::Internet),
            ],
            now,
        );
        client
    }

    fn set_address(&mut self, last: u8) {
        let interface = Interface {
            ipv4: Ipv4Addr::new(100, 64, 0, last),
            ipv6: Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, last.into()),
            do53: Vec::new(),
            doh: Vec::new(),
            search_domain: None,
        };
        self.tunnel.set_interface(interface, self.now);
    }

    fn grant(&mut self, resource: ResourceId, gateway: GatewayId, key: u8) {
        let credentials = |name: &str| IceCredentials {
            username: format!("{name}{key}"),
            password: format!("{name}-password-0123456789"),
        };
        let keys = LinkKeys {
            preshared_key: [key; 32],
            client_ice: credentials("client"),
            gateway_ice: credentials("gateway"),
        };
        let last = gateway.0.as_u128() as u8;
        let gateway = Gateway {
            id: gateway,
            public_key: [key; 32],
            ipv4: Ipv4Addr::new(100, 64, 1, last),
            ipv6: Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 1, last.into()),
            site: SiteId::from_u128(1),
        };
        self.tunnel.handle_authorization_created(resource, gateway, keys, self.now);
    }

    /// Which resource the portal is asked for if an application sends a packet there.
    fn asks_for(&mut self, destination: &str) -> Option<ResourceId> {
        self.events();
        let source: SocketAddr = "100.64.0.1:1000".parse().unwrap();
        let mut bytes = [0; 128];
        let len = build::udp(&mut bytes, source, destination.parse().unwrap(), b"hello").unwrap();
        let packet = TunPacket::parse(&mut bytes[..len], Default::default()).unwrap();
        self.tunnel.handle_tun(packet, &mut SendQueue::new(0), self.now);
        self.asked().first().copied()
    }

    fn asked(&mut self) -> Vec<ResourceId> {
        let asked = |event| match event {
            ClientEvent::RequestAuthorization { resource, .. } => Some(resource),
            _ => None,
        };
        self.events().into_iter().filter_map(asked).collect()
    }

    fn left(&mut self) -> Vec<GatewayId> {
        let gone = |event| match event {
            ClientEvent::GatewayDisconnected { gateway, .. } => Some(gateway),
            _ => None,
        };
        self.events().into_iter().filter_map(gone).collect()
    }

    /// What happens until then, timers included.
    fn run_until(&mut self, end: Instant) -> Vec<ClientEvent> {
        let mut events = Vec::new();
        loop {
            match self.tunnel.poll_output(self.now) {
                Output::Event(event) => events.push(event),
                Output::Timeout(at) if at <= end => {
                    self.now = at.max(self.now);
                    self.tunnel.handle_timeout(self.now);
                }
                Output::Timeout(_) => break,
                Output::Transmit(_) | Output::Stream(_) | Output::TunPacket(_) => {}
            }
        }
        self.now = end;
        events
    }

    fn events(&mut self) -> Vec<ClientEvent> {
        let mut events = Vec::new();
        loop {
            match self.tunnel.poll_output(self.now) {
                Output::Event(event) => events.push(event),
                Output::Timeout(_) => return events,
                Output::Transmit(_) | Output::Stream(_) | Output::TunPacket(_) => {}
            }
        }
    }
}

#[test]
fn a_gateway_that_another_one_takes_over_from_is_left() {
    let mut client = Client::new();
    client.grant(OFFICE, ONE, 1);
    client.grant(LAB, ONE, 1);
    client.grant(OFFICE, TWO, 2);
    assert_eq!(client.left(), []);
    client.grant(LAB, TWO, 2);
    assert_eq!(client.left(), [ONE]);
}

#[test]
fn after_a_restart_of_the_gateway_all_access_through_it_is_asked_for_anew() {
    let mut client = Client::new();
    client.grant(OFFICE, ONE, 1);
    client.grant(LAB, ONE, 1);
    assert_eq!(client.asks_for("10.2.0.1:7"), None);
    client.grant(OFFICE, ONE, 9);
    assert_eq!(client.asks_for("10.1.0.1:7"), None);
    assert_eq!(client.asks_for("10.2.0.1:7"), Some(LAB));
}

#[test]
fn the_internet_is_given_back_when_it_is_switched_off() {
    let mut client = Client::new();
    client.grant(OFFICE, ONE, 1);
    client.grant(INTERNET, TWO, 2);
    client.tunnel.set_internet_resource_active(false, client.now);
    assert_eq!(client.left(), [TWO]);
    client.tunnel.set_internet_resource_active(true, client.now);
    assert_eq!(client.asks_for("192.0.2.1:7"), Some(INTERNET));
}

#[test]
fn another_address_of_ours_makes_all_links_anew() {
    let mut client = Client::new();
    client.grant(OFFICE, ONE, 1);
    client.set_address(1);
    assert_eq!(client.left(), []);
    client.set_address(2);
    assert_eq!(client.left(), [ONE]);
}

#[test]
fn access_that_the_portal_takes_back_ends_and_what_it_cannot_give_now_does_not() {
    let mut client = Client::new();
    client.grant(OFFICE, ONE, 1);
    client.tunnel.handle_authorization_failed(OFFICE, FailureReason::Offline, client.now);
    assert_eq!(client.left(), []);
    client.tunnel.handle_authorization_failed(OFFICE, FailureReason::Forbidden, client.now);
    assert_eq!(client.left(), [ONE]);
    assert_eq!(client.asks_for("10.1.0.1:7"), None);
    client.now += Duration::from_secs(1);
    assert_eq!(client.asks_for("10.1.0.1:7"), Some(OFFICE));
}

#[test]
fn a_silent_gateway_that_the_portal_does_not_have_back_yet_is_asked_about_again() {
    let mut client = Client::new();
    client.grant(OFFICE, ONE, 1);
    client.events();
    client.now += Duration::from_secs(4);
    client.tunnel.handle_portal_connected(client.now);
    assert_eq!(client.asked(), [OFFICE]);
    client.tunnel.handle_authorization_failed(OFFICE, FailureReason::Offline, client.now);
    assert_eq!(client.events(), [], "the access is kept");
    client.now += Duration::from_millis(500);
    client.tunnel.handle_timeout(client.now);
    assert_eq!(client.asked(), [OFFICE]);
    // It has restarted meanwhile.
    client.grant(OFFICE, ONE, 2);
    client.events();
    client.now += Duration::from_secs(4);
    client.tunnel.handle_timeout(client.now);
    assert_eq!(client.asked(), []);
}

#[test]
fn the_portal_is_asked_about_a_gateway_that_says_nothing() {
    let mut client = Client::new();
    let asked = |events: Vec<ClientEvent>| {
        let asks = |event: &ClientEvent| match event {
            ClientEvent::RequestAuthorization { resource, .. } => Some(*resource),
            _ => None,
        };
        events.iter().filter_map(asks).collect::<Vec<_>>()
    };
    let host = "192.0.2.1:52625".parse().unwrap();
    client.tunnel.set_local_addresses(&[host], client.now);
    client.grant(OFFICE, ONE, 1);
    assert_eq!(client.asks_for("10.1.0.1:7"), None);
    let soon = client.now + Duration::from_secs(2);
    assert_eq!(asked(client.run_until(soon - Duration::from_millis(1))), []);
    assert_eq!(asked(client.run_until(soon)), [OFFICE]);
    // The answer that all is as it was changes nothing: the gateway is still silent. Who sends nothing need not know.
    client.grant(OFFICE, ONE, 1);
    let later = soon + Duration::from_secs(6);
    assert_eq!(asked(client.run_until(later)), []);
    assert_eq!(client.asks_for("10.1.0.1:7"), None);
    assert_eq!(asked(client.run_until(later)), [OFFICE]);

    // Nobody is asked who is not there. When the portal is, it is asked as well.
    let mut client = Client::new();
    client.tunnel.set_local_addresses(&[host], client.now);
    client.grant(OFFICE, ONE, 1);
    client.tunnel.handle_portal_lost();
    assert_eq!(client.asks_for("10.1.0.1:7"), None);
    let later = client.now + Duration::from_secs(6);
    assert_eq!(asked(client.run_until(later)), []);
    client.tunnel.handle_portal_connected(client.now);
    assert_eq!(asked(client.events()), [OFFICE]);
}
