//! What somebody has put on the wire, and whether its checksums are right.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, anyhow};
use etherparse::{Ipv4Slice, Ipv6Slice, NetSlice, SlicedPacket, TransportSlice, UdpSlice};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
        sockopt::RcvBufForce,
    },
};

use crate::Namespace;

const BUFFER: usize = 64 << 20;
const LARGEST_FRAME: usize = 1 << 16;
/// How often it is looked whether that was all, in milliseconds.
const PAUSE: u16 = 20;
/// More than these say nothing new.
const MAX_COMPLAINTS: usize = 10;

/// Listens to all interfaces of a namespace. That must be one where frames have their final checksums: behind a device that
/// computes none for others, such as those of a [`Wire`](crate::wire::Wire), or one whose offloads are off.
#[derive(Debug)]
pub struct Capture {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Seen>>,
}

/// UDP datagrams from the addresses that were listened for. One that crosses several interfaces counts several times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// All of them.
    pub datagrams: usize,
    /// With an odd number of bytes.
    pub odd: usize,
    /// Without any payload.
    pub empty: usize,
    /// Whose checksum is 0xffff: the one that stands for zero.
    pub all_ones: usize,
    /// Without a checksum, as IPv4 has it.
    pub without: usize,
    /// What is wrong, and with which packet.
    pub wrong: Vec<String>,
}

impl Capture {
    /// Listens from now on to what comes from these addresses.
    pub fn start(namespace: &Namespace, from: &[IpAddr]) -> Result<Self> {
        let open = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, all)?;
            setsockopt(&socket, RcvBufForce, &BUFFER)?;
            Ok(socket)
        };
        let socket = namespace.enter(open)?.context("cannot listen to an interface")?;
        let (is_over, from) = (Arc::new(AtomicBool::new(false)), from.to_vec());
        let thread = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || listen(&socket, &from, &is_over)
        });
        Ok(Self { is_over, thread })
    }

    /// Ends it, with all that was on the wire by now.
    pub fn stop(self) -> Result<Seen> {
        self.is_over.store(true, Ordering::Relaxed);
        let seen = self.thread.join().map_err(|_| anyhow!("the capture has panicked"))?;
        seen.context("cannot read frames")
    }
}

fn listen(socket: &OwnedFd, from: &[IpAddr], is_over: &AtomicBool) -> io::Result<Seen> {
    use std::os::fd::AsFd as _;

    let mut seen = Seen::default();
    let mut frame = vec![0; LARGEST_FRAME];
    loop {
        // Before the frames are looked for, so that none that is there stays behind.
        let is_last = is_over.load(Ordering::Relaxed);
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PAUSE)?;
        loop {
            match recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => seen.add(&frame[..length], from),
                Err(Errno::EAGAIN) => break,
                // An interface that goes down tells whoever listens.
                Err(Errno::ENETDOWN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if is_last {
            return Ok(seen);
        }
    }
}

impl Seen {
    fn add(&mut self, frame: &[u8], from: &[IpAddr]) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
        let udp = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => Some(udp),
            _ => None,
        };
        let right = match &packet.net {
            Some(NetSlice::Ipv4(ip)) if from.contains(&ip.header().source_addr().into()) => {
                let header = ip.header().to_header();
                if header.header_checksum != header.calc_header_checksum() {
                    self.complain("header checksum", frame);
                }
                udp.map(|udp| (udp, right_over_ipv4(ip, udp)))
            }
            Some(NetSlice::Ipv6(ip)) if from.contains(&ip.header().source_addr().into()) => {
                udp.map(|udp| (udp, right_over_ipv6(ip, udp)))
            }
            _ => None,
        };
        let Some((udp, right)) = right else { return };
        let is_v6 = matches!(packet.net, Some(NetSlice::Ipv6(_)));
        self.datagrams += 1;
        self.odd += udp.payload().len() % 2;
        self.empty += usize::from(udp.payload().is_empty());
        match udp.checksum() {
            0 if !is_v6 => self.without += 1,
            checksum if checksum == right => self.all_ones += usize::from(checksum == 0xffff),
            _ => self.complain("UDP checksum", frame),
        }
    }

    fn complain(&mut self, what: &str, frame: &[u8]) {
        if self.wrong.len() < MAX_COMPLAINTS {
            self.wrong.push(format!("{what}: {frame:02x?}"));
        }
    }
}

/// The checksum that a datagram should have.
fn right_over_ipv4(ip: &Ipv4Slice<'_>, udp: &UdpSlice<'_>) -> u16 {
    let (source, destination) = (ip.header().source(), ip.header().destination());
    let sum = udp.to_header().calc_checksum_ipv4_raw(source, destination, udp.payload());
    sum.unwrap_or_default()
}

fn right_over_ipv6(ip: &Ipv6Slice<'_>, udp: &UdpSlice<'_>) -> u16 {
    let (source, destination) = (ip.header().source(), ip.header().destination());
    let sum = udp.to_header().calc_checksum_ipv6_raw(source, destination, udp.payload());
    sum.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const FROM: [u8; 4] = [203, 0, 113, 5];
    const FROM6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];

    fn frames(payload: &[u8]) -> [Vec<u8>; 2] {
        let [mut v4, mut v6] = [Vec::new(), Vec::new()];
        let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        ethernet().ipv4(FROM, [9; 4], 64).udp(1, 2).write(&mut v4, payload).unwrap();
        ethernet().ipv6(FROM6, [9; 16], 64).udp(1, 2).write(&mut v6, payload).unwrap();
        [v4, v6]
    }

    fn look_at(frame: &[u8]) -> Seen {
        let mut seen = Seen::default();
        seen.add(frame, &[FROM.into(), FROM6.into()]);
        seen
    }

    #[test]
    fn each_damage_is_seen() {
        for (start, frame) in [(14, &frames(b"odd")[0]), (14 + 40, &frames(b"odd")[1])] {
            let seen = look_at(frame);
            assert_eq!((seen.datagrams, seen.odd, seen.wrong.as_slice()), (1, 1, &[][..]));
            // Without the bytes that would make it somebody else's.
            for at in (start..frame.len()).filter(|at| !(14 + 9..14 + 16).contains(at)) {
                let mut damaged = frame.clone();
                damaged[at] ^= 0x10;
                let seen = look_at(&damaged);
                assert!(!seen.wrong.is_empty() || seen.datagrams == 0, "{at}: {seen:?}");
            }
        }
    }

    #[test]
    fn only_ipv4_does_without_checksums() {
        let [mut v4, mut v6] = frames(b"");
        v4[14 + 20 + 6..14 + 28].fill(0);
        v6[14 + 40 + 6..14 + 48].fill(0);
        assert_eq!(look_at(&v4), Seen { datagrams: 1, empty: 1, without: 1, ..Seen::default() });
        assert_eq!(look_at(&v6).wrong.len(), 1);
    }
}
