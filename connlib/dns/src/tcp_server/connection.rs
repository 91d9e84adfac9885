//! One connection: queries out of it, answers into it.

use std::collections::VecDeque;
use std::time::Instant;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::Socket;

use crate::framing::Deframer;
use crate::query::MAX_QUERY_LEN;

/// A connection of an app.
pub(super) struct Connection {
    pub(super) socket: SocketHandle,
    deframer: Deframer,
    /// Queries that have not been answered.
    pub(super) pending: usize,
    /// Answers that the send buffer has no room for.
    pub(super) unsent: VecDeque<u8>,
    pub(super) last_active: Instant,
}

/// What an app sent.
pub(super) enum Received {
    Message(Vec<u8>),
    Nothing,
    Rubbish,
}

impl Connection {
    pub(super) fn new(socket: SocketHandle, now: Instant) -> Self {
        let deframer = Deframer::new(MAX_QUERY_LEN);
        Self { socket, deframer, pending: 0, unsent: VecDeque::new(), last_active: now }
    }

    pub(super) fn receive(&mut self, socket: &mut Socket<'_>) -> Received {
        // The buffer is a ring: a message may come in two pieces.
        while socket.can_recv() {
            let result = socket.recv(|bytes| {
                let mut rest = &*bytes;
                let message = self.deframer.next_message(&mut rest);
                (bytes.len() - rest.len(), message)
            });
            match result {
                Ok(Ok(Some(message))) => return Received::Message(message),
                Ok(Ok(None)) => {}
                Ok(Err(_)) => return Received::Rubbish,
                Err(_) => return Received::Nothing,
            }
        }
        Received::Nothing
    }

    /// Fills the send buffer; returns how many bytes went into it.
    pub(super) fn send(&mut self, socket: &mut Socket<'_>) -> usize {
        let mut total = 0;
        while socket.can_send() && !self.unsent.is_empty() {
            let (piece, _) = self.unsent.as_slices();
            let Ok(sent) = socket.send_slice(piece) else { break };
            self.unsent.drain(..sent);
            total += sent;
        }
        total
    }
}
