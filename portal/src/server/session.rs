//! One WebSocket connection: frames in, frames out, nothing decided.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::Stream;
use super::outbox::{Inlet, Item};
use super::portal::Portal;
use crate::hub::ConnectionId;

/// Bytes of one message of a peer.
const MAX_MESSAGE: usize = 1 << 20;
/// How long one write may take before the peer counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long we wait for the other end's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a connection until either end is done with it.
pub(super) async fn run(
    portal: &Portal,
    id: ConnectionId,
    stream: Box<dyn Stream>,
    rest: Vec<u8>,
    mut inlet: Inlet,
) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut socket =
        WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config)).await;
    match exchange(portal, id, &mut socket, &mut inlet).await {
        Ok(()) => tracing::debug!(connection = %id, "connection ended"),
        Err(error) => tracing::debug!(connection = %id, %error, "connection broke"),
    }
    portal.disconnected(id);
}

async fn exchange(
    portal: &Portal,
    id: ConnectionId,
    socket: &mut WebSocketStream<Box<dyn Stream>>,
    inlet: &mut Inlet,
) -> Result<(), Error> {
    let mut budget = Budget::new(Instant::now());
    loop {
        tokio::select! {
            item = inlet.next() => match item {
                Some(Item::Text(text)) => write(socket, Message::text(text)).await?,
                Some(Item::Ping) => write(socket, Message::Ping(Bytes::new())).await?,
                Some(Item::Close(code)) => return close(socket, code).await,
                None => return Ok(()),
            },
            // A peer that says too much is read more slowly; TCP tells it.
            message = async { sleep_until(budget.ready_at).await; socket.next().await } => {
                let Some(message) = message.transpose()? else { return Ok(()) };
                budget.spend(message.len(), Instant::now());
                match message {
                    Message::Text(text) => portal.text(id, &text),
                    // The answer to a close frame is written by the library.
                    Message::Close(_) => return socket.flush().await,
                    _ => portal.alive(id),
                }
            }
        }
    }
}

async fn write(
    socket: &mut WebSocketStream<Box<dyn Stream>>,
    message: Message,
) -> Result<(), Error> {
    let timed_out = || Error::Io(std::io::ErrorKind::TimedOut.into());
    timeout(WRITE_TIMEOUT, socket.send(message)).await.map_err(|_| timed_out())?
}

async fn close(socket: &mut WebSocketStream<Box<dyn Stream>>, code: u16) -> Result<(), Error> {
    let frame = CloseFrame { code: code.into(), reason: "".into() };
    write(socket, Message::Close(Some(frame))).await?;
    // Whoever closes with unread data behind loses what it wrote last.
    let read_all = async { while socket.next().await.is_some_and(|m| m.is_ok()) {} };
    let _ = timeout(CLOSE_TIMEOUT, read_all).await;
    Ok(())
}

/// How much a peer may say: a token bucket, counted in time.
#[derive(Debug)]
struct Budget {
    full_at: Instant,
    ready_at: Instant,
}

impl Budget {
    /// What a message costs at least, and each 4 KiB of it.
    const COST: Duration = Duration::from_millis(20);
    const SIZE_STEP: usize = 4096;
    /// What may be spent at once: 200 messages.
    const BURST: Duration = Duration::from_secs(4);

    fn new(now: Instant) -> Self {
        Self { full_at: now, ready_at: now }
    }

    fn spend(&mut self, size: usize, now: Instant) {
        let steps = u32::try_from(1 + size / Self::SIZE_STEP).unwrap_or(u32::MAX);
        self.full_at = self.full_at.max(now) + Self::COST * steps;
        self.ready_at = self.full_at.checked_sub(Self::BURST).unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_messages_pass_at_once_then_fifty_a_second() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut budget = Budget::new(now);
        for _ in 0..200 {
            assert!(budget.ready_at <= now);
            budget.spend(100, now);
        }
        assert!(budget.ready_at <= now);
        budget.spend(100, now);
        assert_eq!(budget.ready_at, now + Duration::from_millis(20));
        budget.spend(1 << 20, now);
        assert!(budget.ready_at > now + Duration::from_secs(5));
        budget.spend(100, now + Duration::from_secs(60));
        assert!(budget.ready_at <= now + Duration::from_secs(60));
    }
}
