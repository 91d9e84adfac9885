//! Queries that clients hand to their gateway, answered by the resolvers of its machine.
//!
//! A client makes up the addresses of a DNS resource by itself; records of other kinds (SRV, TXT) it asks the gateway
//! for, on port 53535 of the gateway's tunnel addresses, by UDP and TCP.

mod listener;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use connlib_dns::{
    Client, DIRECT_TIMEOUT, Forwarder, Output, QueryId, ResponseCode, Transport, Upstream, fit,
};
use connlib_packet::plan::{self, GATEWAY_DNS_PORT};
use connlib_tunnel::client::DnsQuery;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::dns::{Answer, Carrier};
use listener::{Asked, Reply};

/// The longest answer by UDP, in bytes. A longer one is cut to its question, and the client asks by TCP.
const MAX_UDP_ANSWER: usize = 1200;

/// Queries that one client may have under way, so that none can use up what is there for all. More get SERVFAIL.
const IN_FLIGHT_PER_CLIENT: usize = 128;

/// Queries that were received and not looked at yet. Beyond, the kernel's buffers hold them.
const INBOX: usize = 64;

/// Serves DNS to clients in a task of its own, which ends with this value. Without queries it does nothing.
#[derive(Debug)]
pub(crate) struct DnsServer {
    settings: watch::Sender<Settings>,
}

#[derive(Debug, Clone, Default)]
struct Settings {
    addresses: Vec<IpAddr>,
    servers: Vec<SocketAddr>,
}

impl DnsServer {
    /// Starts without addresses of its own, with these servers to ask.
    pub(crate) fn start(seed: [u8; 32], servers: &[SocketAddr]) -> Self {
        Self::start_for(plan::is_tunnel, seed, servers)
    }

    fn start_for(is_client: fn(IpAddr) -> bool, seed: [u8; 32], servers: &[SocketAddr]) -> Self {
        let settings = Settings { addresses: Vec::new(), servers: servers.to_vec() };
        let (sender, receiver) = watch::channel(settings);
        tokio::spawn(Responder::new(is_client, seed).run(receiver));
        Self { settings: sender }
    }

    /// From now on, listens on these addresses and no others.
    pub(crate) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.settings.send_modify(|settings| settings.addresses = addresses);
    }

    /// From now on, asks these servers, the best first.
    pub(crate) fn set_servers(&self, servers: &[SocketAddr]) {
        self.settings.send_modify(|settings| settings.servers = servers.to_vec());
    }
}

/// The task.
struct Responder {
    is_client: fn(IpAddr) -> bool,
    forwarder: Forwarder,
    carrier: Carrier,
    /// The first is asked. One that fails goes to the end.
    servers: VecDeque<SocketAddr>,
    asked: HashMap<QueryId, SocketAddr>,
    /// Who waits, by address and id of the query. INVARIANT: the forwarder owes each exactly one answer.
    waiting: HashMap<(Client, u16), Reply>,
    /// How many wait, by client.
    load: HashMap<IpAddr, usize>,
    listeners: Vec<Listener>,
    queries: mpsc::Sender<Asked>,
    inbox: mpsc::Receiver<Asked>,
    wake_at: Option<Instant>,
}

struct Listener {
    address: IpAddr,
    task: JoinSet<()>,
}

impl Responder {
    fn new(is_client: fn(IpAddr) -> bool, seed: [u8; 32]) -> Self {
        let (queries, inbox) = mpsc::channel(INBOX);
        Self {
            is_client,
            forwarder: Forwarder::new(seed),
            carrier: Carrier::new(None, None),
            servers: VecDeque::new(),
            asked: HashMap::new(),
            waiting: HashMap::new(),
            load: HashMap::new(),
            listeners: Vec::new(),
            queries,
            inbox,
            wake_at: None,
        }
    }

