//! Between the words of the portal and those of the tunnels.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use connlib_dns::{DohUrl, IpStack, Pattern};
use connlib_portal_api::messages::common::{self, UnixTime};
use connlib_portal_api::messages::{client, gateway};
use connlib_tunnel::client as tunnel;
use connlib_tunnel::{
    Authorization, AuthorizedClient, AuthorizedResource, Filter, Filters, IceCredentials, LinkKeys,
    Retained, Target,
};

/// Access that ends later than this is as good as without end.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// When something that the portal dates ends, by our clock. `None`: not in this life.
pub(crate) fn expiry(at: Option<UnixTime>, now: Instant) -> Option<Instant> {
    let remaining = at?.remaining(SystemTime::now());
    if remaining > FOR_EVER { None } else { now.checked_add(remaining) }
}

pub(crate) fn filters(filters: &[common::Filter]) -> Filters {
    filters.iter().map(filter).collect()
}

fn filter(filter: &common::Filter) -> Filter {
    match filter {
        common::Filter::Tcp(ports) => Filter::Tcp { first: ports.start(), last: ports.end() },
        common::Filter::Udp(ports) => Filter::Udp { first: ports.start(), last: ports.end() },
        common::Filter::Icmp => Filter::Icmp,
        common::Filter::Unknown => Filter::Unknown,
    }
}

pub(crate) fn ice_credentials(credentials: &common::IceCredentials) -> IceCredentials {
    IceCredentials {
        username: credentials.username.clone(),
        password: credentials.password.expose().to_owned(),
    }
}

/// A gateway's authorization. `None`: the resource is none that we understand.
pub(crate) fn authorization(
    message: &gateway::CreateAuthorization,
    now: Instant,
) -> Option<Authorization> {
    let client = &message.client;
    Some(Authorization {
        client: AuthorizedClient {
            id: client.id.0.into(),
            public_key: client.public_key.0,
            ipv4: client.ipv4,
            ipv6: client.ipv6,
        },
        keys: LinkKeys {
            preshared_key: client.preshared_key.0,
            client_ice: ice_credentials(&message.client_ice_credentials),
            gateway_ice: ice_credentials(&message.gateway_ice_credentials),
        },
        resource: gateway_resource(&message.resource)?,
        expires_at: expiry(message.expires_at, now),
    })
}

pub(crate) fn gateway_resource(resource: &gateway::Resource) -> Option<AuthorizedResource> {
    let target = match resource {
        gateway::Resource::Cidr(cidr) => Target::Cidr(cidr.address),
        gateway::Resource::Dns(dns) => Target::Dns(pattern(&dns.address)?),
        gateway::Resource::Internet(_) => Target::Internet,
    };
    Some(AuthorizedResource {
        id: resource.id().0.into(),
        target,
        filters: filters(resource.filters()),
    })
}

pub(crate) fn retained(authorization: &common::Authorization, now: Instant) -> Retained {
    Retained {
        client: authorization.client_id.0.into(),
        resource: authorization.resource_id.0.into(),
        expires_at: expiry(authorization.expires_at, now),
    }
}

pub(crate) fn interface(interface: &client::Interface) -> tunnel::Interface {
    let doh = interface.upstream_doh.iter().filter_map(|server| {
        server
            .url
            .parse::<DohUrl>()
            .inspect_err(|e| tracing::info!(error = %e, "skipped a DNS-over-HTTPS server"))
            .ok()
    });
    tunnel::Interface {
        ipv4: interface.ipv4,
        ipv6: interface.ipv6,
        do53: interface.do53_servers().iter().map(SocketAddr::ip).collect(),
        doh: doh.collect(),
        search_domain: interface.search_domain.clone(),
    }
}

/// A client's resource. `None`: it is none that we carry packets for.
pub(crate) fn client_resource(resource: &client::Resource) -> Option<tunnel::Resource> {
    let site = |site: &client::Site| tunnel::Site { id: site.id.0.into(), name: site.name.clone() };
    Some(match resource {
        client::Resource::Cidr(cidr) => tunnel::Resource {
            id: cidr.id.0.into(),
            name: cidr.name.clone(),
            address_description: cidr.address_description.clone(),
            sites: cidr.sites.iter().map(site).collect(),
            target: tunnel::Target::Cidr(cidr.address),
            filters: filters(&cidr.filters),
        },
        client::Resource::Dns(dns) => tunnel::Resource {
            id: dns.id.0.into(),
            name: dns.name.clone(),
            address_description: dns.address_description.clone(),
            sites: dns.sites.iter().map(site).collect(),
            target: tunnel::Target::Dns {
                pattern: pattern(&dns.address)?,
                ip_stack: match dns.ip_stack {
                    client::IpStack::Dual => IpStack::Dual,
                    client::IpStack::Ipv4Only => IpStack::Ipv4Only,
                    client::IpStack::Ipv6Only => IpStack::Ipv6Only,
                },
            },
            filters: filters(&dns.filters),
        },
        client::Resource::Internet(internet) => tunnel::Resource {
            id: internet.id.0.into(),
            name: internet.name.clone(),
            address_description: None,
            sites: internet.sites.iter().map(site).collect(),
            target: tunnel::Target::Internet,
            filters: Filters::ALL,
        },
        _ => return None,
    })
}

fn pattern(address: &str) -> Option<Pattern> {
    address
        .parse()
        .inspect_err(
            |e| tracing::info!(error = %e, "skipped a resource whose pattern is malformed"),
        )
        .ok()
}

pub(crate) fn failure_reason(reason: common::Reason) -> tunnel::FailureReason {
    match reason {
        common::Reason::Offline => tunnel::FailureReason::Offline,
        common::Reason::Forbidden => tunnel::FailureReason::Forbidden,
        common::Reason::NotFound => tunnel::FailureReason::NotFound,
        common::Reason::VersionMismatch => tunnel::FailureReason::VersionMismatch,
        _ => tunnel::FailureReason::Other,
    }
}
