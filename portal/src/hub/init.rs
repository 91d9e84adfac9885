//! What a peer hears first: its whole state.

use std::collections::BTreeMap;

use connlib_portal_api::messages::common::{Authorization, FlowLogs, Relay, TunnelAddresses};
use connlib_portal_api::messages::{client, gateway};
use connlib_portal_api::{ResourceId, Tolerant};

use super::peers::{ClientPeer, GatewayPeer};
use crate::policy::Policy;

pub(super) fn client(
    policy: &Policy,
    peer: &ClientPeer,
    resources: &BTreeMap<ResourceId, client::Resource>,
    relays: Vec<Relay>,
) -> client::Init {
    client::Init {
        interface: interface(policy, peer),
        resources: resources.values().cloned().collect(),
        relays: relays.into(),
        authorizations: Tolerant::default(),
        flow_logs: FlowLogs::default(),
    }
}

pub(super) fn gateway(
    policy: &Policy,
    peer: &GatewayPeer,
    relays: Vec<Relay>,
    authorizations: Vec<Authorization>,
) -> gateway::Init {
    let config = policy.gateways.get(&peer.id).map(|gateway| gateway::Config {
        ipv4_masquerade_enabled: gateway.ipv4_masquerade,
        ipv6_masquerade_enabled: gateway.ipv6_masquerade,
    });
    let (ipv4, ipv6) = (peer.addresses.ipv4, peer.addresses.ipv6);
    gateway::Init {
        interface: TunnelAddresses { ipv4, ipv6 },
        config: config.unwrap_or_default(),
        relays: relays.into(),
        account_slug: policy.account.clone(),
        authorizations: authorizations.into(),
        flow_logs: FlowLogs::default(),
    }
}

/// A client's addresses and the resolvers of the policy.
pub(super) fn interface(policy: &Policy, peer: &ClientPeer) -> client::Interface {
    let dns = &policy.dns;
    let doh = dns.upstream_doh.iter().map(|url| client::DohServer { url: url.clone() });
    client::Interface {
        ipv4: peer.addresses.ipv4,
        ipv6: peer.addresses.ipv6,
        upstream_do53: dns.upstream_do53.iter().map(|&ip| client::Do53Server { ip }).collect(),
        upstream_doh: doh.collect(),
        search_domain: dns.search_domain.clone(),
        upstream_dns: Tolerant::default(),
    }
}
