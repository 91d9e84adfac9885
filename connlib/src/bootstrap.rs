//! The portal's address, found without our own tunnel.
//!
//! The system's DNS settings may point at us, and packets to its resolvers may be meant for the tunnel: so its resolvers
//! are asked directly, by sockets that bypass the tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::proto::op::{Message, Query};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

/// How long resolvers may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// More resolvers are not asked.
const MAX_SERVERS: usize = 8;

/// The system's resolvers, as they are at present.
#[derive(Debug, Clone, Default)]
pub(crate) struct SystemResolvers(Arc<Mutex<Vec<SocketAddr>>>);

impl SystemResolvers {
    pub(crate) fn set(&self, servers: &[SocketAddr]) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = servers.to_vec();
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The addresses of a host: as it stands there, from the hosts file, from all resolvers at once of which the
    /// first that knows it counts, and if they know nothing from whatever else the system asks.
    pub(crate) async fn resolve(self, host: String, mark: u32) -> io::Result<Vec<IpAddr>> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
            return Ok(vec![ip]);
        }
        let listed = from_hosts_file(&host).await;
        if !listed.is_empty() {
            return Ok(listed);
        }
        let found = ask_all(&host, &self.servers(), mark).await;
        if !found.is_empty() {
            return Ok(found);
        }
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

async fn from_hosts_file(host: &str) -> Vec<IpAddr> {
    let text = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(ip)
    };
    text.lines().filter_map(address).collect()
}

async fn ask_all(host: &str, servers: &[SocketAddr], mark: u32) -> Vec<IpAddr> {
    let servers = servers.iter().take(MAX_SERVERS);
    let mut questions: FuturesUnordered<_> =
        servers.map(|server| ask_both(host, *server, mark)).collect();
    // One that is silent keeps nobody from connecting.
    while let Some(found) = questions.next().await {
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

async fn ask_both(host: &str, server: SocketAddr, mark: u32) -> Vec<IpAddr> {
    let patiently =
        async |kind| match tokio::time::timeout(PATIENCE, ask(host, kind, server, mark)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a resolver did not answer");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
    let (v4, v6) = tokio::join!(patiently(RecordType::A), patiently(RecordType::AAAA));
    v4.into_iter().chain(v6).collect()
}

async fn ask(
    host: &str,
    kind: RecordType,
    server: SocketAddr,
    mark: u32,
) -> io::Result<Vec<IpAddr>> {
    let mut name = Name::from_utf8(host).map_err(io::Error::other)?;
    name.set_fqdn(true);
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let mut question = Message::query();
    question.metadata.id = u16::from_ne_bytes(id);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    connlib_net::set_mark(&socket, mark)?;
    socket.connect(server).await?;
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(buffer.get(..len).unwrap_or_default()) else { continue };
        if answer.metadata.id == question.metadata.id && answer.queries == question.queries {
            return Ok(answer.answers.iter().filter_map(|record| address(&record.data)).collect());
        }
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_resolver_that_is_silent_keeps_nobody_waiting() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let alive = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let servers = [silent.local_addr().unwrap(), alive.local_addr().unwrap()];
        let answers = async {
            let mut buffer = [0; 512];
            loop {
                let (len, from) = alive.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..len]).unwrap();
                let (name, kind) =
                    (question.queries[0].name().clone(), question.queries[0].query_type());
                let mut answer = question.into_response();
                if kind == RecordType::A {
                    let data = RData::A(Ipv4Addr::new(192, 0, 2, 1).into());
                    answer.add_answer(hickory_resolver::proto::rr::Record::from_rdata(
                        name, 60, data,
                    ));
                }
                alive.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        };
        tokio::select! {
            biased;
            () = answers => {}
            found = ask_all("portal.example", &servers, 0) => {
                assert_eq!(found, [IpAddr::from([192, 0, 2, 1])]);
            }
            // The other one is still waited for then.
            () = tokio::time::sleep(PATIENCE) => panic!("waited for the silent resolver"),
        }
    }
}
