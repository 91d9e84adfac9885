//! Single values of a policy file: filters, addresses, name patterns, durations, times.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use connlib_portal_api::messages::common::{Filter, PortRange};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::value::{Datetime, Offset};

/// Networks that mean something to the tunnel itself; no resource may lie in them.
const RESERVED: [(IpNet, &str); 3] = [
    (
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
        "the addresses of clients, gateways and DNS resources",
    ),
    (
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 0), 48)),
        "the addresses of clients, gateways and DNS resources",
    ),
    (IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)), "the gateway's own loopback"),
];

/// `tcp`, `tcp/443`, `udp/5000-5100`, `icmp`.
pub(super) fn filter(text: &str) -> Result<Filter, String> {
    let help = "write \"tcp\", \"tcp/443\", \"udp/5000-5100\" or \"icmp\"";
    let (protocol, ports) = match text.split_once('/') {
        Some((protocol, ports)) => (protocol, Some(ports)),
        None => (text, None),
    };
    let (first, last) = match ports {
        None => (0, u16::MAX),
        Some(ports) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let port = |text: &str| {
                text.parse::<u16>()
                    .map_err(|_| format!("\"{text}\" is not a port from 0 to 65535; {help}"))
            };
            (port(first)?, port(last)?)
        }
    };
    let range = PortRange::new(first, last)
        .ok_or_else(|| format!("the range {first}-{last} runs backwards"))?;
    match (protocol, ports) {
        ("tcp", _) => Ok(Filter::Tcp(range)),
        ("udp", _) => Ok(Filter::Udp(range)),
        ("icmp", None) => Ok(Filter::Icmp),
        ("icmp", Some(_)) => Err("icmp has no ports".into()),
        _ => Err(format!("\"{protocol}\" is not a protocol that can be filtered; {help}")),
    }
}

/// A network, or one address as a network of its own.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| {
            format!("\"{text}\" is not a network; write \"10.0.0.0/24\" or \"2001:db8::/64\"")
        })?,
    };
    if network.trunc() != network {
        return Err(format!("{network} has bits beyond its prefix; write \"{}\"", network.trunc()));
    }
    if network.prefix_len() == 0 {
        return Err(format!("{network} is the whole internet; use type = \"internet\""));
    }
    for (reserved, what) in RESERVED {
        if reserved.contains(&network) || network.contains(&reserved) {
            return Err(format!("{network} overlaps {reserved}: {what}"));
        }
    }
    Ok(network)
}

/// A name that may hold `*` (any run inside one label), `**` (any depth) and `?` (one character).
pub(super) fn pattern(text: &str) -> Result<String, String> {
    let pattern = text.to_ascii_lowercase();
    if pattern.chars().all(|c| matches!(c, '*' | '.' | '?')) {
        return Err(format!("\"{text}\" would match every name; name a domain"));
    }
    if pattern.parse::<IpAddr>().is_ok() || pattern.parse::<IpNet>().is_ok() {
        return Err(format!("\"{text}\" is an address; use type = \"cidr\""));
    }
    labels(&pattern, |label| {
        (label == "**" || !label.contains("**")) && label.chars().all(|c| c != '/')
    })?;
    Ok(pattern)
}

/// A domain without wildcards.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let domain = text.to_ascii_lowercase();
    labels(&domain, |label| !label.contains(['*', '?']))?;
    Ok(domain)
}

fn labels(name: &str, accept: impl Fn(&str) -> bool) -> Result<(), String> {
    if !name.is_ascii() {
        return Err(format!("\"{name}\" is not ASCII; write the name in its \"xn--\" form"));
    }
    if name.len() > 253 {
        return Err(format!("\"{name}\" is longer than 253 characters"));
    }
    for label in name.split('.') {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '?');
        if label.is_empty() || label.len() > 63 || !label.chars().all(known) || !accept(label) {
            return Err(format!("\"{name}\" has a label that no name can have: \"{label}\""));
        }
    }
    Ok(())
}

/// An `https` address of a resolver.
pub(super) fn doh(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or(rest));
    match host {
        Some(host) if !host.is_empty() && !text.contains(char::is_whitespace) => Ok(text.into()),
        _ => Err(format!("\"{text}\" is not an address like \"https://dns.quad9.net/dns-query\"")),
    }
}

/// A length of time such as `90s`, `8h`, `30d`; in seconds, one at least.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.as_secs() > 0 => Ok(duration.as_secs()),
        Ok(_) => Err(format!("\"{text}\" is shorter than a second")),
        Err(e) => Err(format!("\"{text}\" is not a length of time like \"8h\" or \"30d\": {e}")),
    }
}

/// A point in time with its offset, in unix seconds.
pub(super) fn time(value: &Datetime) -> Result<u64, String> {
    let help = "write a date and time with its offset, like 2026-12-31T23:59:59Z";
    let (Some(date), Some(clock), Some(offset)) = (value.date, value.time, value.offset) else {
        return Err(format!("\"{value}\" is not a point in time; {help}"));
    };
    let offset_minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let text =
        format!("{date}T{:02}:{:02}:{:02}Z", clock.hour, clock.minute, clock.second.unwrap_or(0));
    let seconds = humantime::parse_rfc3339(&text)
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .ok_or_else(|| format!("\"{value}\" is out of range; {help}"))?
        .as_secs();
    seconds
        .checked_add_signed(-60 * offset_minutes)
        .ok_or_else(|| format!("\"{value}\" is out of range; {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let range = |first, last| PortRange::new(first, last).unwrap();
        assert_eq!(filter("tcp"), Ok(Filter::Tcp(PortRange::ALL)));
        assert_eq!(filter("tcp/443"), Ok(Filter::Tcp(range(443, 443))));
        assert_eq!(filter("udp/5000-5100"), Ok(Filter::Udp(range(5000, 5100))));
        assert_eq!(filter("icmp"), Ok(Filter::Icmp));
        for bad in ["", "tcp/", "tcp/70000", "tcp/2-1", "icmp/8", "sctp", "TCP/443 "] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.0/24"), Ok("10.0.0.0/24".parse().unwrap()));
        assert_eq!(network("192.0.2.7"), Ok("192.0.2.7/32".parse().unwrap()));
        assert!(network("10.0.0.1/24").unwrap_err().contains("10.0.0.0/24"));
        for bad in ["0.0.0.0/0", "::/0", "100.64.0.0/16", "100.100.111.1", "96.0.0.0/4", "x"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        for good in
            ["git.corp.example", "*.corp.example", "**.corp.example", "web-?.x", "A.example"]
        {
            assert_eq!(pattern(good), Ok(good.to_lowercase()));
        }
        for bad in
            ["*", "**", "*.*", "", "a..b", "a.**b.c", "10.0.0.1", "bücher.example", "a b", ".a"]
        {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_durations() {
        let at = |text: &str| time(&text.parse().unwrap());
        assert_eq!(at("1970-01-01T00:00:10Z"), Ok(10));
        assert_eq!(at("1970-01-01T02:00:10+02:00"), Ok(10));
        assert_eq!(at("2026-12-31T23:59:59Z"), Ok(1_798_761_599));
        assert!(at("2026-12-31").is_err());
        assert!(at("2026-12-31T23:59:59").is_err());
        assert_eq!(duration("8h"), Ok(28_800));
        assert_eq!(duration("30d"), Ok(2_592_000));
        assert!(duration("0s").is_err());
        assert!(duration("8").is_err());
    }
}
