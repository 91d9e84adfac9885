//! The command line and the environment.

mod existing;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use connlib_daemon::ProcessOptions;
use connlib_relay_xdp::Preference;
use ipnet::IpNet;

pub(crate) use self::existing::token_variable;

/// A TURN relay (RFC 8656): carries datagrams between two machines that cannot reach each other directly.
///
/// With a portal (--api-url) it announces itself there, and the portal tells clients and gateways how to sign in. Alone,
/// it serves whoever knows a name and a password (--user-file) or a service that shares a secret with it
/// (--static-secret-file), such as the server of a WebRTC application.
///
/// The portal's token is read from the file of --token-file, from a systemd credential named `connlib-relay-token`, from
/// the environment (CONNLIB_TOKEN) or from /etc/connlib/relay-token, in this order; never from the command line.
///
/// Let in from the internet: the listening port (UDP) and the range of allocations (UDP), and what --listen-tcp and
/// --listen-tls name.
///
/// Exit status: 0 after SIGTERM or SIGINT, 2 if the command line is wrong, 77 if the token is not accepted (a new one is
/// needed), 78 if the settings or the machine do not allow a start, 1 otherwise. The first SIGTERM takes the relay off
/// the portal and lets allocations end by themselves for up to --drain-timeout; the second ends it at once. SIGHUP reads
/// the TLS certificate again.
#[derive(Debug, Parser)]
#[command(
    version,
    name = "connlib-relay",
    mut_arg("health_listen", |arg| {
        arg.help("Where to answer /healthz, /readyz and /metrics, such as 127.0.0.1:8080 [default: nowhere]")
    })
)]
pub(crate) struct Options {
    #[command(flatten, next_help_heading = "Addresses")]
    pub(crate) addresses: AddressOptions,
    #[command(flatten, next_help_heading = "TURN over TCP and TLS")]
    pub(crate) streams: StreamOptions,
    #[command(flatten, next_help_heading = "In the kernel")]
    pub(crate) fast_path: FastPathOptions,
    #[command(flatten, next_help_heading = "With a portal")]
    pub(crate) portal: PortalOptions,
    #[command(flatten, next_help_heading = "Who may allocate, without a portal")]
    pub(crate) credentials: CredentialOptions,
    #[command(flatten, next_help_heading = "The process")]
    pub(crate) process: ProcessOptions,
    /// Threads that relay [default: one for each CPU]
    #[arg(long, env = "CONNLIB_WORKERS", value_name = "NUMBER")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Allocations that this relay has at most, in all
    #[arg(long, env = "CONNLIB_MAX_ALLOCATIONS", value_name = "NUMBER", default_value = "16384")]
    pub(crate) max_allocations: NonZeroUsize,
    /// Allocations of one user, where it may have several
    #[arg(
        long,
        env = "CONNLIB_MAX_ALLOCATIONS_PER_USER",
        value_name = "NUMBER",
        default_value = "64"
    )]
    pub(crate) max_allocations_per_user: NonZeroUsize,
    /// Allocations from one IPv4 address or IPv6 /64
    #[arg(
        long,
        env = "CONNLIB_MAX_ALLOCATIONS_PER_SOURCE",
        value_name = "NUMBER",
        default_value = "1024"
    )]
    pub(crate) max_allocations_per_source: NonZeroUsize,
    /// After SIGTERM, how long allocations may go on, such as 30s or 10m
    #[arg(long, env = "CONNLIB_DRAIN_TIMEOUT", value_name = "TIME", default_value = "5m",
          value_parser = humantime::parse_duration)]
    pub(crate) drain_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct AddressOptions {
    /// IPv4 address that peers reach this relay at; this or --public-ip6-addr is needed
    #[arg(
        long,
        env = "CONNLIB_PUBLIC_IP4_ADDR",
        value_name = "ADDRESS",
        required_unless_present = "public_ip6_addr"
    )]
    pub(crate) public_ip4_addr: Option<Ipv4Addr>,
    /// IPv6 address that peers reach this relay at
    #[arg(long, env = "CONNLIB_PUBLIC_IP6_ADDR", value_name = "ADDRESS")]
    pub(crate) public_ip6_addr: Option<Ipv6Addr>,
    /// IPv4 address of this machine to bind, or 0.0.0.0, where a router translates [default: the public one if this
    /// machine has it within ten seconds, else all]
    #[arg(long, env = "CONNLIB_BIND_IP4_ADDR", value_name = "ADDRESS")]
    pub(crate) bind_ip4_addr: Option<Ipv4Addr>,
    /// IPv6 address of this machine to bind, or ::, where a router translates [default: the public one if this machine
    /// has it within ten seconds, else all]
    #[arg(long, env = "CONNLIB_BIND_IP6_ADDR", value_name = "ADDRESS")]
    pub(crate) bind_ip6_addr: Option<Ipv6Addr>,
    /// UDP port that clients talk to; existing clients and gateways hear a relay on 3478 only
    #[arg(long, env = "CONNLIB_LISTEN_PORT", value_name = "PORT", default_value = "3478")]
    pub(crate) listen_port: NonZeroU16,
    /// First UDP port of allocations
    #[arg(long, env = "CONNLIB_LOWEST_PORT", value_name = "PORT", default_value = "49152")]
    pub(crate) lowest_port: NonZeroU16,
    /// Last UDP port of allocations
    #[arg(long, env = "CONNLIB_HIGHEST_PORT", value_name = "PORT", default_value = "65535")]
    pub(crate) highest_port: NonZeroU16,
    /// Network that nothing is relayed to, beside this machine, loopback, link-local and multicast; can be given more
    /// than once. Private networks are peers unless they are named here
    #[arg(long, env = "CONNLIB_DENIED_PEERS", value_name = "NETWORK", value_delimiter = ',')]
    pub(crate) denied_peers: Vec<IpNet>,
    /// Network that anything may be relayed to, loopback and this machine included: for labs
    #[arg(long, env = "CONNLIB_ALLOWED_PEERS", value_name = "NETWORK", value_delimiter = ',')]
    pub(crate) allowed_peers: Vec<IpNet>,
}

