//! What the portal answers: access to resources, given and denied.

use std::time::{Duration, Instant};

use connlib_link::{LinkConfig, Role, Upsert};

use super::announcements::Key;
use super::authorizations::{Access, Waiting};
use super::event::{ClientEvent, FailureReason};
use super::gateways::Gateway;
use super::routing::{answer, refusal};
use super::tunnel::ClientTunnel;
use crate::ids::{GatewayId, ResourceId};
use crate::keys::LinkKeys;

/// A gateway that was not heard for so long may be another one by now.
const SILENT_AFTER: Duration = Duration::from_secs(3);

impl ClientTunnel {
    /// The portal is away: access that we have is kept, as nobody could give it again.
    pub fn handle_portal_lost(&mut self) {
        self.is_portal_away = true;
    }

    /// The portal is there (again): what it has not answered is asked once more.
    pub fn handle_portal_connected(&mut self, now: Instant) {
        self.is_portal_away = false;
        for doubted in self.authorizations.ask_all(now) {
            self.ask_portal(doubted);
        }
        self.handle_timeout(now);
        self.ask_about_silent_gateways(now);
    }

    /// A gateway may have restarted while the portal could not tell us: for one that has been silent the answer brings
    /// its new key; for any other it changes nothing.
    fn ask_about_silent_gateways(&mut self, now: Instant) {
        for gateway in self.gateways.ids() {
            if self.is_silent(gateway, now) {
                self.ask_about(gateway);
            }
        }
    }

    pub(super) fn is_silent(&self, gateway: GatewayId, now: Instant) -> bool {
        let last_heard = self.node.last_heard(gateway.into());
        last_heard.is_some_and(|at| now >= at + SILENT_AFTER)
    }

    /// A gateway may have ended what it had with us without our hearing of it: for one that has, the answer begins it
    /// anew; for any other it changes nothing. When the portal comes back it is asked as well.
    pub(super) fn ask_about(&mut self, gateway: GatewayId) {
        let resource = self.authorizations.through(gateway).next();
        if let Some(resource) = resource.filter(|_| !self.is_portal_away) {
            self.ask_portal(resource);
        }
    }

    /// There is access to a resource through this gateway. Also takes an answer that was not asked for: a gateway that
    /// restarted has a new key, and its clients move over at once.
    pub fn handle_authorization_created(
        &mut self,
        resource: ResourceId,
        gateway: Gateway,
        keys: LinkKeys,
        now: Instant,
    ) {
        if !self.resources.contains_key(&resource) {
            tracing::debug!(%resource, "access to a resource that is not ours");
            return;
        }
        let id = gateway.id;
        let config = LinkConfig {
            peer: id.into(),
            role: Role::Controlling,
            remote_public_key: gateway.public_key,
            preshared_key: keys.preshared_key,
            local: keys.client_ice,
            remote: keys.gateway_ice,
        };
        let upsert = self.node.upsert(config, now);
        if upsert == Upsert::Refused {
            return self.handle_authorization_failed(resource, FailureReason::Other, now);
        }
        let is_link_new = upsert != Upsert::Reused;
        let previous = self.authorizations.gateway(resource);
        if is_link_new {
            // The other end has lost all that it knew of us: other access through it is asked for anew.
            self.authorizations.forget_gateway(id);
        }
        let is_void = |key: &Key| match key.resource == resource {
            true => key.gateway != id,
            false => key.gateway == id && is_link_new,
        };
        let mut packets = self.announcements.forget(is_void);
        let is_new = is_link_new || previous != Some(id);
        self.announcements.announce_again(id, resource, is_new, now);
        self.gateways.upsert(gateway, is_link_new);
        self.forget_flows();
        let waiting = self.authorizations.grant(resource, id, now);
        packets.extend(waiting.packets);
        for packet in packets {
            self.route_again(&packet, now);
        }
        for (client, query) in waiting.queries {
            self.ask_gateway(client, query, resource, now);
        }
        if let Some(previous) = previous.filter(|previous| *previous != id) {
            self.leave_if_unused(previous, now);
        }
        self.publish();
    }

    /// There is no access to a resource.
    pub fn handle_authorization_failed(
        &mut self,
        resource: ResourceId,
        reason: FailureReason,
        now: Instant,
    ) {
        if self.authorizations.put_off(resource, reason, now) {
            return;
        }
        let gateway = self.authorizations.gateway(resource);
        let waiting = self.authorizations.refuse(resource, reason, now);
        if gateway.is_some() && self.authorizations.gateway(resource) == gateway {
            // What is there goes on.
            return;
        }
        self.give_up(resource, reason, &waiting, now);
        if let Some(gateway) = gateway {
            for packet in self.announcements.forget(|key| key.resource == resource) {
                let (outputs, errors) = (&mut self.outputs, &mut self.errors);
                answer(outputs, errors, &packet, |to| refusal(reason, to), now);
            }
            self.forget_flows();
            self.leave_if_unused(gateway, now);
        }
    }

    pub(super) fn give_up(
        &mut self,
        resource: ResourceId,
        reason: FailureReason,
        waiting: &Waiting,
        now: Instant,
    ) {
        self.reject(waiting, |destination| refusal(reason, destination), now);
        self.event(ClientEvent::AuthorizationFailed { resource, reason });
        self.publish();
    }

    /// The access to a resource for which there is traffic; asks the portal if that is due.
    pub(super) fn access(&mut self, resource: ResourceId, now: Instant) -> Access {
        let access = self.authorizations.access(resource, now);
        if access == (Access::Pending { ask: true }) {
            self.ask_portal(resource);
        }
        access
    }

    pub(super) fn ask_portal(&mut self, resource: ResourceId) {
        let preferred_gateways = self.gateways.preferred(self.authorizations.gateway(resource));
        self.event(ClientEvent::RequestAuthorization { resource, preferred_gateways });
    }
}
