//! Reading and writing packets.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::OwnedFd;

use connlib_packet::{Coalesce, Offload, SegmentationKind, VIRTIO_HEADER, Write};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::TunError;
use super::node;
use super::offloads::Offloads;
use crate::readiness;

/// Size in bytes of a buffer that any packet or super-packet fits into: an IPv6 header and the longest payload.
pub const READ_BUFFER: usize = 40 + 65_535;

/// Packets that one write can join, and their head.
const MAX_PIECES: usize = 1 + 64;

/// What stands before each packet on the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    Bare,
    /// A virtio header (`IFF_VNET_HDR`), with these offloads in use.
    Virtio(Offloads),
}

/// A TUN device. The interface goes away with it, unless somebody else has made it.
#[derive(Debug)]
pub struct Tun {
    io: AsyncFd<File>,
    framing: Framing,
    coalesce: Coalesce,
}

impl Tun {
    /// Attaches to the interface `name`, which is made if it does not exist, and turns on as much of the `wanted`
    /// offloads as the kernel knows.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub fn open(name: &str, wanted: Offloads) -> Result<Self, TunError> {
        let file = node::open()?;
        node::attach(&file, name)?;
        let offloads = Offloads::negotiate(&file, wanted)?;
        Self::watch(file, Framing::Virtio(offloads))
    }

    /// Takes over a descriptor that somebody else has opened, and makes it non-blocking.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub fn from_fd(fd: OwnedFd, framing: Framing) -> Result<Self, TunError> {
        let unblock = || -> nix::Result<()> {
            let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
            fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            Ok(())
        };
        unblock()
            .map_err(|error| TunError::at("make the descriptor non-blocking")(error.into()))?;
        Self::watch(fd.into(), framing)
    }

    fn watch(file: File, framing: Framing) -> Result<Self, TunError> {
        let io = readiness::register(file).map_err(TunError::at("watch the descriptor"))?;
        let coalesce = match framing {
            Framing::Bare => Coalesce { tcp: false, udp: false },
            Framing::Virtio(offloads) => Coalesce { tcp: offloads.tcp, udp: offloads.udp },
        };
        Ok(Self { io, framing, coalesce })
    }

    /// What stands before each packet, and which offloads are in use.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// What may be coalesced in packets to be written. Shrinks for good if the kernel refuses a super-packet: to be asked
    /// before each batch.
    pub fn coalesce(&self) -> Coalesce {
        self.coalesce
    }

    /// Waits until a packet may have arrived.
    ///
    /// # Errors
    ///
    /// `NotConnected` if somebody has deleted the interface; others if the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        let ready = self.io.ready(Interest::READABLE | Interest::ERROR).await?.ready();
        // A deleted interface is all that makes a TUN device report an error, and it is not readable then.
        if ready.is_error() { Err(deleted()) } else { Ok(()) }
    }

    /// Waits until a packet may be written again, after [`write`](Self::write) said `WouldBlock`.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    pub async fn writable(&self) -> io::Result<()> {
        self.io.writable().await.map(drop)
    }

    /// Reads one packet or super-packet into `buffer`, which should hold [`READ_BUFFER`] bytes. Returns what is left to
    /// do before it can travel, and its length in bytes.
    ///
    /// # Errors
    ///
    /// - `WouldBlock`: there is none, [wait](Self::readable).
    /// - `InvalidData`: this packet does not fit or has an unknown kind of header, and is lost.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<(Offload, usize)> {
        let framing = self.framing;
        self.io
            .try_io(Interest::READABLE, |file| match framing {
                Framing::Bare => read_bare(file, buffer),
                Framing::Virtio(_) => read_virtio(file, buffer),
            })
            .map_err(explain)
    }

    /// Writes one packet or super-packet. Packets of a super-packet that the kernel refuses are written one by one.
    ///
    /// # Errors
    ///
    /// As [`write_packet`](Self::write_packet).
    pub fn write(&mut self, write: &Write<'_>) -> io::Result<()> {
        if !write.is_super_packet() {
            return write.packets().try_for_each(|packet| self.write_packet(packet));
        }
        match self.write_whole(write) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.stop_coalescing(write.head());
                write.packets().try_for_each(|packet| self.write_packet(packet))
            }
            result => result.map_err(explain),
        }
    }

    /// Writes one complete packet.
    ///
    /// # Errors
    ///
    /// - `WouldBlock`: [wait](Self::writable), then write it again.
    /// - `NotConnected`: somebody has deleted the interface.
    /// - Everything else means that this packet is lost, such as `EIO` because the interface is not up (yet), or `EINVAL`
    ///   because it is no IP packet.
    pub fn write_packet(&mut self, packet: &[u8]) -> io::Result<()> {
        let header = &Offload::NONE.encode(0);
        match self.framing {
            Framing::Bare => self.write_parts(&[IoSlice::new(packet)]),
            Framing::Virtio(_) => self.write_parts(&[IoSlice::new(header), IoSlice::new(packet)]),
        }
        .map_err(explain)
    }

    fn write_whole(&self, write: &Write<'_>) -> io::Result<()> {
        // What does not fit here is no super-packet that kernels take.
        let refused = || io::Error::from_raw_os_error(libc::EINVAL);
        if self.framing == Framing::Bare {
            return Err(refused());
        }
        let mut parts = [IoSlice::new(&[]); MAX_PIECES];
        parts[0] = IoSlice::new(write.head());
        let mut count = 1;
        for piece in write.pieces() {
            *parts.get_mut(count).ok_or_else(refused)? = IoSlice::new(piece);
            count += 1;
        }
        self.write_parts(&parts[..count])
    }

    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        readiness::write_now(&self.io, |mut file| file.write_vectored(parts)).map(drop)
    }

    /// Some kernels take super-packets of a kind that others refuse, whatever they say beforehand.
    fn stop_coalescing(&mut self, head: &[u8]) {
        let kind = head
            .first_chunk()
            .and_then(|header| Offload::decode(header).ok()?.segmentation)
            .map(|segmentation| segmentation.kind);
        match kind {
            Some(SegmentationKind::Udp) => self.coalesce.udp = false,
            _ => self.coalesce.tcp = false,
        }
        tracing::info!(?kind, "The kernel refuses coalesced packets, going on without");
    }
}

fn read_bare(mut file: &File, buffer: &mut [u8]) -> io::Result<(Offload, usize)> {
    match file.read(buffer)? {
        0 => Err(deleted()),
        len => Ok((Offload::NONE, len)),
    }
}

fn read_virtio(mut file: &File, buffer: &mut [u8]) -> io::Result<(Offload, usize)> {
    let mut header = [0; VIRTIO_HEADER];
    let room = buffer.len();
    let len = file.read_vectored(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)])?;
    if len == 0 {
        return Err(deleted());
    }
    let invalid = |message| io::Error::new(io::ErrorKind::InvalidData, message);
    let len = len.checked_sub(VIRTIO_HEADER).ok_or_else(|| invalid("no virtio header"))?;
    if len > room {
        return Err(invalid("packet above the size of the buffer"));
    }
    let offload = Offload::decode(&header).map_err(|_| invalid("unknown virtio header"))?;
    Ok((offload, len))
}

/// The kernel says "bad descriptor" or "bad address" when the interface is gone.
fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBADFD | libc::EFAULT) => deleted(),
        _ => error,
    }
}

fn deleted() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the TUN interface has been deleted")
}
