//! Packets between the TUN device, a tunnel and the sockets: read a burst, decide, encrypt, send, all on one thread.

mod device;
mod streams;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_link::{SendQueue, StreamRequest, StreamServer, Transmit};
use connlib_net::retry::Retry;
use connlib_net::tun::{READ_BUFFER, Tun};
use connlib_net::udp::{self, RECEIVE_BUFFER, UdpSockets};
use connlib_packet::{PacketBatch, TunPacket};

use crate::logged::Chain;
use device::Device;
use streams::{StreamEvent, Streams};

pub(crate) use streams::Connector;

/// Reads in a row before the other direction gets its turn: what waits there, an acknowledgement perhaps, waits as long.
const READS_PER_TURN: usize = 4;

/// Datagrams that wait to be sent. Room for two super-packets: more would only be latency.
const SEND_QUEUE: usize = 192 * 1024;

/// How long the end of a session may wait for streams.
const FAREWELL: Duration = Duration::from_millis(500);

/// A client's or a gateway's tunnel, as far as its packets are concerned.
pub(crate) trait PacketTunnel {
    /// Takes a packet from the TUN device; what is to be sent goes to `queue`.
    fn handle_tun(&mut self, packet: TunPacket<'_>, queue: &mut SendQueue, now: Instant);

    /// Takes datagrams from a socket or a stream; what is for applications goes to `batch`.
    fn handle_datagrams(&mut self, run: udp::Run<'_>, batch: &mut PacketBatch, now: Instant);

    /// A stream that was asked for is connected, and has this address of ours.
    fn handle_stream_opened(&mut self, server: StreamServer, local: SocketAddr, now: Instant);

    /// A stream that was asked for is gone, or could not be had.
    fn handle_stream_closed(&mut self, server: StreamServer, now: Instant);
}

/// What was lost between the kernel and us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Packets from the TUN device that are none.
    pub malformed: u64,
    /// Packets that the TUN device did not take.
    pub not_delivered: u64,
    /// Datagrams (or runs of them) that the sockets or streams did not take.
    pub not_sent: u64,
}

/// The device, the sockets and the buffers between them.
pub(crate) struct Io {
    device: Device,
    sockets: UdpSockets,
    streams: Streams,
    queue: SendQueue,
    /// How much of the queue the kernel has taken, when it takes no more for now.
    blocked: Option<Blocked>,
    tun_buffer: Box<[u8]>,
    udp_buffer: Box<[u8]>,
    stats: IoStats,
}

#[derive(Debug, Clone, Copy)]
struct Blocked {
    destination: SocketAddr,
    run: usize,
    sent: usize,
}

impl Io {
    /// Streams to relays are made by `connector`.
    pub(crate) fn new(sockets: UdpSockets, connector: Connector) -> Self {
        Self {
            device: Device::new(),
            sockets,
            streams: Streams::new(connector),
            queue: SendQueue::new(SEND_QUEUE),
            blocked: None,
            tun_buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            udp_buffer: vec![0; RECEIVE_BUFFER].into_boxed_slice(),
            stats: IoStats::default(),
        }
    }

    /// Replaces the device.
    pub(crate) fn set_tun(&mut self, tun: Tun) {
        self.device.tun = Some(tun);
    }

    pub(crate) fn sockets(&self) -> &UdpSockets {
        &self.sockets
    }

    /// Connects streams and leaves them.
    pub(crate) fn handle_stream(&mut self, request: StreamRequest) {
        self.streams.handle(request);
    }

    /// Makes new sockets, as the network has changed, and leaves the streams. If there are none to be had, `retry` says when
    /// to call this again.
    pub(crate) fn rebind(&mut self, retry: &mut Retry) {
        self.streams.reset();
        self.queue.clear();
        self.blocked = None;
        match self.sockets.rebind() {
            // Nothing is left to be tried.
            Ok(()) => *retry = Retry::default(),
            Err(error) => {
                tracing::info!(error = %Chain(&error), "could not make new sockets, trying again");
                retry.later();
            }
        }
    }

