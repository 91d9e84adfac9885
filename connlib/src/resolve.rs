//! Names behind a gateway, looked up with the resolvers of its machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use connlib_dns::Name;
use connlib_tunnel::{ResolutionId, ResolveError};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;
use tokio::task::JoinSet;

/// A look-up that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers that are remembered for as long as they live.
const CACHE: u64 = 512;

/// Looks names up, several at a time.
pub(crate) struct Names {
    resolver: Option<TokioResolver>,
    running: JoinSet<Resolved>,
}

/// How a look-up ended.
pub(crate) struct Resolved {
    pub(crate) id: ResolutionId,
    pub(crate) result: Result<Vec<IpAddr>, ResolveError>,
}

impl Names {
    pub(crate) fn new(servers: &[SocketAddr]) -> Self {
        let mut names = Self { resolver: None, running: JoinSet::new() };
        names.set_servers(servers);
        names
    }

    /// From now on, asks these servers.
    pub(crate) fn set_servers(&mut self, servers: &[SocketAddr]) {
        self.resolver = (!servers.is_empty()).then(|| build(servers)).and_then(|built| {
            built.inspect_err(|e| tracing::info!(error = %e, "no resolver for names")).ok()
        });
        if self.resolver.is_none() {
            tracing::info!("this machine has no DNS servers: resources cannot be reached by name");
        }
    }

    /// Begins a look-up; [`next`](Self::next) tells how it ended.
    pub(crate) fn resolve(&mut self, id: ResolutionId, name: &Name) {
        let resolver = self.resolver.clone();
        // A name without a final dot would be tried with the machine's search domains.
        let name = format!("{}.", name.as_str());
        self.running.spawn(async move {
            let result = match resolver {
                Some(resolver) => look_up(&resolver, &name).await,
                None => Err(ResolveError),
            };
            Resolved { id, result }
        });
    }

    /// The next look-up that ended. Pending while none is under way. Cancel safe.
    pub(crate) async fn next(&mut self) -> Resolved {
        loop {
            match self.running.join_next().await {
                Some(Ok(resolved)) => return resolved,
                Some(Err(e)) => tracing::debug!(error = %e, "a look-up broke off"),
                None => std::future::pending().await,
            }
        }
    }
}

fn build(servers: &[SocketAddr]) -> io::Result<TokioResolver> {
    let servers = servers.iter().map(|server| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut config.connections {
            connection.port = server.port();
        }
        config
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.cache_size = CACHE;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = Duration::from_secs(2);
    builder.build().map_err(io::Error::other)
}

/// Both families, looked up independently: one that fails leaves the other.
async fn look_up(resolver: &TokioResolver, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let patiently = |kind| tokio::time::timeout(PATIENCE, resolver.lookup(name, kind));
    let (v4, v6) = tokio::join!(patiently(RecordType::A), patiently(RecordType::AAAA));
    let is_certain = |e: &hickory_resolver::net::NetError| e.is_no_records_found();
    let mut addresses = Vec::new();
    let mut is_known = true;
    for answer in [v4, v6] {
        match answer {
            Ok(Ok(lookup)) => {
                addresses.extend(lookup.answers().iter().filter_map(|r| r.data.ip_addr()));
            }
            Ok(Err(e)) if is_certain(&e) => {}
            Ok(Err(e)) => {
                is_known = false;
                tracing::debug!(error = %e, "a look-up failed");
            }
            Err(_) => is_known = false,
        }
    }
    if is_known || !addresses.is_empty() { Ok(addresses) } else { Err(ResolveError) }
}
