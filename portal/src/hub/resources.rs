//! What clients know of their resources, kept up to date by differences.

use std::collections::{BTreeMap, BTreeSet};

use connlib_portal_api::messages::client::{FromPortal, Resource};

use super::access;
use super::authorizations::Key;
use super::peers::Peer;
use super::world::World;

/// Tells every client what changes: first what goes, then what comes. Where an authorization has
/// ended but the resource stays, it goes and comes, so that the client asks anew.
pub(super) fn update(world: &mut World, ended: &BTreeSet<Key>) {
    let World { policy, peers, outbox, now, .. } = world;
    for (id, connection) in peers.iter_mut().filter(|(_, connection)| connection.joined) {
        let Peer::Client(peer) = &connection.peer else { continue };
        let after = access::resources(policy, peer.owner, now.unix);
        let before = std::mem::replace(&mut connection.resources, after);
        let after = &connection.resources;
        let mut kept = BTreeMap::new();
        for (resource, old) in before {
            let stays = |new| is_same_place(&old, new) && !ended.contains(&(peer.id, resource));
            if after.get(&resource).is_some_and(stays) {
                kept.insert(resource, old);
            } else {
                outbox.client(id, &FromPortal::ResourceDeleted(resource));
            }
        }
        for (resource, new) in after {
            if kept.get(resource) != Some(new) {
                outbox.client(id, &FromPortal::ResourceCreatedOrUpdated(new.clone()));
            }
        }
    }
}

/// Whether a client can take the one for the other without asking anew: same target, same sites.
fn is_same_place(a: &Resource, b: &Resource) -> bool {
    let same_target = match (a, b) {
        (Resource::Cidr(a), Resource::Cidr(b)) => a.address == b.address,
        (Resource::Dns(a), Resource::Dns(b)) => a.address == b.address && a.ip_stack == b.ip_stack,
        (Resource::Internet(_), Resource::Internet(_)) => true,
        _ => false,
    };
    let sites =
        |resource: &Resource| resource.sites().iter().map(|site| site.id).collect::<BTreeSet<_>>();
    same_target && sites(a) == sites(b)
}
