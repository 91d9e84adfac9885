//! What is answered, and how much of it strangers get.

use std::collections::VecDeque;
use std::time::Instant;

use connlib_stun::Attribute;

use super::counters::{Counters, Drop};
use super::limits::Limits;
use super::output::{FiveTuple, Output};
use super::response::{Header, Response, Signature};
use super::strangers::Strangers;

/// Responses that wait to be sent at most. Clients repeat what is not answered.
const MAX_WAITING: usize = 8192;

/// To whom a response goes.
#[derive(Clone, Copy)]
pub(crate) enum Trust {
    /// Anybody, who may not even be where the request says it came from.
    Stranger(Option<Signature>),
    /// Somebody who receives there and knows a password.
    Known(Signature),
}

/// The outputs of a server, and the counters.
pub(crate) struct Responder {
    outputs: VecDeque<Output>,
    waiting: usize,
    pub(crate) counters: Counters,
    software: String,
    any: Strangers,
    longer: Strangers,
}

impl Responder {
    pub(crate) fn new(software: String, limits: &Limits, hash_seed: u64, now: Instant) -> Self {
        Self {
            outputs: VecDeque::new(),
            waiting: 0,
            counters: Counters::default(),
            software,
            any: Strangers::new(limits.unauthenticated, hash_seed, now),
            longer: Strangers::new(limits.unauthenticated_longer, hash_seed, now),
        }
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Send { .. }) = output {
            self.waiting -= 1;
        }
        output
    }

    pub(crate) fn drop(&mut self, reason: Drop) {
        self.counters.count_drop(reason);
    }

    /// Finishes a response and sends it.
    ///
    /// A stranger gets no more responses than its network may have, and only few that are longer
    /// than the request: those of 20 or 28 bytes, as WebRTC sends them first, can't be answered by
    /// less. Then 20 bytes bring 32 (44 over IPv6) and 28 bring 60: with the headers of IP and UDP
    /// no more than 1.6 times as much.
    pub(crate) fn respond(
        &mut self,
        client: FiveTuple,
        header: &Header,
        mut response: Response,
        trust: Trust,
        now: Instant,
    ) {
        let signature = match &trust {
            Trust::Stranger(signature) => signature.as_ref(),
            Trust::Known(signature) => Some(signature),
        };
        let tail = signature.map_or(0, Signature::len) + if header.has_fingerprint { 8 } else { 0 };
        let software = 4 + self.software.len().next_multiple_of(4);
        // A stream's client receives where it says, or there would be no stream.
        let is_free = matches!(trust, Trust::Known(_)) || client.transport.is_stream();

        if !self.software.is_empty() && (is_free || response.len() + software + tail <= header.len)
        {
            response = response.attribute(Attribute::SOFTWARE, self.software.as_bytes());
        }
        let is_longer = response.len() + tail > header.len;
        let source = client.remote.ip();
        if !is_free
            && !(self.any.take(source, now) && (!is_longer || self.longer.take(source, now)))
        {
            return self.drop(Drop::SourceLimit);
        }
        if self.waiting >= MAX_WAITING {
            return self.drop(Drop::Backlog);
        }
        self.counters.count_response(header.method, response.code);
        self.waiting += 1;
        let bytes = response.finish(signature, header.has_fingerprint);
        self.push(Output::Send { client, bytes });
    }
}
