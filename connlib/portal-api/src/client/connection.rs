//! A connection that stands: the socket and its channel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{self, Message};

use super::ConnectionError;
use super::connect::Socket;
use crate::channel::{Channel, Closed, Event, InvalidFrame, Output};

/// A connection from the upgrade to its end.
pub(super) struct Connection {
    socket: Socket,
    pub(super) channel: Channel,
    timer: Pin<Box<Sleep>>,
    wake_at: Instant,
    /// The socket has a frame that is not flushed yet.
    flushing: bool,
}

/// What happened on a connection.
pub(super) enum Step {
    Event(Event),
    /// A text that is no frame.
    Invalid(InvalidFrame),
    Closed(ConnectionError),
}

impl Connection {
    pub(super) fn new(socket: Socket, channel: Channel, now: Instant) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(now.into()));
        Self { socket, channel, timer, wake_at: now, flushing: false }
    }

    /// Moves everything forward until something happens.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            match self.channel.poll_output() {
                Output::Event(event) => return Poll::Ready(Step::Event(event)),
                Output::Closed(reason) => return closed(reason.into()),
                Output::Transmit(text) => {
                    // Only buffers: the last frame is flushed, else the channel would not give another one.
                    if let Err(error) = self.socket.start_send_unpin(Message::text(text)) {
                        return closed(broken(error));
                    }
                    self.flushing = true;
                    continue;
                }
                Output::Timeout(at) if at != self.wake_at => {
                    self.wake_at = at;
                    self.timer.as_mut().reset(at.into());
                }
                Output::Timeout(_) => {}
            }
            if self.flushing {
                match self.socket.poll_flush_unpin(cx) {
                    Poll::Ready(Ok(())) => {
                        self.flushing = false;
                        self.channel.handle_written();
                        continue;
                    }
                    Poll::Ready(Err(error)) => return closed(broken(error)),
                    Poll::Pending => {}
                }
            }
            match self.socket.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(Message::Text(text)))) => {
                    let now = tokio::time::Instant::now().into_std();
                    if let Err(error) = self.channel.handle_text(&text, now) {
                        return Poll::Ready(Step::Invalid(error));
                    }
                    continue;
                }
                Poll::Ready(Some(Ok(Message::Close(_)))) => {
                    // Sends the answer to it if that takes no waiting.
                    let _ = self.socket.poll_flush_unpin(cx);
                    return closed(Closed::ByPortal.into());
                }
                // Pings are answered by the socket; the portal sends nothing binary.
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(error))) => return closed(broken(error)),
                Poll::Ready(None) => return closed(Closed::ByPortal.into()),
                Poll::Pending => {}
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.channel.handle_timeout(tokio::time::Instant::now().into_std());
        }
    }
}

fn closed(error: ConnectionError) -> Poll<Step> {
    Poll::Ready(Step::Closed(error))
}

fn broken(error: tungstenite::Error) -> ConnectionError {
    ConnectionError::Broken(match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    })
}
