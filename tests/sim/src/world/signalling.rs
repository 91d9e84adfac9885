//! Between peers and the portal.

use super::{Happening, PORTAL_LATENCY, World, ms, number_of};
use crate::hosts::{ClientHost, Effect, GatewayHost};
use crate::internet::Node;
use crate::portal::FromPortal;

impl World {
    /// Sends what the portal has to say.
    pub(super) fn post(&mut self) {
        let now = self.now;
        for (to, message) in self.portal.take_outbox() {
            self.trace.note(now, &[6, number_of(to)], || format!("portal -> {to:?} {message:?}"));
            if let FromPortal::Gateway(message) = &message
                && let Some((client, resource, at)) = message.expiry()
            {
                let end = move |world: &mut Self| world.authorization_expires(client, resource);
                self.schedule(at, Happening::Meddle(Box::new(end)));
            }
            let at = now + PORTAL_LATENCY;
            let wire = self.wires.entry(to).or_default();
            wire.hear(message, at);
            let generation = wire.generation;
            self.schedule(at, Happening::Wire(to, generation));
        }
    }

    pub(super) fn pump(&mut self, node: Node, generation: u32) {
        let now = self.now;
        let is_down = self.is_down(node);
        let Some(wire) = self.wires.get_mut(&node) else { return };
        if wire.generation != generation || !wire.has_traffic() {
            return;
        }
        if is_down {
            // What is under way waits, as it does with TCP.
            return self.schedule(now + ms(200), Happening::Wire(node, generation));
        }
        while let Some(message) = self.wires.get_mut(&node).and_then(|wire| wire.pop_up(now)) {
            self.portal.handle(node, message, now);
        }
        while let Some(message) = self.wires.get_mut(&node).and_then(|wire| wire.pop_down(now)) {
            match (node, message) {
                (Node::Client(number), FromPortal::Client(message)) => {
                    self.with_client(number, |host, out| host.handle_portal(message, now, out));
                }
                (Node::Gateway(number), FromPortal::Gateway(message)) => {
                    self.with_gateway(number, |host, out| host.handle_portal(message, now, out));
                }
                _ => {}
            }
        }
        self.post();
    }

    pub(super) fn join(&mut self, node: Node, generation: u32) {
        let now = self.now;
        let key = match node {
            Node::Client(number) => self.clients[number].host.as_ref().map(ClientHost::public_key),
            Node::Gateway(number) => {
                self.gateways[number].host.as_ref().map(GatewayHost::public_key)
            }
            Node::Stun | Node::Relay(_) => None,
        };
        let can_connect =
            self.portal_is_up && !self.is_down(node) && !self.internet.addresses(node).is_empty();
        let Some(wire) = self.wires.get_mut(&node) else { return };
        let (Some(key), false) = (key, wire.is_connected || wire.generation != generation) else {
            return;
        };
        if !can_connect {
            let pause = self.random.duration(ms(100), ms(1000));
            return self.schedule(now + pause, Happening::Join(node, generation));
        }
        let held = wire.connect();
        self.trace.note(now, &[7, number_of(node)], || format!("{node:?} joins"));
        for message in held {
            self.apply(node, vec![Effect::Portal(message)]);
        }
        if self.wires.values().all(|wire| wire.is_connected) {
            self.complete_since = Some(now);
        }
        self.portal.join(node, key, now);
        self.post();
        self.prolong(node);
        self.tell();
    }
}
