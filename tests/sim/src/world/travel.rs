//! What hosts want done, and datagrams on their way.

use std::net::{IpAddr, SocketAddr};

use super::{Happening, PORTAL_LATENCY, World, ms, number_of};
use crate::hosts::{self, Effect};
use crate::internet::{self, Datagram, Fate, Node};

impl World {
    pub(super) fn apply(&mut self, node: Node, effects: Vec<Effect>) {
        let now = self.now;
        for effect in effects {
            match (node, effect) {
                (_, Effect::Transmit(transmit, ecn, cargo)) => {
                    let connlib_link::Path { local, remote } = transmit.path;
                    let payload = transmit.payload;
                    self.initiations += u64::from(hosts::is_initiation(&payload));
                    if let Some(id) = self.stream_between(node, local, remote) {
                        self.say_or_hear(node, id, payload, cargo);
                        continue;
                    }
                    let fate = self.internet.send(node, local, remote, payload, ecn, cargo, now);
                    self.follow(fate, Happening::Backbone);
                }
                (_, Effect::Stream(request)) => self.handle_stream(node, request),
                (_, Effect::Portal(message)) => {
                    self.trace
                        .note(now, &[2, number_of(node)], || format!("{node:?} -> {message:?}"));
                    let at = now + PORTAL_LATENCY;
                    let wire = self.wires.entry(node).or_default();
                    wire.say(message, at);
                    let generation = wire.generation;
                    self.schedule(at, Happening::Wire(node, generation));
                }
                (Node::Client(number), Effect::Deliver(packet)) => self.receive(number, packet),
                (Node::Gateway(number), Effect::Deliver(packet)) => self.let_out(number, packet),
                (Node::Gateway(number), Effect::Resolve(id, name)) => {
                    let takes = self.random.duration(ms(1), ms(60));
                    let generation = self.gateways[number].generation;
                    self.trace
                        .note(now, &[3, number_of(node)], || format!("{node:?} resolves {name}"));
                    self.schedule(now + takes, Happening::Resolved(number, generation, id, name));
                }
                (Node::Client(number), Effect::Query(query)) => {
                    let takes = self.random.duration(ms(5), ms(60));
                    let generation = self.clients[number].generation;
                    let answered = Happening::Answered(number, generation, Box::new(query));
                    self.schedule(now + takes, answered);
                }
                (_, Effect::Note(note)) => {
                    self.trace.note(now, &[4, number_of(node)], || format!("{node:?}: {note}"));
                }
                (_, Effect::Violation(what)) => self.model.violations.push(what),
                (_, other) => self.model.violations.push(format!("{node:?}: {other:?}")),
            }
        }
    }

    /// A datagram goes on, or not.
    pub(super) fn follow(&mut self, fate: Fate, then: impl Fn(Datagram) -> Happening) {
        let now = self.now;
        let (datagram, code, what) = match &fate {
            Fate::Travels(at, datagram, _) => (datagram, (*at - now).as_nanos() as u64, "travels"),
            Fate::Lost(datagram) => (datagram, 1, "is lost"),
            Fate::Stopped(datagram, why) => (datagram, 2, *why),
        };
        let Datagram { source, destination, payload, .. } = datagram;
        let numbers =
            [5, code, hash(source), hash(destination), payload.len() as u64, payload[0].into()];
        self.trace.note(now, &numbers, || {
            let kind = hosts::kind(payload);
            format!("{source} -> {destination} {kind} of {} {what}", payload.len())
        });
        match fate {
            Fate::Travels(at, datagram, copy) => {
                if let Some(copy) = copy {
                    self.schedule(copy, then(datagram.clone()));
                }
                self.schedule(at, then(datagram));
            }
            Fate::Lost(datagram) if hosts::is_data(&datagram.payload) => {
                let client = match datagram.on_line_of() {
                    Node::Client(number) => Some(number),
                    _ => None,
                };
                self.model.lose(datagram.cargo, client);
            }
            Fate::Lost(_) | Fate::Stopped(..) => {}
        }
    }

    pub(super) fn arrive(&mut self, datagram: &Datagram) {
        let now = self.now;
        match self.internet.receiver(datagram) {
            Some(Node::Stun) => {
                if let Some(answer) = internet::stun::answer(&datagram.payload, datagram.source) {
                    let (local, remote) = (Some(datagram.destination), datagram.source);
                    let ecn = connlib_packet::Ecn::NotEct;
                    let fate =
                        self.internet.send(Node::Stun, local, remote, answer, ecn, None, now);
                    self.follow(fate, Happening::Backbone);
                }
            }
            Some(node) => self.deliver(node, datagram),
            None => {}
        }
    }
}

/// A number that stands for an address in traces.
fn hash(address: &SocketAddr) -> u64 {
    let bits = match address.ip() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 64) as u64 ^ bits as u64
        }
    };
    bits.rotate_left(16) ^ u64::from(address.port())
}
