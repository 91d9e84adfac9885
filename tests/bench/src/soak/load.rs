//! All that happens to the relay, on threads of its own.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use data_encoding::BASE64_NOPAD;
use rand::{RngExt as _, rngs::SmallRng};
use rustls::ClientConfig;
use sha2::{Digest as _, Sha256};

use super::{
    client::{Client, Identity},
    echo,
    link::{Link, Transport},
    network::Network,
    session, strangers,
    tally::Tally,
};

/// Clients at a time.
const CLIENTS: u64 = 72;
/// Users by name.
pub(super) const USERS: u32 = 64;
pub(super) const PASSWORD: &str = "soak";
/// Behind the names of all other users.
pub(super) const SECRET: &str = "a secret that the service for WebRTC knows too";
/// How long such names are good.
const VALIDITY: Duration = Duration::from_secs(2 * 3600);

/// How long the relay keeps an allocation of which nothing is heard, as clients want it here: the shortest that it
/// grants (RFC 8656 §7.2).
const LIFETIME: Duration = Duration::from_secs(600);

/// A client over UDP that left without a word.
#[derive(Debug)]
pub(super) struct Vanished {
    pub(super) local: SocketAddr,
    pub(super) identity: Identity,
    pub(super) at: Instant,
}

pub(super) struct Load {
    pub(super) tally: Tally,
    pub(super) tls: Arc<ClientConfig>,
    vanished: Mutex<VecDeque<Vanished>>,
    is_ending: AtomicBool,
    is_over: AtomicBool,
}

/// The threads of a load.
pub(super) struct Threads {
    load: Arc<Load>,
    clients: Vec<JoinHandle<()>>,
    peers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        Self {
            tally: Tally::default(),
            tls,
            vanished: Mutex::default(),
            is_ending: AtomicBool::default(),
            is_over: AtomicBool::default(),
        }
    }

    /// Whether clients are to go, and strangers to be silent.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// Whether peers are to go as well.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Somebody who may allocate: one of the users by name, or one that has never been there.
    pub(super) fn identity(&self, rng: &mut SmallRng) -> Identity {
        if rng.random() {
            let username = format!("user{}", rng.random_range(0..USERS));
            return Identity { username, password: PASSWORD.to_owned() };
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (expiry, salt) = ((now + VALIDITY).as_secs(), rng.random::<u64>());
        let password = Sha256::digest(format!("{expiry}:{SECRET}:{salt}"));
        Identity { username: format!("{expiry}:{salt}"), password: BASE64_NOPAD.encode(&password) }
    }

    /// Remembers a client that vanished, and forgets those whose allocations have ended by themselves.
    pub(super) fn vanish(&self, client: Vanished) {
        let mut vanished = self.vanished.lock().unwrap_or_else(PoisonError::into_inner);
        while vanished.front().is_some_and(|oldest| oldest.at.elapsed() > LIFETIME) {
            vanished.pop_front();
        }
        vanished.push_back(client);
    }

    /// Has those who vanished within the last lifetime come back to their ports and give back what they had.
    fn give_back(&self, network: &Network) -> Result<()> {
        let vanished =
            std::mem::take(&mut *self.vanished.lock().unwrap_or_else(PoisonError::into_inner));
        network.clients.enter(|| {
            for Vanished { local, identity, at } in vanished {
                if at.elapsed() > LIFETIME {
                    continue;
                }
                let rng = rand::make_rng();
                let result = Link::open(Transport::Udp, local, &self.tls)
                    .and_then(|link| Client::new(link, identity, rng).give_back());
                if let Err(error) = result {
                    self.tally.fail("giving back later", &error);
                }
            }
        })
    }
}

impl Threads {
    pub(super) fn start(network: &Network, load: &Arc<Load>) -> Result<Self> {
        let mut threads = Self { load: Arc::clone(load), clients: vec![], peers: vec![] };
        let (sockets, unwanted) = network
            .peers
            .enter(|| Ok::<_, anyhow::Error>((echo::open()?, strangers::unwanted_sockets()?)))?
            .context("no peers")?;
        for socket in sockets {
            let load = Arc::clone(load);
            threads.peers.push(thread::spawn(move || {
                if let Err(error) = echo::run(&socket, &load) {
                    load.tally.fail("peer", &error);
                }
            }));
        }
        let sender = Arc::clone(load);
        let unwanted = thread::spawn(move || strangers::send_unwanted(&unwanted, &sender));
        threads.clients.push(unwanted);
        for client in 0..CLIENTS {
            threads.at_clients(network, move |load| session::run(client, load));
        }
        threads.at_clients(network, strangers::send_datagrams);
        threads.at_clients(network, strangers::guess_passwords);
        threads.at_clients(network, strangers::open_connections);
        Ok(threads)
    }

    /// Starts a thread where clients live, for as long as it likes.
    fn at_clients(&mut self, network: &Network, work: impl FnOnce(&Load) + Send + 'static) {
        let (namespace, load) = (network.clients.clone(), Arc::clone(&self.load));
        self.clients.push(thread::spawn(move || {
            if let Err(error) = namespace.enter(|| work(&load)) {
                load.tally.fail("thread", &error);
            }
        }));
    }

    /// Ends it: whoever is there takes leave, and gives back what it has.
    pub(super) fn finish(self, network: &Network) -> Result<()> {
        self.load.is_ending.store(true, Ordering::Relaxed);
        let join = |threads: Vec<JoinHandle<()>>| {
            threads.into_iter().for_each(|thread| {
                if thread.join().is_err() {
                    self.load.tally.fail("thread", &anyhow::anyhow!("it panicked"));
                }
            });
        };
        join(self.clients);
        self.load.is_over.store(true, Ordering::Relaxed);
        join(self.peers);
        self.load.give_back(network)
    }
}
