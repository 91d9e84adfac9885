//! From the options to the end of the process.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use connlib_daemon::{
    Failure, Health, HealthServer, Signal, Signals, notify_ready, notify_status, notify_stopping,
};
use connlib_relay::server::{self, Server};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::fast_path::FastPath;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::portal::{self, Portal, Presence};
use crate::sockets::{Addresses, bind_streams, bind_udp};
use crate::streams::{Certificates, Seats};
use crate::worker::{Command, Mailbox, Parts, Stats, Worker, inbox};
use crate::{credentials, machine};

/// Files that are open beside sockets.
const OTHER_FILES: usize = 256;

/// How long an address may be this machine's before nothing is relayed to it any more.
const OWN_ADDRESSES: Duration = Duration::from_secs(2);

/// How often a relay that drains says so.
const DRAIN_REPORT: Duration = Duration::from_secs(30);

/// Relays until it is asked to end.
///
/// # Errors
/// The start is not possible, the portal does not want us, or a worker has failed.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        // Before anything else is there to be left behind.
        let signals = Signals::new().context("cannot take over signals")?;
        let relay = Relay::start(options, signals).await.map_err(Failure::unusable)?;
        relay.supervise(options).await
    })
}

struct Relay {
    signals: Signals,
    portal: Option<Portal>,
    certificates: Option<Certificates>,
    health: Health,
    metrics: Metrics,
    workers: Workers,
    /// The drain has begun. Why, if nobody asked for it.
    draining: Option<Draining>,
}

struct Draining {
    until: Instant,
    because: Option<Failure>,
}

