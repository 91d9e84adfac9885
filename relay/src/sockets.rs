//! The sockets that are there from the start, bound before anything else is done.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::options::{AddressOptions, StreamOptions};
use crate::streams::{Certificates, Listener, TlsFiles};
use crate::udp::{Sharing, UdpSocket, is_own};
use crate::worker::{BindAddresses, Hairpin, Listen, SOCKET_BUFFER};

/// How long a start waits for a public address: a lease may be on its way, and a new IPv6 address is first looked for in
/// the network for a second or two (RFC 4862 §5.4).
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks.
const GLANCE: Duration = Duration::from_millis(100);

/// Where the relay is reached.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Where clients are listened to.
    listen: BindAddresses,
    /// Where allocations are bound: of the families that have a public address.
    pub(crate) relay: BindAddresses,
    /// The short cuts to public addresses that another machine has.
    pub(crate) hairpin: Hairpin,
}

impl Addresses {
    /// Reads the options, and looks which of the addresses are this machine's. Those that should be and are not yet have
    /// some seconds to come.
    pub(crate) async fn find(options: &AddressOptions) -> Self {
        wait_for_public(options).await;
        let v4 = family(
            options.public_ip4_addr.map(IpAddr::V4),
            options.bind_ip4_addr.map(IpAddr::V4),
            Ipv4Addr::UNSPECIFIED.into(),
        );
        let v6 = family(
            options.public_ip6_addr.map(IpAddr::V6),
            options.bind_ip6_addr.map(IpAddr::V6),
            Ipv6Addr::UNSPECIFIED.into(),
        );
        let mut hairpin = Hairpin::default();
        let mut relay = BindAddresses { v4: None, v6: None };
        for (public, bind, place) in [
            (options.public_ip4_addr.map(IpAddr::V4), v4, &mut relay.v4),
            (options.public_ip6_addr.map(IpAddr::V6), v6, &mut relay.v6),
        ] {
            let (Some(public), Some(bind)) = (public, bind) else { continue };
            *place = Some(bind);
            if !is_own(public) {
                hairpin.add(public, bind);
            }
        }
        Self { listen: BindAddresses { v4, v6 }, relay, hairpin }
    }
}

/// Waits for public addresses, but for families whose sockets are bound elsewhere by the administrator's wish.
async fn wait_for_public(options: &AddressOptions) {
    let v4 = options.public_ip4_addr.filter(|_| options.bind_ip4_addr.is_none());
    let v6 = options.public_ip6_addr.filter(|_| options.bind_ip6_addr.is_none());
    let wanted = [v4.map(IpAddr::V4), v6.map(IpAddr::V6)];
    let missing = || wanted.into_iter().flatten().filter(|public| !is_own(*public));
    if missing().next().is_none() {
        return;
    }
    tracing::info!(missing = ?missing().collect::<Vec<_>>(), "waiting for a public address to come");
    let end = Instant::now() + PATIENCE;
    while missing().next().is_some() && Instant::now() < end {
        tokio::time::sleep(GLANCE).await;
    }
    for public in missing() {
        tracing::warn!(
            %public,
            "this machine does not have the public address: the relay goes on as behind a router that translates it, and \
             listens on all addresses. If that is meant, say so by --bind-ip4-addr or --bind-ip6-addr (0.0.0.0 and :: are \
             all addresses). If it is not, nobody reaches what is relayed: give the machine the address and start the \
             relay again"
        );
    }
}

/// Where to bind: what is asked for; or the public address if it is this machine's, so that replies and relayed
/// datagrams come from it; or all addresses, if a router translates. `None`: the family is not served.
fn family(public: Option<IpAddr>, bind: Option<IpAddr>, all: IpAddr) -> Option<IpAddr> {
    bind.or_else(|| public.map(|public| if is_own(public) { public } else { all }))
}

/// Binds the listening port for each worker, in both families where there are both.
pub(crate) fn bind_udp(addresses: &Addresses, port: u16, workers: usize) -> Result<Vec<Listen>> {
    let mut all: Vec<Listen> = (0..workers).map(|_| Listen::default()).collect();
    for ip in [addresses.listen.v4, addresses.listen.v6].into_iter().flatten() {
        let address = SocketAddr::new(ip, port);
        for (index, listen) in all.iter_mut().enumerate() {
            let sharing = if index == 0 { Sharing::First } else { Sharing::Joining };
            let socket = UdpSocket::bind(address, sharing, SOCKET_BUFFER)
                .with_context(|| cannot_bind("UDP", address))?;
            let place = if ip.is_ipv4() { &mut listen.v4 } else { &mut listen.v6 };
            *place = Some((socket, address));
        }
        tracing::info!(%address, "listening for TURN over UDP");
    }
    let first = all.first().and_then(|listen| listen.v4.as_ref().or(listen.v6.as_ref()));
    if let Some(buffer) = first.and_then(|(socket, _)| socket.receive_buffer().ok())
        && buffer < SOCKET_BUFFER
    {
        tracing::info!(
            buffer,
            wanted = SOCKET_BUFFER,
            "the sockets' buffers are small, bursts will be lost: set the sysctls net.core.rmem_max and \
             net.core.wmem_max, or grant CAP_NET_ADMIN"
        );
    }
    Ok(all)
}

/// Binds the listeners for streams. The certificates are there if TLS is served.
pub(crate) fn bind_streams(
    options: &StreamOptions,
) -> Result<(Vec<Arc<Listener>>, Option<Certificates>)> {
    let files = match (&options.tls_cert, &options.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })
        }
        _ => None,
    };
    let certificates = files.map(Certificates::load).transpose()?;
    let mut listeners = Vec::new();
    let plain = options.listen_tcp.iter().map(|address| (address, "TCP", None));
    let tls = options.listen_tls.iter().map(|address| (address, "TLS", certificates.clone()));
    for (address, protocol, certificates) in plain.chain(tls) {
        let listener = Listener::bind(*address, certificates)
            .with_context(|| cannot_bind(protocol, *address))?;
        tracing::info!(%address, "listening for TURN over {protocol}");
        listeners.push(Arc::new(listener));
    }
    Ok((listeners, certificates))
}

fn cannot_bind(protocol: &str, address: SocketAddr) -> String {
    format!(
        "cannot listen on {address} for TURN over {protocol} (does another relay run here? `ss -lnptu` shows who has \
         the port; is the address this machine's?)"
    )
}
