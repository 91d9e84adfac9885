//! Where channels can bypass the workers.

use connlib_relay::server::{ChannelBinding, Families, Traffic};

/// A way for channel data below the sockets, such as an XDP program. Clones share it: every worker has one.
///
/// What it does not take comes to the workers, so it may lag behind, lose an entry or not be there at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct FastPath {}

/// What took the fast path since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FastPathCounters {
    pub(crate) to_peers: Traffic,
    pub(crate) to_clients: Traffic,
}

impl FastPath {
    /// This port is an allocation's from now on.
    pub(crate) fn add_port(&self, port: u16, families: Families) {
        tracing::trace!(port, ?families, "port opened");
    }

    /// This port is nobody's any more.
    pub(crate) fn remove_port(&self, port: u16, families: Families) {
        tracing::trace!(port, ?families, "port closed");
    }

    /// This channel stands from now on.
    pub(crate) fn bind(&self, binding: &ChannelBinding) {
        tracing::trace!(?binding, "channel bound");
    }

    /// This channel is gone.
    pub(crate) fn unbind(&self, binding: &ChannelBinding) {
        tracing::trace!(?binding, "channel unbound");
    }

    pub(crate) fn counters(&self) -> FastPathCounters {
        FastPathCounters::default()
    }
}