impl Relay {
    async fn start(options: &Options, signals: Signals) -> Result<Self> {
        let has_portal = options.portal.api_url.is_some();
        let (credentials, for_portal) = credentials::load(&options.credentials, has_portal)?;
        let portal = Portal::new(options, for_portal)?;

        let workers = options.workers.map_or_else(machine::cpus, usize::from);
        let families = options.addresses.public().count();
        let files =
            options.max_allocations.get() * families + options.streams.max_streams + OTHER_FILES;
        machine::allow_open_files(files as u64);

        let addresses = Addresses::find(&options.addresses).await;
        let (fast_path, keeper) = FastPath::start(&options.fast_path, &options.addresses);
        let port = options.addresses.listen_port.get();
        let listen = bind_udp(&addresses, port, workers)?;
        let (listeners, certificates) = bind_streams(&options.streams)?;
        let seats = Seats::new(options.streams.max_streams, options.streams.max_streams_per_source);

        let stats: Vec<Arc<Stats>> = (0..workers).map(|_| Arc::default()).collect();
        let metrics = Metrics::new(stats.clone(), fast_path.clone(), has_portal);
        let health = Health::default().with_metrics({
            let metrics = metrics.clone();
            move || metrics.write()
        });
        if let Some(address) = options.process.health_listen() {
            tokio::spawn(HealthServer::bind(address, health.clone()).await?.serve());
        }

        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| inbox())
            .collect::<Result<Vec<_>, _>>()
            .context("cannot make a channel between workers")?
            .into_iter()
            .unzip();
        let mut config = server_config(options, credentials, workers);
        config.own_addresses = machine::own_addresses().context(
            "cannot read this machine's addresses, to which nothing may be relayed (a sandbox has to allow AF_NETLINK)",
        )?;
        let undrained = Arc::new(AtomicUsize::new(workers));
        let mut threads = Workers::new();
        for (index, ((listen, inbox), stats)) in
            listen.into_iter().zip(inboxes).zip(stats).enumerate()
        {
            let mut config = config.clone();
            getrandom::fill(&mut config.seed).context("the system gives no random numbers")?;
            let server =
                Server::new(config, Instant::now()).context("cannot serve with these settings")?;
            let mut others = mailboxes.clone();
            others.remove(index);
            let worker = Worker::new(Parts {
                server,
                listen,
                bind: addresses.relay,
                hairpin: addresses.hairpin,
                listeners: listeners.clone(),
                seats: seats.clone(),
                inbox,
                others,
                stats,
                fast_path: fast_path.clone(),
                undrained: Arc::clone(&undrained),
            })
            .context("cannot watch the sockets")?;
            threads.spawn(index, worker, mailboxes[index].clone())?;
        }
        tokio::spawn(follow_own_addresses(config.own_addresses, mailboxes));
        if let Some(keeper) = keeper {
            keeper.spawn()?;
        }
        tracing::info!(workers, public = ?options.addresses.public().collect::<Vec<_>>(), "relaying");
        Ok(Self {
            signals,
            portal,
            certificates,
            health,
            metrics,
            workers: threads,
            draining: None,
        })
    }

    async fn supervise(mut self, options: &Options) -> Result<(), Failure> {
        if self.portal.is_none() {
            self.health.set_ready(true);
            notify_ready("relaying");
        }
        loop {
            let deadline = self.draining.as_ref().map(|draining| draining.until);
            tokio::select! {
                signal = self.signals.next() => match signal {
                    Signal::Reload => self.reload(),
                    Signal::Stop if self.draining.is_some() => {
                        tracing::info!("asked again: ending at once");
                        return self.end().await;
                    }
                    Signal::Stop => {
                        notify_stopping();
                        self.drain(options.drain_timeout, None);
                    }
                },
                presence = next(&mut self.portal) => match presence {
                    Ok(presence) => self.follow(presence),
                    Err(error) => {
                        let failure = portal::failure(error);
                        tracing::error!("{:#}", failure.error);
                        self.drain(options.drain_timeout, Some(failure));
                    }
                },
                result = self.workers.next_end() => {
                    result?;
                    if self.draining.is_none() {
                        return Err(anyhow!("a worker has ended unasked").into());
                    }
                    if self.workers.are_all_ended() {
                        tracing::info!("all allocations have ended");
                        return self.end().await;
                    }
                }
                () = sleep_until(deadline) => {
                    tracing::info!(allocations = self.metrics.allocations(), "the time to drain is over");
                    return self.end().await;
                }
                () = tokio::time::sleep(DRAIN_REPORT), if self.draining.is_some() => {
                    let allocations = self.metrics.allocations();
                    tracing::info!(allocations, "draining");
                    notify_status(&format!("draining: {allocations} allocations are left"));
                }
            }
        }
    }

    fn reload(&mut self) {
        if let Some(certificates) = &self.certificates {
            certificates.reload();
        }
    }

    fn follow(&self, presence: Presence) {
        let is_in = presence == Presence::Joined;
        self.metrics.set_in_portal(is_in);
        self.health.set_ready(is_in);
        match presence {
            Presence::Joined => {
                tracing::info!("ready: joined the portal");
                notify_ready("joined the portal");
            }
            // The start is over all the same, and whoever knows us is served.
            Presence::Lost => notify_ready("the portal is away, trying again"),
        }
    }

    /// Leaves the portal, so that nobody new comes, and then waits for those who are there.
    fn drain(&mut self, timeout: Duration, because: Option<Failure>) {
        self.portal = None;
        self.health.set_ready(false);
        self.metrics.set_in_portal(false);
        self.metrics.set_draining();
        tracing::info!(allocations = self.metrics.allocations(), ?timeout, "draining");
        self.workers.tell(&Command::Drain);
        self.draining = Some(Draining { until: Instant::now() + timeout, because });
    }

    async fn end(mut self) -> Result<(), Failure> {
        self.workers.tell(&Command::Stop);
        while !self.workers.are_all_ended() {
            self.workers.next_end().await?;
        }
        match self.draining.and_then(|draining| draining.because) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// Tells the workers when this machine has other addresses than the `known` ones.
async fn follow_own_addresses(mut known: Vec<IpAddr>, workers: Vec<Mailbox>) {
    loop {
        tokio::time::sleep(OWN_ADDRESSES).await;
        match machine::own_addresses() {
            Ok(own) if own != known => {
                tracing::debug!(?own, "this machine has other addresses");
                let command = Command::OwnAddresses(own.as_slice().into());
                workers.iter().for_each(|worker| worker.send(command.clone()));
                known = own;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "this machine's addresses are not known"),
        }
    }
}

/// Pending for ever without a portal.
async fn next(
    portal: &mut Option<Portal>,
) -> Result<Presence, connlib_portal_api::client::FatalError> {
    match portal {
        Some(portal) => portal.next().await,
        None => pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

fn server_config(
    options: &Options,
    credentials: server::Credentials,
    workers: usize,
) -> server::Config {
    let addresses = &options.addresses;
    // Other ones for each worker, see there; the quota and the open ports are theirs together.
    let mut config = server::Config::new(credentials, [0; 32]);
    config.public_ip4 = addresses.public_ip4_addr;
    config.public_ip6 = addresses.public_ip6_addr;
    config.denied_peers = addresses.denied_peers.clone();
    config.allowed_peers = addresses.allowed_peers.clone();
    config.allocation_ports = addresses.lowest_port.get()..=addresses.highest_port.get();
    config.realm = options.credentials.realm.clone();
    config.limits.allocations = options.max_allocations.get();
    config.limits.allocations_per_user = options.max_allocations_per_user.get();
    config.limits.allocations_per_source = options.max_allocations_per_source.get();
    config.limits = config.limits.parted_among(workers);
    config
}

/// The threads, and how they end.
struct Workers {
    threads: Vec<Option<JoinHandle<std::io::Result<()>>>>,
    mailboxes: Vec<Mailbox>,
    ended: UnboundedReceiver<usize>,
    end: UnboundedSender<usize>,
}

impl Workers {
    fn new() -> Self {
        let (end, ended) = unbounded_channel();
        Self { threads: Vec::new(), mailboxes: Vec::new(), ended, end }
    }

    fn spawn(&mut self, index: usize, worker: Worker, mailbox: Mailbox) -> Result<()> {
        let end = End { index, end: self.end.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("relay-{index}"))
            .spawn(move || {
                // Says so even if the worker panics.
                let _end = end;
                worker.run()
            })
            .context("cannot start a thread")?;
        self.threads.push(Some(thread));
        self.mailboxes.push(mailbox);
        Ok(())
    }

    fn tell(&self, command: &Command) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(command.clone()));
    }

    fn are_all_ended(&self) -> bool {
        self.threads.iter().all(Option::is_none)
    }

    /// Waits for one worker to end. Cancel safe.
    ///
    /// # Errors
    /// If it has failed.
    async fn next_end(&mut self) -> Result<()> {
        let Some(index) = self.ended.recv().await else { return pending().await };
        let Some(thread) = self.threads.get_mut(index).and_then(Option::take) else {
            return Ok(());
        };
        match thread.join() {
            Ok(result) => result.context("a worker has failed"),
            Err(_) => Err(anyhow!(
                "a worker has panicked, which is a bug: please report the lines before this one"
            )),
        }
    }
}

struct End {
    index: usize,
    end: UnboundedSender<usize>,
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.end.send(self.index);
    }
}
