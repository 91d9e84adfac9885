//! The names of the world, and messages about them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use connlib_dns::{Query, ResponseCode};

/// An address family, as a record type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

/// What resolvers know at present.
#[derive(Debug, Default)]
pub(crate) struct Names {
    records: BTreeMap<String, Vec<IpAddr>>,
}

impl Names {
    pub(crate) fn set(&mut self, name: &str, addresses: &[IpAddr]) {
        self.records.insert(name.to_owned(), addresses.to_vec());
    }

    /// The addresses of a name; none if there is no such name.
    pub(crate) fn resolve(&self, name: &str) -> Vec<IpAddr> {
        self.records.get(name).cloned().unwrap_or_default()
    }

    /// The answer of a resolver of the public internet, which knows no names of sites.
    pub(crate) fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let query = Query::parse(message).ok()?;
        let name = query.name()?.as_str();
        let addresses = if is_public(name) { self.resolve(name) } else { Vec::new() };
        Some(match addresses.is_empty() {
            true => query.answer_empty(ResponseCode::NXDomain),
            false => query.answer_addresses(&addresses, 60),
        })
    }
}

/// Whether the world knows a name, and not only a site.
fn is_public(name: &str) -> bool {
    name.ends_with(".org")
}

/// A query for the addresses of a name.
pub(crate) fn query(id: u16, name: &str, family: Family) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    let record_type: u8 = match family {
        Family::V4 => 1,
        Family::V6 => 28,
    };
    message.extend([0, 0, record_type, 0, 1]);
    message
}

/// An answer to a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: u16,
    pub(crate) code: u8,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Reads an answer as the servers of this project write it: names of records are pointers.
pub(crate) fn parse(message: &[u8]) -> Option<Answer> {
    let id = u16::from_be_bytes([*message.first()?, *message.get(1)?]);
    let code = message.get(3)? & 0x0f;
    let count = *message.get(7)?;
    let mut rest = message.get(12..)?;
    while *rest.first()? != 0 {
        rest = rest.get(usize::from(rest[0]) + 1..)?;
    }
    rest = rest.get(5..)?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let (head, tail) = rest.split_at_checked(12)?;
        let len = usize::from(u16::from_be_bytes([head[10], head[11]]));
        let (data, tail) = tail.split_at_checked(len)?;
        match (head[3], len) {
            (1, 4) => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            (28, 16) => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            _ => {}
        }
        rest = tail;
    }
    Some(Answer { id, code, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resolver_answers_can_be_read() {
        let mut names = Names::default();
        let addresses: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "fd02::1"].map(|ip| ip.parse().unwrap());
        names.set("web.org", &addresses);
        names.set("web.example", &addresses);
        let ask = |name, family| parse(&names.answer(&query(7, name, family)).unwrap()).unwrap();
        let (v4, v6) = addresses.split_at(2);
        assert_eq!(ask("web.org", Family::V4), Answer { id: 7, code: 0, addresses: v4.into() });
        assert_eq!(ask("web.org", Family::V6), Answer { id: 7, code: 0, addresses: v6.into() });
        assert_eq!(ask("web.example", Family::V4), Answer { id: 7, code: 3, addresses: vec![] });
    }
}
