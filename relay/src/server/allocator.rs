//! How allocations come and go.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use connlib_stun::{Attribute, FAMILY_IP4, FAMILY_IP6};
use rand_chacha::ChaCha20Rng;

use super::allocation::{Allocation, Grant, State};
use super::allocations::{Allocations, Expired, NewAllocation};
use super::auth::Identity;
use super::budget::Budget;
use super::config::{Config, PerUser};
use super::counters::Drop;
use super::limits::{Limits, Rate};
use super::open_ports::OpenPorts;
use super::output::{
    AllocationId, ChannelBinding, Families, FiveTuple, Output, PortError, UsernameMoved,
};
use super::peers::PeerPolicy;
use super::ports::Ports;
use super::quota::Quota;
use super::responder::{Responder, Trust};
use super::response::{Header, Response};
use super::wish::Wish;

/// Ports that are tried for one allocation.
const PORT_ATTEMPTS: u32 = 32;

/// Makes allocations, and ends them.
pub(crate) struct Allocator {
    public_ip4: Option<IpAddr>,
    public_ip6: Option<IpAddr>,
    limits: Limits,
    quota: Quota,
    allocating: Budget,
    ports: Ports,
    open_ports: OpenPorts,
    rng: ChaCha20Rng,
    pub(crate) allocations: Allocations,
    pub(crate) is_draining: bool,
}

impl Allocator {
    pub(crate) fn new(config: &Config, hash_seed: u64, rng: ChaCha20Rng, now: Instant) -> Self {
        let Limits { allocating, allocations_per_user, .. } = config.limits;
        let burst = u32::try_from(allocations_per_user).unwrap_or(u32::MAX);
        let allocating = Rate { burst: allocating.burst.max(burst), ..allocating };
        Self {
            public_ip4: config.public_ip4.map(IpAddr::from),
            public_ip6: config.public_ip6.map(IpAddr::from),
            limits: config.limits,
            quota: config.quota.clone(),
            allocating: Budget::new(allocating, hash_seed, now),
            ports: Ports::new(config.allocation_ports.clone()),
            open_ports: config.open_ports.clone(),
            rng,
            allocations: Allocations::new(config.limits, hash_seed),
            is_draining: false,
        }
    }

    /// The families that allocations can have.
    pub(crate) fn families(&self) -> Families {
        Families { ip4: self.public_ip4.is_some(), ip6: self.public_ip6.is_some() }
    }

    /// What an earlier request with the same 5-tuple makes of this one (RFC 8656 §7.2, 2.), if there was one.
    pub(crate) fn repeated(
        &self,
        client: &FiveTuple,
        header: &Header,
        identity: &Identity<'_>,
    ) -> Option<Result<Response, Drop>> {
        let existing = self.allocations.of_client(client)?;
        let is_repeated = existing.grant.transaction == header.transaction
            && *existing.username == *identity.username;
        Some(match existing.state {
            State::Opening { .. } if is_repeated => Err(Drop::Repeated),
            State::Open if is_repeated => Ok(self.success(existing, header)),
            _ => Ok(Response::error(header, 437)),
        })
    }

    /// Begins an allocation (RFC 8656 §7.2). The error is the code to answer with.
    pub(crate) fn begin(
        &mut self,
        client: FiveTuple,
        header: &Header,
        identity: &Identity<'_>,
        wish: Wish,
        now: Instant,
    ) -> Result<Output, u16> {
        if self.is_draining {
            return Err(508);
        }
        let &Identity { username, owner, per_user, .. } = identity;
        if !self.allocating.take(owner, now) {
            return Err(486);
        }
        let place = self.quota.take(owner, per_user, client.remote.ip(), &self.limits)?;
        let username = if owner == username { Arc::clone(place.owner()) } else { username.into() };
        let Wish { families, missing, lifetime, must_be_even } = wish;
        let port = self.ports.take(must_be_even, &mut self.rng).ok_or(508_u16)?;
        let state = State::Opening {
            header: *header,
            signature: identity.signature,
            must_be_even,
            is_newest_only: per_user == PerUser::Newest,
            attempts: 1,
        };
        let grant = Grant { transaction: header.transaction, lifetime, missing };
        let new = NewAllocation { client, username, place, port, families, state, grant };
        let allocation = self.allocations.insert(new, now);
        Ok(Output::OpenPort { allocation, port, families })
    }

    pub(crate) fn handle_port_opened(
        &mut self,
        id: AllocationId,
        result: Result<(), PortError>,
        now: Instant,
        out: &mut Responder,
    ) {
        let Some(Allocation {
            state: State::Opening { attempts, must_be_even, .. },
            port,
            families,
            ..
        }) = self.allocations.get_mut(id)
        else {
            return;
        };
        let other_port = match result {
            Ok(()) => return self.open(id, now, out),
            Err(PortError::InUse) if *attempts < PORT_ATTEMPTS => {
                self.ports.take(*must_be_even, &mut self.rng)
            }
            Err(_) => None,
        };
        let Some(other_port) = other_port else { return self.refuse(id, now, out) };
        // Not before, or it could be drawn again.
        self.ports.release(std::mem::replace(port, other_port));
        *attempts += 1;
        out.push(Output::OpenPort { allocation: id, port: other_port, families: *families });
    }

