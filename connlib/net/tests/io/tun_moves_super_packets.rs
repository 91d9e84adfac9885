//! Super-packets between the kernel's own TCP and UDP and a TUN device.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use crate::namespace::{add_addresses, in_namespace, within};
use connlib_net::tun::{Framing, LinkSettings, Offloads, READ_BUFFER, Tun};
use connlib_net::udp::{Options, RECEIVE_BUFFER, Transmit, UdpSockets};
use connlib_packet::build::{self, Tcp};
use connlib_packet::{
    Coalesce, Headers, Offload, PacketBatch, Scratch, SegmentationKind, TcpFlags, TunPacket,
};
use tokio::net::TcpListener;

/// This host's address and that of somebody behind the TUN device, for both families.
const ADDRESSES: [(&str, &str); 2] =
    [("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")];

const MTU: u16 = 1280;

fn open() -> Tun {
    let tun = Tun::open("tun0", Offloads::ALL).unwrap();
    set_up();
    tun
}

fn set_up() {
    LinkSettings::default().apply("tun0").unwrap();
    add_addresses("tun0", "198.51.100.1/24 2001:db8::1/64");
}

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n) as u8).collect()
}

/// The next packet to `remote`, in `buffer`. The kernel may have others on its mind.
async fn read(tun: &mut Tun, remote: SocketAddr, buffer: &mut [u8]) -> (Offload, usize) {
    within(async {
        loop {
            tun.readable().await.unwrap();
            match tun.read(buffer) {
                Ok((offload, length)) => {
                    let headers = Headers::parse(&buffer[..length]).unwrap();
                    if headers.destination_socket() == Some(remote) {
                        return (offload, length);
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    })
    .await
}

/// Cuts a packet, and checks each segment like somebody who receives it. Returns their payloads.
fn cut(bytes: &mut [u8], offload: Offload) -> Vec<Vec<u8>> {
    let mut segments = TunPacket::parse(bytes, offload).unwrap().segments(MTU).unwrap();
    let mut payloads = Vec::new();
    while let Some(segment) = segments.next_segment() {
        assert!(segment.len() <= MTU.into());
        let packet = TunPacket::parse(segment, Offload::NONE).unwrap();
        assert!(packet.is_intact());
        payloads.push(packet.payload().to_vec());
    }
    payloads
}

#[test]
fn a_big_udp_send_arrives_as_one_super_packet() {
    in_namespace(async || {
        let mut tun = open();
        let mut sockets = UdpSockets::bind(Options::default()).unwrap();
        let mut buffer = vec![0; READ_BUFFER];
        let contents = pattern(40 * 1200 + 7);
        for (_, remote) in ADDRESSES {
            let remote = address(remote, 9);
            let mut transmit = Transmit {
                source: None,
                destination: remote,
                ecn: 1,
                segment_size: Some(1200),
                contents: &contents,
            };
            sockets.send(&mut transmit).unwrap();
            let (offload, length) = read(&mut tun, remote, &mut buffer).await;
            assert_eq!(offload.segmentation.unwrap().kind, SegmentationKind::Udp);
            let packet = TunPacket::parse(&mut buffer[..length], offload).unwrap();
            assert_eq!(packet.headers().ecn().bits(), 1);
            let datagrams = cut(&mut buffer[..length], offload);
            assert_eq!(datagrams, contents.chunks(1200).collect::<Vec<_>>());
        }
    });
}

#[test]
fn without_offloads_packets_arrive_complete() {
    in_namespace(async || {
        let mut tun = Tun::open("tun0", Offloads::NONE).unwrap();
        set_up();
        let mut sockets = UdpSockets::bind(Options::default()).unwrap();
        let mut buffer = vec![0; READ_BUFFER];
        let contents = pattern(3 * 1200);
        for (_, remote) in ADDRESSES {
            let remote = address(remote, 9);
            let mut transmit = Transmit {
                source: None,
                destination: remote,
                ecn: 0,
                segment_size: Some(1200),
                contents: &contents,
            };
            sockets.send(&mut transmit).unwrap();
            for datagram in contents.chunks(1200) {
                let (offload, length) = read(&mut tun, remote, &mut buffer).await;
                assert_eq!(offload, Offload::NONE);
                assert_eq!(cut(&mut buffer[..length], offload), [datagram]);
            }
        }
    });
}

#[test]
fn a_coalesced_write_arrives_as_the_datagrams_it_was_made_of() {
    in_namespace(async || {
        let mut tun = open();
        let mut sockets = UdpSockets::bind(Options { port: 9, ..Options::default() }).unwrap();
        let contents = pattern(40 * 1200 + 7);
        let mut buffer = vec![0; RECEIVE_BUFFER];
        for (local, remote) in ADDRESSES {
            let (local, remote) = (address(local, 9), address(remote, 1));
            let batch = udp_batch(remote, local, &contents, 1200);
            let mut scratch = Scratch::default();
            let writes = batch.coalesce(tun.coalesce(), &mut scratch);
            assert_eq!(writes.len(), 1);
            writes.iter().for_each(|write| tun.write(&write).unwrap());

            let datagrams = within(async {
                loop {
                    sockets.readable().await.unwrap();
                    if let Ok(run) = sockets.recv(&mut buffer) {
                        assert_eq!((run.local, run.remote), (local, remote));
                        return run
                            .datagrams()
                            .map(|datagram| datagram.to_vec())
                            .collect::<Vec<_>>();
                    }
                }
            })
            .await;
            // In one piece: the kernel has not cut it either.
            assert_eq!(datagrams, contents.chunks(1200).collect::<Vec<_>>());
            assert!(tun.coalesce().udp);
        }
    });
}

#[test]
fn a_device_that_takes_no_super_packets_gets_single_ones() {
    in_namespace(async || {
        // As a platform would: without virtio header, and blocking.
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        attach_bare(&file, b"tun0");
        let mut tun = Tun::from_fd(file.into(), Framing::Bare).unwrap();
        set_up();
        assert!(!tun.coalesce().tcp && !tun.coalesce().udp);
        let mut buffer = vec![0; READ_BUFFER];
        assert_eq!(tun.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);

        let mut sockets = UdpSockets::bind(Options { port: 9, ..Options::default() }).unwrap();
        let contents = pattern(10 * 1200);
        let (local, remote) = (address("198.51.100.1", 9), address("198.51.100.2", 1));
        let batch = udp_batch(remote, local, &contents, 1200);
        let mut scratch = Scratch::default();
        let all = Coalesce { tcp: true, udp: true };
        // Whoever coalesces in spite of what the device says loses nothing.
        for what in [tun.coalesce(), all] {
            for write in batch.coalesce(what, &mut scratch).iter() {
                tun.write(&write).unwrap();
            }
            let mut received = Vec::new();
            while received.len() < contents.len() {
                within(sockets.readable()).await.unwrap();
                if let Ok(run) = sockets.recv(&mut buffer) {
                    received.extend_from_slice(run.bytes);
                }
            }
            assert_eq!(received, contents);
        }

        let mut transmit = Transmit {
            source: None,
            destination: remote,
            ecn: 0,
            segment_size: None,
            contents: b"hello",
        };
        sockets.send(&mut transmit).unwrap();
        let (offload, length) = read(&mut tun, remote, &mut buffer).await;
        assert_eq!(cut(&mut buffer[..length], offload), [b"hello"]);
    });
}

#[test]
fn tcp_flows_in_super_packets_both_ways() {
    in_namespace(async || {
        let mut tun = open();
        let mut buffer = vec![0; READ_BUFFER];
        for (local, remote) in ADDRESSES {
            let (local, remote) = (address(local, 80), address(remote, 4000));
            let kind = match local.ip() {
                IpAddr::V4(_) => SegmentationKind::Tcp4,
                IpAddr::V6(_) => SegmentationKind::Tcp6,
            };
            let listener = TcpListener::bind(local).await.unwrap();
            let mut peer =
                Peer { tun: &mut tun, local, remote, sequence: 1000, acknowledgement: 0 };
            peer.connect(&mut buffer).await;
            let (stream, _) = within(listener.accept()).await.unwrap();
            let mut stream = stream.into_std().unwrap();

            // Out: as much as the first congestion window allows leaves in one piece.
            let contents = pattern(100_000);
            assert!(stream.write(&contents).unwrap() > 10_000);
            let (offload, length) = read(peer.tun, remote, &mut buffer).await;
            assert_eq!(offload.segmentation.unwrap().kind, kind);
            assert!(length > 5000, "{length}");
            let sent = cut(&mut buffer[..length], offload).concat();
            assert_eq!(sent, contents[..sent.len()]);

            // In: forty segments in one write.
            let segments = peer.data(&contents[..40 * 1200], 1200);
            let mut scratch = Scratch::default();
            let writes = segments.coalesce(peer.tun.coalesce(), &mut scratch);
            assert_eq!(writes.len(), 1);
            writes.iter().for_each(|write| peer.tun.write(&write).unwrap());
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            let mut received = vec![0; 40 * 1200];
            stream.read_exact(&mut received).unwrap();
            assert_eq!(received, contents[..40 * 1200]);
            assert!(peer.tun.coalesce().tcp);
            while tun.read(&mut buffer).is_ok() {}
        }
    });
}

fn udp_batch(
    source: SocketAddr,
    destination: SocketAddr,
    contents: &[u8],
    size: usize,
) -> PacketBatch {
    let mut batch = PacketBatch::new(100_000, 64);
    for datagram in contents.chunks(size) {
        let slot = batch.reserve(1280).unwrap();
        let length = build::udp(slot, source, destination, datagram).unwrap();
        batch.commit(length);
    }
    batch
}

/// Somebody behind the TUN device who speaks as much TCP as these tests need.
struct Peer<'a> {
    tun: &'a mut Tun,
    local: SocketAddr,
    remote: SocketAddr,
    sequence: u32,
    acknowledgement: u32,
}

impl Peer<'_> {
    async fn connect(&mut self, buffer: &mut [u8]) {
        // MSS 1200, window scale 7.
        let options = [2, 4, 0x04, 0xb0, 3, 3, 7, 1];
        self.send(TcpFlags::SYN, &options);
        let (_, length) = read(self.tun, self.remote, buffer).await;
        let packet = TunPacket::parse(&mut buffer[..length], Offload::NONE).unwrap();
        let headers = packet.headers();
        let answer = headers.tcp_flags().unwrap();
        assert!(answer.contains(TcpFlags::SYN) && answer.contains(TcpFlags::ACK));
        let sequence = headers.transport_offset() + 4;
        let sequence = packet.bytes()[sequence..].first_chunk().unwrap();
        self.acknowledgement = u32::from_be_bytes(*sequence) + 1;
        self.sequence += 1;
        self.send(TcpFlags::ACK, &[]);
    }

    fn send(&mut self, flags: TcpFlags, options: &[u8]) {
        let mut packet = [0; 100];
        let header = Tcp { flags, options, ..self.header() };
        let length = build::tcp(&mut packet, self.remote, self.local, header, &[]).unwrap();
        self.tun.write_packet(&packet[..length]).unwrap();
    }

    /// Data in segments of `size` bytes.
    fn data(&mut self, contents: &[u8], size: usize) -> PacketBatch {
        let mut batch = PacketBatch::new(100_000, 64);
        for payload in contents.chunks(size) {
            let header = self.header();
            let slot = batch.reserve(1280).unwrap();
            let length = build::tcp(slot, self.remote, self.local, header, payload).unwrap();
            batch.commit(length);
            self.sequence += payload.len() as u32;
        }
        batch
    }

    fn header(&self) -> Tcp<'static> {
        Tcp {
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            flags: TcpFlags::ACK,
            window: 60_000,
            options: &[],
        }
    }
}

/// Makes a TUN device without virtio header.
fn attach_bare(file: &std::fs::File, name: &[u8]) {
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as _;
    // SAFETY: TUNSETIFF takes a pointer to an `ifreq` that it reads and writes during the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
}
