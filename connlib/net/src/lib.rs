//! The operating system: the only crate of the workspace that makes system calls.
//!
//! It moves bytes and settings and never knows a resource. Packets:
//!
//! - [`tun`]: the TUN device, read and written in super-packets;
//! - [`udp`]: the outer sockets, with segmentation offload, ECN and local addresses, and the host's own addresses.
//!
//! Settings of Linux, each put back at the end and after a crash:
//!
//! - [`netlink`]: addresses of the TUN device, routes, and a client's rules for routing;
//! - [`nft`]: a gateway's masquerade and forwarding;
//! - [`dns_control`]: where the system sends its DNS queries.
//!
//! What the system says of itself:
//!
//! - [`events`]: changes of addresses, of the ways to the Internet and of DNS servers;
//! - [`resolvers`]: the DNS servers that the system would use without us.
//!
//! And [`ranges`]: the address ranges that it must know for all that; a [`timer`]; and when to [`retry`].
//!
//! Everything here belongs to one event loop: descriptors are non-blocking and registered with tokio, the loop waits
//! for readiness and then reads or writes until [`WouldBlock`](std::io::ErrorKind::WouldBlock).

#[cfg(target_os = "linux")]
mod mark;
mod readiness;

#[cfg(target_os = "linux")]
pub mod dns_control;
#[cfg(target_os = "linux")]
pub mod events;
#[cfg(target_os = "linux")]
pub mod netlink;
#[cfg(target_os = "linux")]
pub mod nft;
pub mod ranges;
#[cfg(target_os = "linux")]
pub mod resolvers;
pub mod retry;
mod tcp;
#[cfg(target_os = "linux")]
pub mod timer;
pub mod tun;
pub mod udp;

#[cfg(target_os = "linux")]
pub use mark::set_mark;
pub use tcp::prepare_for_datagrams;
