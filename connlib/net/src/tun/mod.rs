//! The TUN device: the packets of this host's applications, in super-packets where the kernel can.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use connlib_net::tun::{LinkSettings, Offloads, READ_BUFFER, Tun};
//! use connlib_packet::TunPacket;
//!
//! let mut tun = Tun::open("tun-firezone", Offloads::ALL)?;
//! LinkSettings::default().apply("tun-firezone")?;
//! let mut buffer = vec![0; READ_BUFFER];
//! loop {
//!     tun.readable().await?;
//!     while let Ok((offload, len)) = tun.read(&mut buffer) {
//!         let packet = TunPacket::parse(&mut buffer[..len], offload)?;
//!         println!("{} -> {}", packet.headers().source(), packet.headers().destination());
//!     }
//! }
//! # }
//! ```

mod device;
mod error;
mod link;
mod node;
mod offloads;

pub use device::{Framing, READ_BUFFER, Tun};
pub use error::TunError;
pub use link::LinkSettings;
pub use offloads::Offloads;
