//! What waits to be written to one connection.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::mpsc;

/// Bytes that may wait. A peer that is behind that much is dropped; the largest `init` fits.
const MAX_WAITING: usize = 8 << 20;

/// In place of the bytes that wait.
const ABORTED: usize = usize::MAX;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Item {
    Text(String),
    Ping,
    /// The last one. With this code (RFC 6455 §7.4).
    Close(u16),
}

/// The hub's end.
#[derive(Debug)]
pub(super) struct Outbox {
    items: mpsc::UnboundedSender<Item>,
    waiting: Rc<Cell<usize>>,
}

/// The connection's end.
#[derive(Debug)]
pub(super) struct Inlet {
    items: mpsc::UnboundedReceiver<Item>,
    waiting: Rc<Cell<usize>>,
}

/// The peer does not read what it is sent.
#[derive(Debug)]
pub(super) struct Full;

pub(super) fn new() -> (Outbox, Inlet) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Rc::new(Cell::new(0));
    (Outbox { items: sender, waiting: waiting.clone() }, Inlet { items: receiver, waiting })
}

impl Outbox {
    pub(super) fn push(&self, item: Item) -> Result<(), Full> {
        let waiting = self.waiting.get().saturating_add(item.size());
        if waiting > MAX_WAITING {
            return Err(Full);
        }
        self.waiting.set(waiting);
        // If the other end is gone, its task is about to say so.
        let _ = self.items.send(item);
        Ok(())
    }

    /// What waits is not to be written any more.
    pub(super) fn abort(&self) {
        self.waiting.set(ABORTED);
    }
}

impl Inlet {
    /// The next item; `None` once the outbox is gone and all is taken, or none of it matters.
    pub(super) async fn next(&mut self) -> Option<Item> {
        let item = self.items.recv().await?;
        if self.waiting.get() == ABORTED {
            return None;
        }
        self.waiting.set(self.waiting.get().saturating_sub(item.size()));
        Some(item)
    }
}

impl Item {
    fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(text) => text.len(),
                Self::Ping | Self::Close(_) => 0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_too_far_behind_is_found_out() {
        let (outbox, mut inlet) = new();
        let text = || Item::Text("x".repeat(MAX_WAITING / 2 - 100));
        outbox.push(text()).unwrap();
        outbox.push(text()).unwrap();
        assert!(outbox.push(text()).is_err());
        inlet.next().await.unwrap();
        outbox.push(text()).unwrap();
        outbox.abort();
        assert!(inlet.next().await.is_none());
    }
}