#[derive(Debug, Args)]
pub(crate) struct StreamOptions {
    /// Where to serve TURN over TCP, such as 0.0.0.0:3478 or [::]:3478; can be given more than once
    #[arg(long, env = "CONNLIB_LISTEN_TCP", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub(crate) listen_tcp: Vec<SocketAddr>,
    /// Where to serve TURN over TLS, such as 0.0.0.0:443 or [::]:443; can be given more than once
    #[arg(long, env = "CONNLIB_LISTEN_TLS", value_name = "ADDRESS:PORT", value_delimiter = ',', requires_all = ["tls_cert", "tls_key"])]
    pub(crate) listen_tls: Vec<SocketAddr>,
    /// Certificate chain for TLS in PEM; read again on SIGHUP
    #[arg(long, env = "CONNLIB_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key for TLS in PEM; only its owner may read it
    #[arg(long, env = "CONNLIB_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// TCP and TLS connections at a time, in all
    #[arg(long, env = "CONNLIB_MAX_STREAMS", value_name = "NUMBER", default_value = "4096")]
    pub(crate) max_streams: usize,
    /// TCP and TLS connections at a time from one IPv4 address or IPv6 /64
    #[arg(
        long,
        env = "CONNLIB_MAX_STREAMS_PER_SOURCE",
        value_name = "NUMBER",
        default_value = "64"
    )]
    pub(crate) max_streams_per_source: usize,
}

#[derive(Debug, Args)]
pub(crate) struct FastPathOptions {
    /// Interface to relay channels on by an XDP program; can be given more than once [default: none, all in user space]
    #[arg(long, env = "CONNLIB_XDP_INTERFACE", value_name = "NAME", value_delimiter = ',')]
    pub(crate) xdp_interface: Vec<String>,
    /// How the program is attached: auto, native (in the driver), generic (behind it) or off
    #[arg(long, env = "CONNLIB_XDP", value_name = "MODE", default_value = "auto", value_parser = preference)]
    pub(crate) xdp: Preference,
}

/// The existing relay says `driver`.
fn preference(mode: &str) -> Result<Preference, connlib_relay_xdp::UnknownPreference> {
    if mode == "driver" { Ok(Preference::Native) } else { mode.parse() }
}