    async fn run(mut self, mut settings: watch::Receiver<Settings>) {
        settings.mark_changed();
        loop {
            self.drain();
            tokio::select! {
                changed = settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.apply(&settings.borrow_and_update().clone());
                }
                // INVARIANT: a sender lives in this value.
                Some(asked) = self.inbox.recv() => self.handle_query(asked),
                answer = self.carrier.next() => self.handle_answer(answer),
                Some(()) = sleep_until(self.wake_at) => {
                    self.forwarder.handle_timeout(Instant::now());
                }
            }
        }
    }

    fn apply(&mut self, settings: &Settings) {
        if !self.servers.iter().eq(&settings.servers) {
            self.servers = settings.servers.iter().copied().collect();
        }
        // One that could not have its address is started anew.
        self.listeners.retain_mut(|listener| {
            listener.task.try_join_next().is_none()
                && settings.addresses.contains(&listener.address)
        });
        for &address in &settings.addresses {
            if !self.listeners.iter().any(|listener| listener.address == address) {
                let socket = SocketAddr::new(address, GATEWAY_DNS_PORT);
                let mut task = JoinSet::new();
                task.spawn(listener::serve(socket, self.is_client, self.queries.clone()));
                self.listeners.push(Listener { address, task });
            }
        }
    }

    fn handle_query(&mut self, Asked { client, query, reply }: Asked) {
        let asker = (client, query.id());
        if self.waiting.contains_key(&asker) {
            return; // Sent again while it is under way.
        }
        let load = self.load.get(&client.source.ip()).copied().unwrap_or_default();
        let server = self.servers.front().copied();
        let (Some(server), true) = (server, load < IN_FLIGHT_PER_CLIENT) else {
            tracing::debug!(load, ?server, "refused a DNS query of a client");
            reply.send(client.source, query.answer_empty(ResponseCode::ServFail));
            return;
        };
        self.waiting.insert(asker, reply);
        self.load.insert(client.source.ip(), load + 1);
        let now = Instant::now();
        self.forwarder.forward(client, query, &Upstream::Do53(server), DIRECT_TIMEOUT, now);
    }

    fn handle_answer(&mut self, answer: Answer) {
        let Answer { id, from, result } = answer;
        match result {
            Ok(message) => match self.forwarder.handle_response(id, &from, &message) {
                Ok(_) => drop(self.asked.remove(&id)),
                Err(error) => tracing::debug!(%error, "ignored a DNS response"),
            },
            Err(error) => {
                tracing::debug!(%error, "a DNS query failed");
                self.forwarder.handle_failure(id);
            }
        }
    }

    /// Does what the forwarder wants done, and notes when it wants to be woken.
    fn drain(&mut self) {
        loop {
            match self.forwarder.poll_output() {
                Output::Transmit(transmit) => {
                    if let Upstream::Do53(server) = transmit.server {
                        self.asked.insert(transmit.query, server);
                    }
                    self.carrier.send(DnsQuery {
                        id: transmit.query,
                        server: transmit.server,
                        transport: transmit.transport,
                        message: transmit.message,
                        through_tunnel: false,
                    });
                }
                Output::Answer { to, message } => self.answer(to, message),
                Output::Finished(id) => {
                    self.carrier.finish(id);
                    if let Some(server) = self.asked.remove(&id) {
                        self.demote(server);
                    }
                }
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return;
                }
            }
        }
    }

    fn answer(&mut self, to: Client, message: Vec<u8>) {
        let Some(&id) = message.first_chunk() else { return };
        let Some(reply) = self.waiting.remove(&(to, u16::from_be_bytes(id))) else { return };
        if let Some(load) = self.load.get_mut(&to.source.ip()) {
            *load -= 1;
            if *load == 0 {
                self.load.remove(&to.source.ip());
            }
        }
        let message = match to.transport {
            Transport::Udp => fit(message, MAX_UDP_ANSWER),
            Transport::Tcp | Transport::Https => message,
        };
        reply.send(to.source, message);
    }

    /// A server did not answer: whoever asks again gets another one.
    fn demote(&mut self, server: SocketAddr) {
        if self.servers.front() == Some(&server) {
            tracing::debug!(%server, "DNS server failed, going on with the next");
            self.servers.rotate_left(1);
        }
    }
}

/// `None` if there is nothing to wait for.
async fn sleep_until(at: Option<Instant>) -> Option<()> {
    tokio::time::sleep_until(at?.into()).await;
    Some(())
}