    /// The port of an allocation is open: it can be used from now on.
    fn open(&mut self, id: AllocationId, now: Instant, out: &mut Responder) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        let State::Opening { header, signature, is_newest_only, .. } =
            std::mem::replace(&mut allocation.state, State::Open)
        else {
            return;
        };
        self.open_ports.add(allocation.port, allocation.families);
        let (client, at) = (allocation.client, allocation.created_at);
        if is_newest_only {
            let username = allocation.username.clone();
            let moved = UsernameMoved { username, is_stream: client.transport.is_stream(), at };
            self.end_older(&moved, Some(id), out);
            out.push(Output::UsernameMoved(moved));
        }
        let Some(allocation) = self.allocations.get(id) else { return };
        tracing::debug!(client = %client.remote, port = allocation.port, "allocated");
        out.counters.allocations += 1;
        let response = self.success(allocation, &header);
        out.respond(client, &header, response, Trust::Known(signature), now);
    }

    /// No port could be opened for an allocation.
    fn refuse(&mut self, id: AllocationId, now: Instant, out: &mut Responder) {
        let Some(allocation) = self.allocations.remove(id) else { return };
        self.ports.release(allocation.port);
        if let State::Opening { header, signature, .. } = &allocation.state {
            let response = Response::error(header, 508);
            out.respond(allocation.client, header, response, Trust::Known(*signature), now);
        }
    }

    /// RFC 8656 §7.2 at its end.
    fn success(&self, allocation: &Allocation, header: &Header) -> Response {
        let Allocation { families, grant, port, client, .. } = allocation;
        let mut response = Response::success(header);
        let ip4 = self.public_ip4.filter(|_| families.ip4);
        let ip6 = self.public_ip6.filter(|_| families.ip6);
        for ip in [ip4, ip6].into_iter().flatten() {
            let relayed = SocketAddr::new(ip, *port);
            response = response.xor_address(Attribute::XOR_RELAYED_ADDRESS, relayed);
        }
        response = response
            .lifetime(grant.lifetime)
            .xor_address(Attribute::XOR_MAPPED_ADDRESS, client.remote);
        let missing = [(grant.missing.ip4, FAMILY_IP4), (grant.missing.ip6, FAMILY_IP6)];
        for (_, family) in missing.into_iter().filter(|(is_missing, _)| *is_missing) {
            response = response.attribute(Attribute::ADDRESS_ERROR_CODE, &[family, 0, 4, 40]);
        }
        response
    }

    /// Ends older allocations of a username that come over the same kind of transport.
    pub(crate) fn end_older(
        &mut self,
        moved: &UsernameMoved,
        newest: Option<AllocationId>,
        out: &mut Responder,
    ) {
        let ids = self.allocations.of_user(&moved.username).iter().copied();
        let ids = ids.filter(|id| Some(*id) != newest).filter_map(|id| self.allocations.get(id));
        let is_older = |allocation: &&Allocation| {
            allocation.client.transport.is_stream() == moved.is_stream
                && allocation.created_at <= moved.at
        };
        let ids: Vec<_> = ids.filter(is_older).map(|allocation| allocation.id).collect();
        ids.into_iter().for_each(|id| self.end(id, out));
    }

    /// Ends the allocation of a 5-tuple that is now somebody else's. The usernames of the portal belong to one process
    /// each: after a crash, the next one has the same address and would be refused for minutes.
    pub(crate) fn end_other_user_s(
        &mut self,
        client: &FiveTuple,
        username: &str,
        out: &mut Responder,
    ) {
        let existing = self.allocations.of_client(client);
        let id = existing.filter(|it| *it.username != *username).map(|it| it.id);
        id.into_iter().for_each(|id| self.end(id, out));
    }

    /// Ends what has expired.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Responder) {
        while let Some(expired) = self.allocations.expire(now) {
            match expired {
                Expired::Allocation(id) => self.end(id, out),
                Expired::Channel(binding) => out.push(Output::ChannelUnbound(binding)),
                Expired::Permission => {}
            }
        }
    }

    /// Ends an allocation and all that belongs to it.
    pub(crate) fn end(&mut self, id: AllocationId, out: &mut Responder) {
        let Some(allocation) = self.allocations.remove(id) else { return };
        unbind(allocation.bindings(), out);
        let Allocation { port, families, .. } = *allocation;
        // A port that is not open may be another worker's.
        if allocation.is_open() {
            self.open_ports.remove(port, families);
        }
        self.ports.release(port);
        out.push(Output::ClosePort { allocation: id, port, families });
    }

    /// Ends these families of an allocation, and with the last one the allocation.
    pub(crate) fn end_families(
        &mut self,
        id: AllocationId,
        families: Families,
        out: &mut Responder,
    ) {
        let Some(allocation) = self.allocations.get(id) else { return };
        let port = allocation.port;
        if allocation.families.without(families).is_empty() {
            return self.end(id, out);
        }
        self.open_ports.remove(port, families);
        unbind(self.allocations.drop_families(id, families), out);
        out.push(Output::ClosePort { allocation: id, port, families });
    }

    /// Ends the channels and permissions of peers that are none any more.
    pub(crate) fn end_forbidden(&mut self, policy: &PeerPolicy, out: &mut Responder) {
        let ids: Vec<_> = self.allocations.ids().collect();
        for id in ids {
            unbind(self.allocations.drop_peers(id, |ip| !policy.allows(ip)), out);
        }
    }
}

fn unbind(bindings: impl IntoIterator<Item = ChannelBinding>, out: &mut Responder) {
    bindings.into_iter().for_each(|binding| out.push(Output::ChannelUnbound(binding)));
}
