//! The DNS servers that the system would use without us.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;

use crate::dns_control;
use crate::ranges::{SENTINELS_V4, SENTINELS_V6};

/// Where every Linux system says which DNS servers it uses.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where systemd-resolved lists the servers of all interfaces, which it asks on behalf of its own stub.
pub const RESOLVED_UPLINKS: &str = "/run/systemd/resolve/resolv.conf";

/// The addresses of systemd-resolved's stub.
const RESOLVED_STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

const DNS_PORT: u16 = 53;

/// More servers than anybody has; the rest is ignored. So is what a file holds beyond the limit.
const MAX_SERVERS: usize = 16;
const MAX_FILE_SIZE: u64 = 64 * 1024;

/// Reads the servers from a file in the format of resolv.conf(5), best first.
///
/// Our own sentinels are left out, so that queries cannot run in circles. If the file is one that
/// [`DnsControl`](dns_control::DnsControl) wrote, the original is read in its place.
pub fn read(path: &Path) -> io::Result<Vec<SocketAddr>> {
    let text = read_text(path)?;
    if dns_control::is_ours(&text) {
        return match read_text(&dns_control::backup_of(path)) {
            Ok(original) => Ok(parse(&original)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
    }
    Ok(parse(&text))
}

/// The file to [`read`] on this system: `resolv_conf`, unless it names nothing but the stub of systemd-resolved, which would
/// send queries back to us once we are its server.
pub fn upstream_file(resolv_conf: &Path, resolved_uplinks: &Path) -> PathBuf {
    let only_stubs = read_text(resolv_conf).is_ok_and(|text| {
        let servers = parse(&text);
        !servers.is_empty() && servers.iter().all(|server| RESOLVED_STUBS.contains(&server.ip()))
    });
    let path = if only_stubs && resolved_uplinks.exists() { resolved_uplinks } else { resolv_conf };
    path.to_owned()
}

/// The servers in the text of a resolv.conf(5), best first, without our sentinels.
pub fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let server = match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => parse_server(server),
            _ => continue,
        };
        match server {
            Some(server) if !is_sentinel(server.ip()) && !servers.contains(&server) => {
                servers.push(server);
            }
            Some(_) => {}
            None => tracing::debug!(line, "Ignored a DNS server"),
        }
    }
    servers.truncate(MAX_SERVERS);
    servers
}

/// An address, with a scope (`fe80::1%eth0`) if it is valid on one link only.
fn parse_server(text: &str) -> Option<SocketAddr> {
    if let Some((address, scope)) = text.split_once('%') {
        let index = match scope.parse() {
            Ok(index) => index,
            Err(_) => if_nametoindex(scope).ok()?,
        };
        return Some(SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, index).into());
    }
    let address: IpAddr = text.parse().ok()?;
    Some(SocketAddr::new(address, DNS_PORT))
}

fn is_sentinel(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => SENTINELS_V4.contains(&address),
        IpAddr::V6(address) => SENTINELS_V6.contains(&address),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_SIZE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        parse(text).iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 1.1.1.1\n; nameserver 1.1.1.2\n\
                    nameserver 192.0.2.1\n\tnameserver\t2001:db8::1  # ours\nnameserver 192.0.2.1\n\
                    search example.com\noptions ndots:2\nnameserver\nnameserver nonsense\n\
                    nameservers 192.0.2.9\n";
        assert_eq!(addresses(text), ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }

    #[test]
    fn a_link_local_server_keeps_its_interface() {
        let text = "nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%nosuch\n";
        let lo = if_nametoindex("lo").unwrap();
        assert_eq!(addresses(text), [format!("[fe80::1%{lo}]:53"), "[fe80::2%7]:53".to_owned()]);
    }

    #[test]
    fn our_own_sentinels_are_no_servers() {
        let text = "nameserver 100.100.111.1\nnameserver 100.100.112.1\n\
                    nameserver fd00:2021:1111:8000:100:100:111:0\n\
                    nameserver fd00:2021:1111:8000:100:100:112:0\n";
        let expected = ["100.100.112.1:53", "[fd00:2021:1111:8000:100:100:112:0]:53"];
        assert_eq!(addresses(text), expected);
    }

    #[test]
    fn the_number_of_servers_is_bounded() {
        let text: String = (0..200).map(|i| format!("nameserver 192.0.2.{i}\n")).collect();
        assert_eq!(parse(&text).len(), MAX_SERVERS);
    }

    #[test]
    fn behind_the_stub_of_systemd_resolved_its_uplinks_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (conf, uplinks) = (folder.path().join("resolv.conf"), folder.path().join("uplinks"));
        std::fs::write(&uplinks, "nameserver 192.0.2.1\n").unwrap();
        for (text, expected) in [
            ("nameserver 127.0.0.53\noptions edns0\n", &uplinks),
            ("nameserver 127.0.0.53\nnameserver 192.0.2.2\n", &conf),
            ("nameserver 192.0.2.2\n", &conf),
            ("", &conf),
        ] {
            std::fs::write(&conf, text).unwrap();
            assert_eq!(upstream_file(&conf, &uplinks), *expected, "{text:?}");
        }
        std::fs::write(&conf, "nameserver 127.0.0.53\n").unwrap();
        std::fs::remove_file(&uplinks).unwrap();
        assert_eq!(upstream_file(&conf, &uplinks), conf);
    }
}
