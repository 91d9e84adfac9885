//! Changes of the network and of the system's DNS servers, as one stream.
//!
//! [`Events`] compares what is with what was: an event means a difference that matters, not that the kernel or a program
//! has said something. Renewed leases, scans for radio networks, routes of containers and our own settings are none. While
//! nothing happens, nothing runs.
//!
//! Where the kernel does not tell or show something, it is asked again, ever more rarely, and then compared: a change may
//! be noticed late, but it is.

mod file_watch;
mod network;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use tokio::time::Instant;

pub use network::{InterfaceAddress, Network, Uplink};

use crate::netlink::{Debounce, Monitor, Received, Socket, address, groups, link, route};
use crate::resolvers;
use crate::retry::Retry;
use file_watch::FileWatch;

/// How long it must be quiet before we look, and how long a burst may put that off.
const QUIET: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(1);

const GROUPS: u32 = groups([
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
]);

/// Something that a session must react to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The machine's addresses, or the ways out of it, are now these. They may also be the same as before if a link
    /// was lost and came back: what is behind it may have changed.
    NetworkChange(Network),
    /// The machine's addresses are now these, but the ways out of it are what they were: connections last. A container
    /// has started, say, and its bridge has come up.
    AddressesChanged(Network),
    /// The system's DNS servers are now these.
    ResolversChanged(Vec<SocketAddr>),
}

/// A stream of [`Event`]s.
///
/// ```no_run
/// # async fn run() -> std::io::Result<()> {
/// use connlib_net::events::{Event, Events};
///
/// let mut events = Events::new("tun0", "/etc/resolv.conf".as_ref())?;
/// println!("we start with {:?} and {:?}", events.network(), events.resolvers());
/// loop {
///     match events.next().await {
///         Event::NetworkChange(network) => println!("roam to {:?}", network.addresses),
///         Event::AddressesChanged(network) => println!("stay, with {:?}", network.addresses),
///         Event::ResolversChanged(servers) => println!("ask {servers:?}"),
///     }
/// }
/// # }
/// ```
pub struct Events {
    socket: Socket,
    monitor: Monitor,
    network_burst: Debounce,
    /// When to look at the network once more, after that has failed.
    retry: Retry,
    tun: Tun,
    network: Network,

    watch: FileWatch,
    resolvers_burst: Debounce,
    resolv_conf: PathBuf,
    resolvers: Vec<SocketAddr>,
}

impl Events {
    /// Starts to listen. `tun` is the name of our own interface, which is ignored and need not exist yet; `resolv_conf` is
    /// the file that lists the system's DNS servers (see [`resolvers::upstream_file`]).
    ///
    /// Must be called within a tokio runtime.
    pub fn new(tun: &str, resolv_conf: &Path) -> io::Result<Self> {
        // First listen, then look: what happens in between is seen twice and not missed.
        let monitor = Monitor::new(GROUPS)?;
        let watch = FileWatch::new(resolv_conf)?;
        let tun = Tun { name: tun.to_owned(), index: if_nametoindex(tun).ok() };
        let mut socket = Socket::route()?;
        Ok(Self {
            network: Network::read(&mut socket, tun.index)?,
            socket,
            monitor,
            network_burst: Debounce::new(QUIET, LIMIT),
            retry: Retry::default(),
            tun,
            watch,
            resolvers_burst: Debounce::new(QUIET, LIMIT),
            resolvers: resolvers::read(resolv_conf).unwrap_or_default(),
            resolv_conf: resolv_conf.to_owned(),
        })
    }

    /// The network as of the last event.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The system's DNS servers as of the last event, best first.
    pub fn resolvers(&self) -> &[SocketAddr] {
        &self.resolvers
    }

    /// Waits for the next change. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            let tun = &mut self.tun;
            tokio::select! {
                biased;
                () = self.monitor.changed(|message| is_relevant(message, tun)) => {
                    self.network_burst.note(Instant::now());
                }
                () = self.watch.changed() => self.resolvers_burst.note(Instant::now()),
                () = self.network_burst.settled() => {
                    if let Some(event) = self.look() {
                        return event;
                    }
                }
                () = self.retry.due() => {
                    // What is left in the old one may be what has failed.
                    if let Ok(socket) = Socket::route() {
                        self.socket = socket;
                    }
                    if let Some(event) = self.look() {
                        return event;
                    }
                }
                () = self.resolvers_burst.settled() => {
                    // A file that is missing or unreadable for a moment names no server, like an empty one.
                    let servers = resolvers::read(&self.resolv_conf).unwrap_or_default();
                    if servers != self.resolvers {
                        self.resolvers.clone_from(&servers);
                        return Event::ResolversChanged(servers);
                    }
                }
            }
        }
    }

    /// What has changed about the network, if anything has.
    fn look(&mut self) -> Option<Event> {
        match Network::read(&mut self.socket, self.tun.index) {
            Ok(network) => {
                self.retry.succeeded();
                let before = std::mem::replace(&mut self.network, network.clone());
                return match () {
                    () if network == before => None,
                    () if network.has_ways_of(&before) => Some(Event::AddressesChanged(network)),
                    () => Some(Event::NetworkChange(network)),
                };
            }
            // Changes faster than one can look.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                self.network_burst.note(Instant::now());
            }
            Err(error) => {
                tracing::info!(%error, "cannot look at the network, trying again");
                self.retry.later();
            }
        }
        None
    }
}

/// Our own interface, which may come and go.
struct Tun {
    name: String,
    index: Option<u32>,
}

/// Whether a notification may be about something that [`Network`] tells.
fn is_relevant(message: &Received<'_>, tun: &mut Tun) -> bool {
    let is_tun = |index: Option<u32>| index.is_some() && index == tun.index;
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            let Some((index, name)) = link::index_and_name(message.payload) else { return false };
            if name == tun.name.as_bytes() {
                tun.index = Some(index);
                return false;
            }
            !is_tun(Some(index))
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => !is_tun(address::interface_of(message.payload)),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => route::is_main_default(message.payload),
        _ => false,
    }
}
