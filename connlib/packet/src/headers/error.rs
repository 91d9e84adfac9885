//! Why bytes are no packet.

/// Why bytes are not a packet that can be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// The bytes end inside a header.
    #[error("truncated header")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("unknown IP version")]
    Version,
    /// A header claims an impossible length of its own.
    #[error("bad header length")]
    HeaderLength,
    /// The length in the IP header is not the number of bytes.
    #[error("IP length and number of bytes differ")]
    TotalLength,
    /// The length in the UDP header is not what is left of the packet.
    #[error("UDP length and number of bytes differ")]
    UdpLength,
    /// A fragment of a larger packet. Atomic fragments of IPv6 (RFC 6946) are whole packets and pass.
    #[error("fragment")]
    Fragment,
    /// A packet that wants to go somewhere else than its destination address says: IPv4 source routes
    /// (RFC 7126 §4.3) and IPv6 routing headers with segments left (RFC 5095).
    #[error("source-routed")]
    SourceRouted,
    /// ICMP inside IPv6 or ICMPv6 inside IPv4.
    #[error("ICMP of the other IP version")]
    IcmpVersion,
    /// More IPv6 extension headers than any honest packet has.
    #[error("too many extension headers")]
    ExtensionHeaders,
    /// The offload information doesn't fit the packet.
    #[error("impossible offload information")]
    Offload,
    /// A super-packet of more segments than [`MAX_SEGMENTS`](crate::MAX_SEGMENTS).
    #[error("too many segments")]
    Segments,
}
