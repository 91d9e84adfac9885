//! Answers for the names of DNS resources.

use std::net::IpAddr;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use uuid::Uuid;

use crate::name::Name;
use crate::proxy::{ProxyAddresses, ProxySet};
use crate::query::Query;
use crate::ranges::is_sentinel;
use crate::resources::{Resource, Resources};

/// Seconds that answers made up here may be kept. Every use of a name is thus seen by a query.
pub(crate) const STUB_TTL: u32 = 1;

/// Browsers ask for this name to learn whether they may use a DNS over HTTPS of their own. The
/// answer that it doesn't exist asks them not to.
const CANARY: &str = "use-application-dns.net";

/// Decides about each query: answers for names of DNS resources with proxy addresses, leaves the
/// rest to others.
///
/// | type, of a name that a resource covers | result |
/// |---|---|
/// | A, AAAA | proxy addresses, or none if no resource has the family |
/// | HTTPS, SVCB | an empty answer, as address hints would bypass the proxy addresses |
/// | SRV, TXT | the gateway is asked |
/// | all others | the configured server is asked, as for names that are no resource's |
///
/// A reverse look-up of a proxy address gives its name. Sentinels have none.
#[derive(Debug, Default)]
pub struct StubResolver {
    resources: Resources,
    proxies: ProxyAddresses,
}

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// This is the answer.
    Answer {
        /// The whole message, ready to be sent.
        message: Vec<u8>,
        /// The name that came into use, unless the query was about something else.
        assignment: Option<Assignment>,
    },
    /// The server that the query was meant for has to answer it.
    Forward,
    /// A gateway of the resource has to answer it.
    ForwardToGateway {
        /// The best match.
        resource: Uuid,
    },
}

/// A name in use, with all that must be known to carry traffic for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The name.
    pub name: Name,
    /// The resources that cover it, the most specific pattern first, then the greatest id; each
    /// with its addresses: four of one family, or four of each, IPv4 first.
    pub resources: Vec<(Uuid, Vec<IpAddr>)>,
    /// A name that gave up these addresses to this one, long unused. Whatever was set up for it
    /// is void.
    pub released: Option<Name>,
}

impl StubResolver {
    /// Starts without resources. Names that have addresses keep them.
    pub fn new(proxies: ProxyAddresses) -> Self {
        Self { resources: Resources::default(), proxies }
    }

    /// Adds or replaces a resource; false if it is there already, just like this.
    pub fn upsert_resource(&mut self, resource: Resource) -> bool {
        self.resources.upsert(resource)
    }

    /// Removes a resource; false if there is none with this id. Names keep their addresses.
    pub fn remove_resource(&mut self, id: Uuid) -> bool {
        self.resources.remove(id)
    }

    /// The resource with this id.
    pub fn resource(&self, id: Uuid) -> Option<&Resource> {
        self.resources.find(id)
    }

    /// The resources that cover the name: the most specific pattern first, then the greatest id.
    pub fn resources_of(&self, name: &Name) -> Vec<&Resource> {
        self.resources.matching(name)
    }

    /// Which name has which addresses; clone it for the next session.
    pub fn proxies(&self) -> &ProxyAddresses {
        &self.proxies
    }

    /// Notes that a packet went to the address, so that its name keeps it.
    pub fn touch(&mut self, address: IpAddr, now: Instant) {
        self.proxies.touch(address, now);
    }

    /// Decides about a query.
    pub fn resolve(&mut self, query: &Query, now: Instant) -> Resolution {
        let Some(name) = query.name().filter(|_| query.is_lookup()) else {
            return Resolution::Forward;
        };
        if name.as_str() == CANARY {
            return unassigned(query.answer_empty(ResponseCode::NXDomain));
        }
        match query.record_type() {
            RecordType::PTR => self.resolve_reverse(query, name),
            RecordType::A | RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => {
                self.resolve_forward(query, name, now)
            }
            RecordType::SRV | RecordType::TXT => match self.resources.matching(name).first() {
                Some(resource) => Resolution::ForwardToGateway { resource: resource.id },
                None => Resolution::Forward,
            },
            _ => Resolution::Forward,
        }
    }

    fn resolve_forward(&mut self, query: &Query, name: &Name, now: Instant) -> Resolution {
        let resources = self.resources.matching(name);
        if resources.is_empty() {
            return Resolution::Forward;
        }
        let (set, released) = match self.proxies.assign(name, now) {
            Ok(assigned) => assigned,
            Err(error) => {
                tracing::debug!(%name, %error, "No addresses for a name");
                return unassigned(query.answer_empty(ResponseCode::ServFail));
            }
        };
        if let Some(released) = &released {
            tracing::debug!(%name, %released, "A long unused name gives up its addresses");
        }
        let message = query.answer_addresses(&reachable(&resources, set), STUB_TTL);
        let resources = resources.iter().map(|r| (r.id, set.addresses(r.ip_stack))).collect();
        let assignment = Assignment { name: name.clone(), resources, released };
        Resolution::Answer { message, assignment: Some(assignment) }
    }

