//! What the policy means for one probe, worked out without the code under test.

use std::cmp::Reverse;
use std::net::IpAddr;

use connlib_dns::Name;
use connlib_tunnel::client::Target;
use connlib_tunnel::{Filters, ResourceId, Service, SiteId};

use crate::app::{FlowSpec, To};
use crate::model::Expected;
use crate::names::{Family, Names};
use crate::portal::{Policy, ResourceSpec};
use crate::site::{CLOSED_PORT, SILENT_PORT};

/// What must become of a probe, and the resource that it belongs to.
pub(crate) fn expect(
    policy: &Policy,
    names: &Names,
    spec: &FlowSpec,
    service: Service,
    is_online: impl Fn(SiteId) -> bool,
) -> (Expected, Option<ResourceId>) {
    let mut covering: Vec<&ResourceSpec> =
        policy.resources_of(spec.client).filter(|resource| covers(resource, &spec.to)).collect();
    if covering.is_empty() {
        return (Expected::Unreachable, None);
    }
    covering
        .retain(|resource| resource.filters.iter().copied().collect::<Filters>().permits(service));
    let best =
        covering.iter().min_by_key(|resource| (Reverse(prefix(resource)), Reverse(resource.id)));
    let Some(best) = best else { return (Expected::Prohibited, None) };
    if !is_online(best.site) || !has_address(names, &spec.to) {
        return (Expected::Unreachable, Some(best.id));
    }
    match service {
        Service::Udp(CLOSED_PORT) => (Expected::ClosedPort, Some(best.id)),
        Service::Udp(SILENT_PORT) => (Expected::Delivery, Some(best.id)),
        _ => (Expected::Answer, Some(best.id)),
    }
}

fn covers(resource: &ResourceSpec, to: &To) -> bool {
    match (&resource.target, to) {
        (Target::Cidr(net), To::Address(address)) => net.contains(address),
        (Target::Dns { pattern, .. }, To::Name(name, _)) => {
            name.parse::<Name>().is_ok_and(|name| pattern.matches(&name))
        }
        _ => false,
    }
}

/// Longer is better; patterns are not told apart here.
fn prefix(resource: &ResourceSpec) -> u8 {
    match &resource.target {
        Target::Cidr(net) => net.prefix_len(),
        Target::Dns { .. } | Target::Internet => 0,
    }
}

fn has_address(names: &Names, to: &To) -> bool {
    match to {
        To::Address(_) => true,
        To::Name(name, family) => names.resolve(name).iter().any(|ip| is_of(*ip, *family)),
    }
}

fn is_of(address: IpAddr, family: Family) -> bool {
    address.is_ipv4() == (family == Family::V4)
}
