//! The outer UDP sockets and the addresses of the host.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use connlib_net::udp::{Options, RECEIVE_BUFFER, Transmit, UdpSockets};
//!
//! let mut sockets = UdpSockets::bind(Options::default())?;
//! let mut buffer = vec![0; RECEIVE_BUFFER];
//! loop {
//!     sockets.readable().await?;
//!     while let Ok(run) = sockets.recv(&mut buffer) {
//!         let (remote, ecn) = (run.remote, run.ecn);
//!         for datagram in run.datagrams() {
//!             println!("{} bytes from {remote}, ECN {ecn}", datagram.len());
//!         }
//!     }
//!     let mut transmit = Transmit {
//!         source: None,
//!         destination: "192.0.2.1:3478".parse()?,
//!         ecn: 0,
//!         segment_size: Some(1200),
//!         contents: &[0; 3000],
//!     };
//!     while let Err(error) = sockets.send(&mut transmit) {
//!         if error.kind() != std::io::ErrorKind::WouldBlock {
//!             break; // Lost, like a datagram on the way: count it.
//!         }
//!         sockets.writable(transmit.destination).await?;
//!     }
//! }
//! # }
//! ```
//!
//! Why not `quinn-udp`: one `EINVAL` makes it give up both segmentation offload and ECN for the life of the socket, and
//! a candidate with port 0, or a source address that roaming took away, is enough for that; it sets "don't fragment", so
//! that nothing of 1316 bytes passes a path with an IPv6 MTU of 1280; and it turns on kernel timestamps for each packet.

mod control;
mod interfaces;
mod message;
mod refusals;
mod socket;
mod sockets;

pub use interfaces::{MAX_INTERFACE_ADDRESSES, interfaces};
pub use message::Run;
pub use socket::{SocketError, Transmit};
pub use sockets::{BindError, Options, PREFERRED_PORT, RECEIVE_BUFFER, UdpSockets};
