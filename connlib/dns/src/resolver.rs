//! All of it together: what happens to a query on a sentinel.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use uuid::Uuid;

use crate::cache::Cache;
use crate::forwarder::{
    Client, DIRECT_TIMEOUT, Forwarder, Output, QueryId, Rejected, TUNNEL_TIMEOUT,
};
use crate::proxy::ProxyAddresses;
use crate::query::Query;
use crate::resources::Resource;
use crate::response::fit;
use crate::sentinels::{Origin, Sentinels, UpstreamConfig};
use crate::stub::{Assignment, Resolution, StubResolver};
use crate::upstream::{Transport, Upstream};
use crate::wire::MessageError;

/// The DNS server that the apps of a device see.
#[derive(Debug)]
pub struct Resolver {
    sentinels: Sentinels,
    stub: StubResolver,
    cache: Cache,
    forwarder: Forwarder,
    /// Answers to queries up to this one must not be kept: they may be void by now.
    stale: QueryId,
}

/// What became of a query. Messages that it leads to come from [`Resolver::poll_output`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It is answered. If it brought the name of a resource into use, this says which.
    Answered(Option<Assignment>),
    /// A server has to answer it.
    Forwarded,
    /// A gateway of this resource has to answer it. As soon as one is known, hand the query to
    /// [`Resolver::forward_to_gateway`], or to [`Resolver::refuse`] if there won't be one.
    AskGateway {
        /// The resource.
        resource: Uuid,
        /// The query, to be handed back.
        query: Query,
    },
    /// It went to a sentinel without a server and is dropped.
    Unassigned,
}

impl Resolver {
    /// Starts without servers and resources. `seed` must be random. Names that have addresses in
    /// `proxies` keep them.
    pub fn new(seed: [u8; 32], proxies: ProxyAddresses) -> Self {
        let forwarder = Forwarder::new(seed);
        Self {
            sentinels: Sentinels::default(),
            stub: StubResolver::new(proxies),
            cache: Cache::default(),
            stale: forwarder.latest(),
            forwarder,
        }
    }

    /// Sets the servers; true if the sentinels changed and the system must be told. What is under
    /// way to the previous servers fails then, so that the system asks the new ones.
    pub fn set_upstreams(&mut self, config: &UpstreamConfig) -> bool {
        let changed = self.sentinels.update(config);
        if changed {
            self.reset();
        }
        changed
    }

    /// Adds or replaces a resource; false if it is there already, just like this.
    pub fn upsert_resource(&mut self, resource: Resource) -> bool {
        let changed = self.stub.upsert_resource(resource);
        if changed {
            self.flush();
        }
        changed
    }

    /// Removes a resource; false if there is none with this id.
    pub fn remove_resource(&mut self, id: Uuid) -> bool {
        let changed = self.stub.remove_resource(id);
        if changed {
            self.flush();
        }
        changed
    }

    /// Gives up all that is under way, as after a change of network.
    pub fn reset(&mut self) {
        self.flush();
        self.forwarder.fail_all();
    }

    /// The sentinels and their servers.
    pub fn sentinels(&self) -> &Sentinels {
        &self.sentinels
    }

    /// The resources and the names that have proxy addresses.
    pub fn stub(&self) -> &StubResolver {
        &self.stub
    }

    /// Notes that a packet went to a proxy address, so that its name keeps it. Cheap.
    pub fn touch(&mut self, address: IpAddr, now: Instant) {
        self.stub.touch(address, now);
    }

    /// Takes a query that `client` sent to a sentinel.
    ///
    /// # Errors
    ///
    /// If it is no query that can be understood; it is dropped.
    pub fn handle_query(
        &mut self,
        client: Client,
        message: &[u8],
        now: Instant,
    ) -> Result<Handled, MessageError> {
        let query = Query::parse(message)?;
        let Some(server) = self.sentinels.upstream(client.server.ip()).cloned() else {
            return Ok(Handled::Unassigned);
        };
        // Before the cache: what a resource covers is never answered by what a server once said.
        let resource = match self.stub.resolve(&query, now) {
            Resolution::Answer { message, assignment } => {
                self.forwarder.answer(client, message);
                return Ok(Handled::Answered(assignment));
            }
            Resolution::ForwardToGateway { resource } => Some(resource),
            Resolution::Forward => None,
        };
        if let Some(mut answer) = self.cache.answer(&query, now) {
            if client.transport == Transport::Udp {
                answer = fit(answer, query.udp_limit());
            }
            self.forwarder.answer(client, answer);
            return Ok(Handled::Answered(None));
        }
        if let Some(resource) = resource {
            return Ok(Handled::AskGateway { resource, query });
        }
        let timeout = match (self.sentinels.origin(), &server) {
            (Some(Origin::Portal), Upstream::Do53(_)) => TUNNEL_TIMEOUT,
            _ => DIRECT_TIMEOUT,
        };
        self.forwarder.forward(client, query, &server, timeout, now);
        Ok(Handled::Forwarded)
    }

    /// Sends a query on to a gateway, which serves DNS at this address inside the tunnel.
    pub fn forward_to_gateway(
        &mut self,
        client: Client,
        query: Query,
        gateway: SocketAddr,
        now: Instant,
    ) {
        self.forwarder.forward(client, query, &Upstream::Do53(gateway), TUNNEL_TIMEOUT, now);
    }

    /// Answers a query with SERVFAIL.
    pub fn refuse(&mut self, client: Client, query: &Query) {
        self.forwarder.answer(client, query.answer_empty(ResponseCode::ServFail));
    }

    /// Takes what came back for a query, `from` this server.
    ///
    /// # Errors
    ///
    /// If it is not the response to the query; then it is ignored and the query waits on.
    pub fn handle_response(
        &mut self,
        id: QueryId,
        from: &Upstream,
        message: &[u8],
        now: Instant,
    ) -> Result<(), Rejected> {
        let answered = self.forwarder.handle_response(id, from, message)?;
        if id > self.stale {
            self.cache.insert(&answered.query, &answered.answer, now);
        }
        Ok(())
    }

    /// Takes the news that nothing can come back for a query any more: its server is unreachable,
    /// the connection broke, the request failed. Who asked gets SERVFAIL.
    pub fn handle_failure(&mut self, id: QueryId) {
        self.forwarder.handle_failure(id);
    }

    /// Does what is due. To be called at the instant of [`Output::Timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.forwarder.handle_timeout(now);
    }

    /// What is next to do. Call it until it returns [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        self.forwarder.poll_output()
    }

    fn flush(&mut self) {
        self.cache.flush();
        self.stale = self.forwarder.latest();
    }
}