    /// Waits until streams have taken what was sent, for a moment: nobody will afterwards.
    pub(crate) async fn finish(&mut self) {
        if tokio::time::timeout(FAREWELL, self.streams.flush()).await.is_err() {
            tracing::debug!("a relay did not take the last words");
        }
    }

    pub(crate) fn stats(&self) -> IoStats {
        IoStats { not_delivered: self.device.not_delivered, ..self.stats }
    }

    /// Waits until [`pump`](Self::pump) has something to do. Cancel safe.
    ///
    /// # Errors
    ///
    /// The device or the runtime is gone.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        if let Some(blocked) = self.blocked {
            // Nothing more is read from the device until the kernel takes what there is.
            return tokio::select! {
                biased;
                () = self.streams.ready() => Ok(()),
                result = self.sockets.writable(blocked.destination) => result,
                result = self.sockets.readable() => result,
            };
        }
        let tun = async {
            match &self.device.tun {
                Some(tun) => tun.readable().await,
                None => pending().await,
            }
        };
        tokio::select! {
            // First, as this is where streams are written.
            biased;
            () = self.streams.ready() => Ok(()),
            result = self.sockets.readable() => result,
            result = tun => result,
        }
    }

    /// Moves packets both ways until there are none or others should get their turn.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub(crate) fn pump(&mut self, tunnel: &mut impl PacketTunnel) -> io::Result<()> {
        self.receive(tunnel);
        self.take_streams(tunnel);
        if self.blocked.is_some() {
            self.flush(usize::MAX);
        }
        if self.blocked.is_none() {
            self.read(tunnel)?;
        }
        Ok(())
    }

    /// Network to applications.
    fn receive(&mut self, tunnel: &mut impl PacketTunnel) {
        for _ in 0..READS_PER_TURN {
            let run = match self.sockets.recv(&mut self.udp_buffer) {
                Ok(run) => run,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    tracing::debug!(error = %e, "a datagram was not received");
                    continue;
                }
            };
            let length = run.bytes.len();
            tunnel.handle_datagrams(run, &mut self.device.batch, Instant::now());
            // A short run means that the socket is about to be empty: what is there may still grow together.
            if length > RECEIVE_BUFFER / 2 || self.device.is_half_full() {
                self.device.deliver();
            }
        }
        self.device.deliver();
    }

    /// The same, where relays are reached by streams.
    fn take_streams(&mut self, tunnel: &mut impl PacketTunnel) {
        let Self { streams, device, .. } = self;
        streams.take(|event| match event {
            StreamEvent::Opened { server, local } => {
                tunnel.handle_stream_opened(server, local, Instant::now());
            }
            StreamEvent::Closed(server) => tunnel.handle_stream_closed(server, Instant::now()),
            StreamEvent::Received(run) => {
                tunnel.handle_datagrams(run, &mut device.batch, Instant::now());
                if device.is_half_full() {
                    device.deliver();
                }
            }
        });
        device.deliver();
    }

    /// Applications to network.
    fn read(&mut self, tunnel: &mut impl PacketTunnel) -> io::Result<()> {
        for _ in 0..READS_PER_TURN {
            let Some(tun) = &mut self.device.tun else { return Ok(()) };
            let (offload, len) = match tun.read(&mut self.tun_buffer) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    self.stats.malformed += 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            match TunPacket::parse(&mut self.tun_buffer[..len], offload) {
                Ok(packet) => tunnel.handle_tun(packet, &mut self.queue, Instant::now()),
                Err(e) => {
                    self.stats.malformed += 1;
                    tracing::trace!(error = %e, "malformed packet from an application");
                }
            }
            // What the next packet may still be added to stays: each system call carries as much as it can.
            self.flush(self.queue.complete_runs());
            if self.blocked.is_some() {
                return Ok(());
            }
            if self.streams.are_busy() {
                break;
            }
        }
        self.flush(usize::MAX);
        Ok(())
    }

    /// Sends the first `runs` of what is queued, as far as the kernel takes it.
    fn flush(&mut self, runs: usize) {
        let start = self.blocked.take();
        for (index, (run, bytes)) in self.queue.runs().take(runs).enumerate() {
            let sent = match start {
                Some(blocked) if index < blocked.run => continue,
                Some(blocked) if index == blocked.run => blocked.sent,
                _ => 0,
            };
            if let Some(dropped) = self.streams.send(run.path, run.segment_size, bytes) {
                self.stats.not_sent += dropped;
                continue;
            }
            let mut transmit = udp::Transmit {
                source: run.path.local.map(|local| local.ip()),
                destination: run.path.remote,
                ecn: run.ecn,
                segment_size: (run.segments > 1).then_some(run.segment_size),
                contents: bytes.get(sent..).unwrap_or_default(),
            };
            match self.sockets.send(&mut transmit) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let sent = bytes.len() - transmit.contents.len();
                    let destination = run.path.remote;
                    self.blocked = Some(Blocked { destination, run: index, sent });
                    return;
                }
                Err(e) => {
                    self.stats.not_sent += 1;
                    tracing::trace!(error = %e, path = ?run.path, "datagrams were not sent");
                }
            }
        }
        self.queue.discard(runs);
    }

    /// Sends one datagram that isn't part of a batch. Lost, as on the way, if the kernel does not take it.
    pub(crate) fn transmit(&mut self, transmit: &Transmit) {
        if let Some(dropped) = self.streams.send_first(transmit.path, &transmit.payload) {
            self.stats.not_sent += dropped;
            return;
        }
        let mut transmit = udp::Transmit {
            source: transmit.path.local.map(|local| local.ip()),
            destination: transmit.path.remote,
            ecn: 0,
            segment_size: None,
            contents: &transmit.payload,
        };
        if let Err(e) = self.sockets.send(&mut transmit) {
            self.stats.not_sent += 1;
            tracing::debug!(error = %e, to = %transmit.destination, "a datagram was not sent");
        }
    }

    /// Hands one packet of our own to applications.
    pub(crate) fn deliver_packet(&mut self, packet: &[u8]) {
        self.device.deliver_packet(packet);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, UdpSocket};
    use std::process::Command;

    use connlib_net::udp::{Options, PREFERRED_PORT};
    use connlib_portal_api::client::Network;
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Keeps what it is told.
    #[derive(Default)]
    struct Notes(Vec<Vec<u8>>);

    impl PacketTunnel for Notes {
        fn handle_tun(&mut self, _: TunPacket<'_>, _: &mut SendQueue, _: Instant) {}

        fn handle_datagrams(&mut self, run: udp::Run<'_>, _: &mut PacketBatch, _: Instant) {
            self.0.push(run.bytes.to_vec());
        }

        fn handle_stream_opened(&mut self, _: StreamServer, _: SocketAddr, _: Instant) {}

        fn handle_stream_closed(&mut self, _: StreamServer, _: Instant) {}
    }

    /// Of both families.
    fn taken(port: u16) -> UdpSocket {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()
    }

    #[test]
    fn sockets_that_cannot_be_had_are_asked_for_until_they_can() {
        // A thread of its own goes with its network.
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test must be run as root");
            assert!(
                Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success()
            );
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(true).build().unwrap().block_on(async {
                let preferred = taken(PREFERRED_PORT);
                let connector = Connector::new(Network::default().sockets);
                let mut io = Io::new(UdpSockets::bind(Options::default()).unwrap(), connector);
                let range = "/proc/sys/net/ipv4/ip_local_port_range";
                std::fs::write(range, "50000 50000").unwrap();
                let last = taken(50000);

                let mut retry = Retry::default();
                io.rebind(&mut retry);
                for _ in 0..3 {
                    assert_eq!((io.sockets().port_v4(), io.sockets().port_v6()), (None, None));
                    retry.due().await;
                    io.rebind(&mut retry);
                }
                drop(preferred);
                retry.due().await;
                io.rebind(&mut retry);
                assert_eq!(io.sockets().port_v4(), Some(PREFERRED_PORT));

                last.send_to(b"hello", ("::1", PREFERRED_PORT)).unwrap();
                let mut notes = Notes::default();
                io.ready().await.unwrap();
                io.pump(&mut notes).unwrap();
                assert_eq!(notes.0, [b"hello"]);
                let hour = Duration::from_secs(3600);
                assert!(tokio::time::timeout(hour, retry.due()).await.is_err());
            });
        });
        thread.join().unwrap();
    }
}
