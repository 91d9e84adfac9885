//! Streams between hosts and relays.

use std::net::SocketAddr;
use std::time::Duration;

use connlib_link::{StreamRequest, StreamServer};

use super::{Happening, World, number_of};
use crate::internet::streams::{Arrival, StreamId, Streams, Word};
use crate::internet::{Datagram, Node};
use crate::model::ProbeId;

/// A relay finds out so late that a host is gone without a word.
const NOTICED: Duration = Duration::from_secs(60);

impl World {
    pub(super) fn handle_stream(&mut self, node: Node, request: StreamRequest) {
        let now = self.now;
        self.trace.note(now, &[15, number_of(node)], || format!("{node:?}: {request:?}"));
        match request {
            StreamRequest::Open(server) => {
                match self.streams.open(node, server, &self.internet, now) {
                    Some((id, at)) => self.schedule(at, Happening::Stream(id)),
                    None => self.schedule(
                        now,
                        Happening::Meddle(Box::new(move |world| {
                            world.tell_of_stream(node, server);
                        })),
                    ),
                }
            }
            StreamRequest::Close(server) => {
                if let Some(id) = self.streams.wanted(node, server) {
                    self.leave_stream(id);
                }
            }
        }
    }

    /// The stream, if there is one, that a program sends by which sends from one of these addresses to the other.
    pub(super) fn stream_between(
        &self,
        node: Node,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Option<StreamId> {
        match (node, local?) {
            (Node::Relay(number), local) if Streams::owns(remote) => {
                self.streams.of_relay(number, local, remote)
            }
            (node, local) if Streams::owns(local) => self.streams.of_host(node, local, remote),
            _ => None,
        }
    }

    /// A program puts something into a stream.
    pub(super) fn say_or_hear(
        &mut self,
        node: Node,
        id: StreamId,
        payload: Vec<u8>,
        cargo: Option<ProbeId>,
    ) {
        match node {
            Node::Relay(_) => self.hear(id, payload, cargo),
            _ => self.say(id, payload, cargo),
        }
    }

    /// A host's program puts something into a stream.
    fn say(&mut self, id: StreamId, mut payload: Vec<u8>, cargo: Option<ProbeId>) {
        payload.resize(payload.len().next_multiple_of(4), 0);
        self.note_word(id, "says", payload.len());
        let word = Word::Message(payload, cargo);
        if let Some(at) = self.streams.say(id, word, &self.internet, self.now) {
            self.schedule(at, Happening::Stream(id));
        }
    }

    /// A relay's program puts something into a stream.
    fn hear(&mut self, id: StreamId, payload: Vec<u8>, cargo: Option<ProbeId>) {
        if !payload.len().is_multiple_of(4) {
            self.model.violations.push(format!("{} bytes in a stream", payload.len()));
        }
        self.note_word(id, "is to hear", payload.len());
        self.hear_word(id, Word::Message(payload, cargo));
    }

    /// Whatever is due at either end of a stream.
    pub(super) fn pump_stream(&mut self, id: StreamId) {
        let now = self.now;
        let Some(host) = self.streams.get(id).map(|stream| stream.host) else { return };
        let (arrivals, again) = self.streams.arrive(id, self.is_down(host), now);
        if let Some(at) = again {
            self.schedule(at, Happening::Stream(id));
        }
        for arrival in arrivals {
            match arrival {
                Arrival::ToRelay(word) => self.arrive_at_relay(id, word),
                Arrival::ToHost(word) => self.arrive_at_host(id, word),
            }
        }
        self.streams.bury(id);
    }

    fn arrive_at_relay(&mut self, id: StreamId, word: Word) {
        let now = self.now;
        let Some(stream) = self.streams.get(id) else { return };
        let (relay, client, is_served) = (stream.relay, stream.five_tuple(id), stream.is_served());
        match word {
            Word::Open if self.relays[relay].is_some() => {
                self.streams.serve(id);
                self.hear_word(id, Word::Open);
            }
            Word::Open => self.hear_word(id, Word::Close),
            Word::Message(payload, cargo) if is_served => {
                self.with_relay(relay, |host, out| {
                    host.handle_message(client, &payload, cargo, now, out);
                });
            }
            Word::Message(..) => {}
            Word::Close => self.notice(id),
        }
    }

    fn arrive_at_host(&mut self, id: StreamId, word: Word) {
        let now = self.now;
        let Some(stream) = self.streams.get(id).filter(|stream| stream.is_wanted()) else { return };
        let (host, server, local) = (stream.host, stream.server, stream.local);
        match word {
            Word::Open => {
                self.trace.note(now, &[16, id], || format!("{host:?}: {server:?} at {local}"));
                match host {
                    Node::Client(number) => self.with_client(number, |host, out| {
                        host.handle_stream_opened(server, local, now, out);
                    }),
                    Node::Gateway(number) => self.with_gateway(number, |host, out| {
                        host.handle_stream_opened(server, local, now, out);
                    }),
                    Node::Stun | Node::Relay(_) => {}
                }
            }
            Word::Message(payload, cargo) => {
                let datagram = stream.datagram(payload, cargo);
                self.deliver(host, &datagram);
            }
            Word::Close => {
                self.streams.leave_as_host(id);
                self.tell_of_stream(host, server);
            }
        }
    }

    /// A host's program takes what has come for it.
    pub(super) fn deliver(&mut self, node: Node, datagram: &Datagram) {
        let now = self.now;
        match node {
            Node::Client(number) => {
                self.with_client(number, |host, out| host.handle_datagram(datagram, now, out));
            }
            Node::Gateway(number) => {
                self.with_gateway(number, |host, out| host.handle_datagram(datagram, now, out));
            }
            Node::Relay(number) => {
                self.with_relay(number, |host, out| host.handle_datagram(datagram, now, out));
            }
            Node::Stun => {}
        }
    }

    /// A host's program is told that there is no stream.
    fn tell_of_stream(&mut self, node: Node, server: StreamServer) {
        let now = self.now;
        self.trace.note(now, &[17, number_of(node)], || format!("{node:?}: no {server:?}"));
        match node {
            Node::Client(number) => self.with_client(number, |host, out| {
                host.handle_stream_closed(server, now, out);
            }),
            Node::Gateway(number) => self.with_gateway(number, |host, out| {
                host.handle_stream_closed(server, now, out);
            }),
            Node::Stun | Node::Relay(_) => {}
        }
    }

    /// A relay's program is told that a stream is closed.
    fn notice(&mut self, id: StreamId) {
        if self.streams.leave_as_relay(id)
            && let Some(stream) = self.streams.get(id)
        {
            let (relay, client, now) = (stream.relay, stream.five_tuple(id), self.now);
            self.with_relay(relay, |host, out| host.handle_stream_closed(client, now, out));
        }
        self.streams.bury(id);
    }

    /// A host leaves a stream.
    fn leave_stream(&mut self, id: StreamId) {
        self.streams.leave_as_host(id);
        match self.streams.say(id, Word::Close, &self.internet, self.now) {
            Some(at) => self.schedule(at, Happening::Stream(id)),
            None => self.streams.bury(id),
        }
    }

    /// A host's program ends, and all of its streams with it.
    pub(super) fn leave_streams(&mut self, node: Node) {
        for id in self.streams.of_node(node) {
            if self.streams.get(id).is_some_and(|stream| stream.is_wanted()) {
                self.leave_stream(id);
            }
        }
    }

    /// A relay's program ends.
    pub(super) fn break_streams(&mut self, relay: usize) {
        for id in self.streams.of_node(Node::Relay(relay)) {
            if self.streams.leave_as_relay(id) {
                self.hear_word(id, Word::Close);
            }
        }
    }

    /// A host loses its addresses: its streams are dead, and nobody is told.
    pub(super) fn sever_streams(&mut self, node: Node) {
        for id in self.streams.of_node(node) {
            self.streams.sever(id);
            self.later(NOTICED, move |world| world.notice(id));
        }
    }

    /// Routers have forgotten a host's streams.
    pub(super) fn forget_streams(&mut self, node: Node) {
        for id in self.streams.of_node(node) {
            let is_routed = self.streams.get(id).is_some_and(|s| s.local.ip() != s.public.ip());
            if is_routed {
                self.streams.forget(id);
                self.later(NOTICED, move |world| world.notice(id));
            }
        }
    }

    /// How many streams a host has that it may use.
    pub fn streams(&self, node: Node) -> usize {
        let streams = self.streams.of_node(node).into_iter();
        let streams = streams.filter_map(|id| self.streams.get(id));
        streams.filter(|stream| stream.is_wanted() && stream.is_served()).count()
    }

    fn hear_word(&mut self, id: StreamId, word: Word) {
        if let Some(at) = self.streams.hear(id, word, &self.internet, self.now) {
            self.schedule(at, Happening::Stream(id));
        }
    }

    fn note_word(&mut self, id: StreamId, what: &str, len: usize) {
        self.trace.note(self.now, &[18, id, len as u64], || format!("stream {id} {what} {len}"));
    }
}
