//! Packets on their way to applications.

use connlib_net::tun::Tun;
use connlib_packet::{PacketBatch, Scratch};

/// One full run of received datagrams and some.
const BATCH_BYTES: usize = 160 * 1024;
const BATCH_PACKETS: usize = 512;

/// The TUN device, if there is one yet, and what is to be written to it.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) tun: Option<Tun>,
    pub(super) batch: PacketBatch,
    scratch: Scratch,
    /// Packets that the device did not take.
    pub(super) not_delivered: u64,
}

impl Device {
    pub(super) fn new() -> Self {
        Self {
            tun: None,
            batch: PacketBatch::new(BATCH_BYTES, BATCH_PACKETS),
            scratch: Scratch::default(),
            not_delivered: 0,
        }
    }

    /// Whether the batch should be delivered before more comes.
    pub(super) fn is_half_full(&self) -> bool {
        self.batch.len() >= BATCH_PACKETS / 2
    }

    /// Hands the batch to the device, packets of one flow joined.
    pub(super) fn deliver(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Some(tun) = &mut self.tun {
            for write in self.batch.coalesce(tun.coalesce(), &mut self.scratch).iter() {
                if let Err(e) = tun.write(&write) {
                    self.not_delivered += 1;
                    tracing::trace!(error = %e, "the TUN device did not take a packet");
                }
            }
        }
        self.batch.clear();
    }

    /// Hands one packet of our own to applications.
    pub(super) fn deliver_packet(&mut self, packet: &[u8]) {
        if let Some(tun) = &mut self.tun
            && let Err(e) = tun.write_packet(packet)
        {
            self.not_delivered += 1;
            tracing::debug!(error = %e, "the TUN device did not take a packet of ours");
        }
    }
}