    /// Independent of whether a resource still covers the name.
    fn resolve_reverse(&self, query: &Query, name: &Name) -> Resolution {
        match name.reverse_address() {
            Some(address) if is_sentinel(address) => {
                unassigned(query.answer_empty(ResponseCode::NXDomain))
            }
            Some(address) => match self.proxies.name_of(address) {
                Some(name) => unassigned(query.answer_ptr(name, STUB_TTL)),
                None => Resolution::Forward,
            },
            None => Resolution::Forward,
        }
    }
}

fn unassigned(message: Vec<u8>) -> Resolution {
    Resolution::Answer { message, assignment: None }
}

/// The addresses of all families that at least one of the resources has.
fn reachable(resources: &[&Resource], set: ProxySet) -> Vec<IpAddr> {
    let v4 = resources.iter().any(|r| r.ip_stack.has_v4());
    let v6 = resources.iter().any(|r| r.ip_stack.has_v6());
    let v4 = set.v4().into_iter().filter(|_| v4).map(IpAddr::V4);
    let v6 = set.v6().into_iter().filter(|_| v6).map(IpAddr::V6);
    v4.chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::op::Message;

    use super::*;
    use crate::query::tests::query;
    use crate::resources::IpStack;

    fn resource(id: u128, pattern: &str, ip_stack: IpStack) -> Resource {
        Resource { id: Uuid::from_u128(id), pattern: pattern.parse().unwrap(), ip_stack }
    }

    fn stub(resources: &[(u128, &str, IpStack)]) -> StubResolver {
        let mut stub = StubResolver::default();
        for (id, pattern, stack) in resources {
            stub.upsert_resource(resource(*id, pattern, *stack));
        }
        stub
    }

    /// Code and records of an answer; what else came out otherwise.
    fn resolve(stub: &mut StubResolver, name: &str, rtype: RecordType) -> Result<String, String> {
        match stub.resolve(&query(name, rtype), Instant::now()) {
            Resolution::Answer { message, .. } => {
                let message = Message::from_vec(&message).unwrap();
                assert!(message.answers.iter().all(|r| r.ttl == 1 && r.record_type() == rtype));
                let records: Vec<_> = message.answers.iter().map(|r| r.data.to_string()).collect();
                Ok(format!("{:?} {}", message.metadata.response_code, records.join(" ")))
            }
            Resolution::Forward => Err("forward".to_owned()),
            Resolution::ForwardToGateway { resource } => {
                Err(format!("gateway of {}", resource.as_u128()))
            }
        }
    }

    const V4: &str = "NoError 100.96.0.1 100.96.0.2 100.96.0.3 100.96.0.4";
    const V6: &str = "NoError fd00:2021:1111:8000:: fd00:2021:1111:8000::1 \
                      fd00:2021:1111:8000::2 fd00:2021:1111:8000::3";

    #[test]
    fn each_query_type_has_its_treatment() {
        let mut stub = stub(&[(1, "*.example.com", IpStack::Dual)]);
        for (name, rtype, expected) in [
            ("web.example.com.", RecordType::A, Ok(V4)),
            ("WEB.Example.com.", RecordType::AAAA, Ok(V6)),
            ("web.example.com.", RecordType::HTTPS, Ok("NoError ")),
            ("web.example.com.", RecordType::SVCB, Ok("NoError ")),
            ("web.example.com.", RecordType::SRV, Err("gateway of 1")),
            ("web.example.com.", RecordType::TXT, Err("gateway of 1")),
            ("web.example.com.", RecordType::MX, Err("forward")),
            ("web.example.com.", RecordType::NS, Err("forward")),
            ("web.example.com.", RecordType::CNAME, Err("forward")),
            ("web.example.com.", RecordType::SOA, Err("forward")),
            ("web.example.com.", RecordType::CAA, Err("forward")),
            ("web.example.com.", RecordType::ANY, Err("forward")),
            ("web.example.com.", RecordType::Unknown(4711), Err("forward")),
            ("web.example.com.", RecordType::PTR, Err("forward")),
            ("web.example.org.", RecordType::A, Err("forward")),
            ("web.example.org.", RecordType::HTTPS, Err("forward")),
            ("web.example.org.", RecordType::SRV, Err("forward")),
            (".", RecordType::NS, Err("forward")),
            ("2.0.96.100.in-addr.arpa.", RecordType::PTR, Ok("NoError web.example.com.")),
            ("5.0.96.100.in-addr.arpa.", RecordType::PTR, Err("forward")),
            ("1.1.1.1.in-addr.arpa.", RecordType::PTR, Err("forward")),
            ("2.0.96.100.in-addr.arpa.", RecordType::A, Err("forward")),
            ("1.111.100.100.in-addr.arpa.", RecordType::PTR, Ok("NXDomain ")),
            ("use-application-dns.net.", RecordType::A, Ok("NXDomain ")),
            ("use-application-dns.net.", RecordType::NS, Ok("NXDomain ")),
            ("Use-Application-DNS.net.", RecordType::TXT, Ok("NXDomain ")),
            ("a.use-application-dns.net.", RecordType::A, Err("forward")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(resolve(&mut stub, name, rtype), expected, "{name} {rtype}");
        }
    }

    #[test]
    fn reverse_lookups_of_v6_proxies() {
        let mut stub = stub(&[(1, "web.example.com", IpStack::Dual)]);
        resolve(&mut stub, "web.example.com.", RecordType::A).unwrap();
        let reverse = format!("3.{}0.0.0.8.1.1.1.1.1.2.0.2.0.0.d.f.ip6.arpa.", "0.".repeat(15));
        let answer = resolve(&mut stub, &reverse, RecordType::PTR);
        assert_eq!(answer.as_deref(), Ok("NoError web.example.com."));
        // Also when no resource covers it any more.
        stub.remove_resource(Uuid::from_u128(1));
        let answer = resolve(&mut stub, &reverse, RecordType::PTR);
        assert_eq!(answer.as_deref(), Ok("NoError web.example.com."));
        assert!(resolve(&mut stub, "web.example.com.", RecordType::A).is_err());
    }

    #[test]
    fn the_stacks_of_the_resources_decide_about_families() {
        for (stacks, v4, v6) in [
            (&[IpStack::Dual][..], true, true),
            (&[IpStack::Ipv4Only], true, false),
            (&[IpStack::Ipv6Only], false, true),
            (&[IpStack::Ipv4Only, IpStack::Ipv6Only], true, true),
        ] {
            let resources: Vec<_> =
                stacks.iter().zip(1..).map(|(stack, id)| (id, "a.example.com", *stack)).collect();
            let mut stub = stub(&resources);
            let a = resolve(&mut stub, "a.example.com.", RecordType::A).unwrap();
            assert_eq!(a, if v4 { V4 } else { "NoError " }, "{stacks:?}");
            let aaaa = resolve(&mut stub, "a.example.com.", RecordType::AAAA).unwrap();
            assert_eq!(aaaa, if v6 { V6 } else { "NoError " }, "{stacks:?}");
        }
    }

    #[test]
    fn a_changed_stack_shows_at_the_next_query() {
        let mut stub = stub(&[(1, "a.example.com", IpStack::Ipv6Only)]);
        assert_eq!(resolve(&mut stub, "a.example.com.", RecordType::A).unwrap(), "NoError ");
        assert!(stub.upsert_resource(resource(1, "a.example.com", IpStack::Ipv4Only)));
        assert_eq!(resolve(&mut stub, "a.example.com.", RecordType::A).unwrap(), V4);
        assert_eq!(resolve(&mut stub, "a.example.com.", RecordType::AAAA).unwrap(), "NoError ");
    }

    #[test]
    fn an_assignment_names_every_resource_with_its_addresses() {
        let mut stub = stub(&[
            (1, "**.example.com", IpStack::Dual),
            (2, "a.example.com", IpStack::Ipv4Only),
            (3, "a.example.com", IpStack::Ipv6Only),
        ]);
        for rtype in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
            let resolution = stub.resolve(&query("a.example.com.", rtype), Instant::now());
            let Resolution::Answer { assignment: Some(assignment), .. } = resolution else {
                panic!("{resolution:?}");
            };
            let set = stub.proxies().of(&assignment.name).unwrap();
            let expected = [
                (3, set.addresses(IpStack::Ipv6Only)),
                (2, set.addresses(IpStack::Ipv4Only)),
                (1, set.addresses(IpStack::Dual)),
            ]
            .map(|(id, addresses)| (Uuid::from_u128(id), addresses));
            assert_eq!(assignment.resources, expected);
            assert_eq!(expected.map(|(_, a)| a.len()), [4, 4, 8]);
            assert_eq!(assignment.name.as_str(), "a.example.com");
        }
    }

    #[test]
    fn exhausted_addresses_fail_until_a_name_is_free() {
        let mut stub = StubResolver::new(ProxyAddresses::with_capacity(1));
        stub.upsert_resource(resource(1, "*.example.com", IpStack::Dual));
        let now = Instant::now();
        stub.resolve(&query("a.example.com.", RecordType::A), now);
        let resolution = stub.resolve(&query("b.example.com.", RecordType::A), now);
        let Resolution::Answer { message, assignment: None } = resolution else {
            panic!("{resolution:?}");
        };
        let code = Message::from_vec(&message).unwrap().metadata.response_code;
        assert_eq!(code, ResponseCode::ServFail);

        let later = now + Duration::from_secs(3600);
        let resolution = stub.resolve(&query("b.example.com.", RecordType::A), later);
        let Resolution::Answer { assignment: Some(assignment), .. } = resolution else {
            panic!("{resolution:?}");
        };
        assert_eq!(assignment.released, Some("a.example.com".parse().unwrap()));
    }
}