#[derive(Debug, Args)]
pub(crate) struct PortalOptions {
    /// URL of the portal's API [default: no portal]
    #[arg(long, env = "CONNLIB_API_URL", value_name = "URL")]
    pub(crate) api_url: Option<String>,
    /// File with the portal's token; only its owner may read it
    #[arg(long, env = "CONNLIB_TOKEN_FILE", value_name = "FILE", requires = "api_url")]
    pub(crate) token_file: Option<PathBuf>,
    /// Name that people see in the portal
    #[arg(long, env = "CONNLIB_NAME", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Certificates (PEM) to trust beside the system's when the portal is called
    #[arg(long, env = "CONNLIB_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Give up after the portal has been away for so long; until then everybody is served
    #[arg(long, env = "CONNLIB_MAX_PARTITION_TIME", value_name = "TIME", default_value = "24h",
          value_parser = humantime::parse_duration)]
    pub(crate) max_partition_time: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CredentialOptions {
    /// File with a secret per line, each of at least 16 bytes; only its owner may read it
    ///
    /// Whoever knows one hands out usernames of the form `expiry:salt` (Unix seconds, any text). With a portal, the first
    /// line is what the relay tells it instead of a secret of its own. `openssl rand -hex 32` makes a secret.
    #[arg(long, env = "CONNLIB_STATIC_SECRET_FILE", value_name = "FILE")]
    pub(crate) static_secret_file: Option<PathBuf>,
    /// File with a `name:password` per line; only its owner may read it
    #[arg(long, env = "CONNLIB_USER_FILE", value_name = "FILE")]
    pub(crate) user_file: Option<PathBuf>,
    /// Realm of the credentials; existing clients and gateways know `firezone` only
    #[arg(long, env = "CONNLIB_REALM", value_name = "NAME", default_value = "firezone")]
    pub(crate) realm: String,
}

impl Options {
    /// Reads command line and environment, or ends the process with what is wrong.
    ///
    /// Where one of our variables is not set, the one of the existing relay counts.
    pub(crate) fn read() -> Self {
        let command = existing::variables(Self::command(), |name| std::env::var_os(name).is_some());
        let result = Self::from_arg_matches(&command.get_matches());
        let options = result.unwrap_or_else(|error| error.exit());
        if let Err(message) = options.check() {
            Self::command().error(clap::error::ErrorKind::ValueValidation, message).exit();
        }
        options
    }

    fn check(&self) -> Result<(), String> {
        let AddressOptions { listen_port, lowest_port, highest_port, .. } = self.addresses;
        if lowest_port > highest_port {
            return Err(format!(
                "--lowest-port {lowest_port} is above --highest-port {highest_port}"
            ));
        }
        if (lowest_port..=highest_port).contains(&listen_port) {
            return Err(format!(
                "--listen-port {listen_port} is in the range of allocations, {lowest_port} to {highest_port}"
            ));
        }
        let CredentialOptions { static_secret_file, user_file, .. } = &self.credentials;
        if self.portal.api_url.is_none() && static_secret_file.is_none() && user_file.is_none() {
            return Err("nobody could use this relay: pass --api-url for a portal, or --static-secret-file or \
                        --user-file to work without one"
                .to_owned());
        }
        Ok(())
    }
}

impl AddressOptions {
    /// The public addresses, IPv4 first.
    pub(crate) fn public(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.public_ip4_addr.map(IpAddr::V4), self.public_ip6_addr.map(IpAddr::V6)]
            .into_iter()
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let arguments = [&["connlib-relay"], arguments].concat();
        let options = Options::try_parse_from(arguments).map_err(|error| error.to_string())?;
        options.check().map(|()| options)
    }

    #[test]
    fn the_command_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_relay_needs_an_address_and_somebody_to_serve() {
        let error = parse(&["--user-file", "x"]).unwrap_err();
        assert!(error.contains("--public-ip4-addr"), "{error}");
        let error = parse(&["--public-ip4-addr", "192.0.2.1"]).unwrap_err();
        assert!(error.contains("--api-url"), "{error}");
        parse(&["--public-ip6-addr", "2001:db8::1", "--user-file", "x"]).unwrap();
    }

    #[test]
    fn ports_must_not_overlap() {
        let with = |more: &[&str]| {
            parse(&[&["--public-ip4-addr", "192.0.2.1", "--user-file", "x"], more].concat())
        };
        with(&[]).unwrap();
        with(&["--lowest-port", "50000", "--highest-port", "50000"]).unwrap();
        for wrong in [
            ["--lowest-port", "65535", "--highest-port", "50000"],
            ["--listen-port", "50000", "--workers", "1"],
        ] {
            with(&wrong).unwrap_err();
        }
        with(&["--listen-port", "0"]).unwrap_err();
    }

    #[test]
    fn tls_needs_its_files() {
        let base =
            ["--public-ip4-addr", "192.0.2.1", "--user-file", "x", "--listen-tls", "[::]:443"];
        assert!(parse(&base).unwrap_err().contains("--tls-cert"));
        parse(&[&base[..], &["--tls-cert", "c", "--tls-key", "k"]].concat()).unwrap();
    }
}
