//! The small internet on which most tests run.
//!
//! ```text
//!  client ── router ──┐                                          ┌── web server  10.20.0.10  fd20::10
//!  192.168.77.2  NAT  │             ┌── gateway ── office ───────┼── database    10.20.0.20  fd20::20
//!  fd77::2            ├─ internet ──┤   .10        10.20.0.0/24  └── name server 10.20.0.53  fd20::53
//!             .20     │             │              fd20::/64
//!                     │             └── portal .5, name server .53, public web server .80
//!                     203.0.113.0/24, 2001:db8:113::/64
//! ```
//!
//! Only the gateway reaches the office, and nothing on the internet reaches the client unasked. On request, the gateway is
//! behind a router `.21` of its own (192.168.88.2, fd88::2), and relays are on the internet: `.31`, `.32` and so on.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{Impairment, Lab, Namespace, Nat, Process, Router, link::Switch, wire::Wire};

/// The domain whose names only the office's name server knows.
pub const OFFICE_DOMAIN: &str = "office.example";
/// What the office's web server says.
pub const OFFICE_PAGE: &str = "This page lives in the office.";
/// What the web server on the internet says.
pub const PUBLIC_PAGE: &str = "This page is for everybody.";

/// Relays that there are addresses for.
pub const MAX_RELAYS: u8 = 8;

const DEADLINE: Duration = Duration::from_secs(5);

/// The address families of the internet. The office always has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underlay {
    /// Both.
    #[default]
    Dual,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
}

impl Underlay {
    /// Whether an address, with or without prefix length, is of a family that there is.
    pub(crate) fn has(self, address: &str) -> bool {
        match self {
            Self::Dual => true,
            Self::V4Only => !address.contains(':'),
            Self::V6Only => address.contains(':'),
        }
    }

    fn keep<'a>(self, addresses: &[&'a str]) -> Vec<&'a str> {
        addresses.iter().copied().filter(|address| self.has(address)).collect()
    }

    /// The families of both.
    fn and(self, other: Self) -> Self {
        if self == Self::Dual { other } else { self }
    }
}

/// What can be chosen about [`Direct`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The families of the internet.
    pub underlay: Underlay,
    /// The families that the client has of those.
    pub client: Underlay,
    /// The families that the gateway has of those.
    pub gateway: Underlay,
    /// How the client's router translates.
    pub nat: Nat,
    /// How the gateway's router translates, if it has one.
    pub gateway_nat: Option<Nat>,
    /// How many relays there are, [`MAX_RELAYS`] at most.
    pub relays: u8,
    /// Whether a program carries the relays' cables too: what arrives there has whole checksums, as on a real cable.
    pub relays_on_wires: bool,
    /// The faults of the cable between client and router. Without any it is the kernel's own.
    pub access: Impairment,
    /// Decides which packets the faults hit.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            underlay: Underlay::Dual,
            client: Underlay::Dual,
            gateway: Underlay::Dual,
            nat: Nat::Masquerade,
            gateway_nat: None,
            relays: 0,
            relays_on_wires: false,
            access: Impairment::default(),
            seed: 1,
        }
    }
}

/// A client behind a router, a gateway with a leg on the internet and one in the office.
#[derive(Debug)]
pub struct Direct {
    /// The segment that everybody's outer addresses are on.
    pub internet: Switch,
    /// Where the portal is to run; the public servers do.
    pub portal: Namespace,
    /// The client's router.
    pub router: Router,
    /// Where the client is to run.
    pub client: Namespace,
    /// The cable between client and router, if it has faults.
    pub access: Option<Wire>,
    /// The gateway's router, if it has one.
    pub gateway_router: Option<Router>,
    /// Where the gateway is to run.
    pub gateway: Namespace,
    /// Where the relays are to run.
    pub relays: Vec<Namespace>,
    /// The relays' cables, if a program carries them, and they are plugged in.
    pub relay_wires: Vec<Option<Wire>>,
    /// The segment behind the gateway.
    pub office: Switch,
    /// The office's web server, on ports 80 and 8080.
    pub web: Namespace,
    /// A machine in the office with a web server on port 80 that no policy lets anybody reach.
    pub database: Namespace,
    servers: Vec<Process>,
    options: Options,
}

impl Direct {
    /// Lays it out and starts its servers; portal, gateway and client are yet to come.
    pub fn lay(lab: &Lab, options: &Options) -> Result<Self> {
        let keep = |addresses| options.underlay.keep(addresses);

        let internet = lab.switch("internet")?;
        let portal = lab.namespace("portal")?;
        let portal_addresses = keep(&[
            "203.0.113.5/24",
            "203.0.113.53/24",
            "203.0.113.80/24",
            "2001:db8:113::5/64",
            "2001:db8:113::53/64",
            "2001:db8:113::80/64",
        ]);
        internet.plug(&portal, "eth0", &portal_addresses)?;

        let router = lab.router("router")?;
        internet.plug(&router, "wan", &keep(&["203.0.113.20/24", "2001:db8:113::20/64"]))?;
        router.masquerade("wan", options.nat)?;

        let client = lab.namespace("client")?;
        let keep_client = |addresses| options.underlay.and(options.client).keep(addresses);
        let inside = keep_client(&["192.168.77.2/24", "fd77::2/64"]);
        let outside = keep_client(&["192.168.77.1/24", "fd77::1/64"]);
        let ends = ((&client, "eth0", &inside[..]), (&*router, "lan", &outside[..]));
        let access = if options.access == Impairment::default() {
            lab.cable(ends.0, ends.1)?;
            None
        } else {
            Some(lab.wire(ends.0, ends.1, options.access.clone(), options.seed)?)
        };
        for gateway in keep_client(&["192.168.77.1", "fd77::1"]) {
            client.route("default", gateway)?;
        }
        let resolvers = keep(&["203.0.113.53", "2001:db8:113::53"]);
        client.set_resolvers(&parse(&keep_client(&["203.0.113.53", "2001:db8:113::53"]))?)?;

        let gateway = lab.namespace("gateway")?;
        let gateway_router = lay_gateway(lab, &internet, &gateway, options)?;
        let relays = (0..options.relays.min(MAX_RELAYS))
            .map(|index| lay_relay(lab, &internet, index, options))
            .collect::<Result<Vec<_>>>()?;
        let (relays, relay_wires) = relays.into_iter().unzip();
        let office = lab.switch("office")?;
        office.plug(&gateway, "lan", &["10.20.0.1/24", "fd20::1/64"])?;
        gateway.set_resolvers(&parse(&["10.20.0.53"])?)?;

        let web = lab.namespace("web")?;
        office.plug(&web, "eth0", &["10.20.0.10/24", "fd20::10/64"])?;
        let database = lab.namespace("database")?;
        office.plug(&database, "eth0", &["10.20.0.20/24", "fd20::20/64"])?;
        let names = lab.namespace("names")?;
        office.plug(&names, "eth0", &["10.20.0.53/24", "fd20::53/64"])?;

        let public_web = keep(&["203.0.113.80", "2001:db8:113::80"]);
        let addresses = keep(&["203.0.113.5", "2001:db8:113::5"]);
        let portal_name = records("portal.example", &addresses);
        let public_names = [portal_name.clone(), records("public.example", &public_web)].concat();
        let servers = vec![
            serve_pages(&web, &["10.20.0.10", "fd20::10"], &[80, 8080], OFFICE_PAGE)?,
            serve_pages(&database, &["10.20.0.20", "fd20::20"], &[80], "Nobody may read this.")?,
            serve_pages(&portal, &public_web, &[80], PUBLIC_PAGE)?,
            serve_names(&names, &["10.20.0.53", "fd20::53"], &office_names(&portal_name))?,
            serve_names(&portal, &resolvers, &public_names)?,
        ];
        Ok(Self {
            internet,
            portal,
            router,
            client,
            access,
            gateway_router,
            gateway,
            relays,
            relay_wires,
            office,
            web,
            database,
            servers,
            options: options.clone(),
        })
    }

    /// Pulls the client's cable. Its interface has no carrier until [`plug_client`](Self::plug_client).
    pub fn unplug_client(&self) -> Result<()> {
        self.router.ip("link set lan down")?;
        Ok(())
    }

    /// Puts the client's cable back.
    pub fn plug_client(&self) -> Result<()> {
        self.router.ip("link set lan up")?;
        Ok(())
    }

    /// Takes a relay's interface away: it is gone, where a program carries the cable.
    pub fn unplug_relay(&mut self, index: u8) -> Result<()> {
        let wire = self.relay_wires.get_mut(usize::from(index)).and_then(Option::take);
        wire.map(drop).context("no program carries this cable")
    }

    /// Gives it another one, with the same name and addresses.
    pub fn plug_relay(&mut self, index: u8) -> Result<()> {
        let number = usize::from(index);
        let relay = self.relays.get(number).context("no such relay")?;
        self.relay_wires[number] = plug_relay(&self.internet, relay, index, &self.options)?;
        Ok(())
    }

    /// The programs that serve pages and names.
    pub fn servers(&self) -> &[Process] {
        &self.servers
    }
}

/// Gives the gateway its leg on the internet, with a router before it if it is to have one.
fn lay_gateway(
    lab: &Lab,
    internet: &Switch,
    gateway: &Namespace,
    options: &Options,
) -> Result<Option<Router>> {
    let keep = |addresses| options.underlay.and(options.gateway).keep(addresses);
    let Some(nat) = options.gateway_nat else {
        internet.plug(gateway, "wan", &keep(&["203.0.113.10/24", "2001:db8:113::10/64"]))?;
        return Ok(None);
    };
    let router = lab.router("gateway-router")?;
    internet.plug(&router, "wan", &keep(&["203.0.113.21/24", "2001:db8:113::21/64"]))?;
    router.masquerade("wan", nat)?;
    let inside = keep(&["192.168.88.2/24", "fd88::2/64"]);
    let outside = keep(&["192.168.88.1/24", "fd88::1/64"]);
    lab.cable((gateway, "wan", &inside[..]), (&*router, "lan", &outside[..]))?;
    for via in keep(&["192.168.88.1", "fd88::1"]) {
        gateway.route("default", via)?;
    }
    Ok(Some(router))
}

fn lay_relay(
    lab: &Lab,
    internet: &Switch,
    index: u8,
    options: &Options,
) -> Result<(Namespace, Option<Wire>)> {
    let relay = lab.namespace(&format!("relay{}", index + 1))?;
    let wire = plug_relay(internet, &relay, index, options)?;
    let resolvers = options.underlay.keep(&["203.0.113.53", "2001:db8:113::53"]);
    relay.set_resolvers(&parse(&resolvers)?)?;
    Ok((relay, wire))
}

fn plug_relay(
    internet: &Switch,
    relay: &Namespace,
    index: u8,
    options: &Options,
) -> Result<Option<Wire>> {
    let addresses = relay_addresses(index);
    let [ipv4, ipv6] = addresses.each_ref();
    let (ipv4, ipv6) = (format!("{ipv4}/24"), format!("{ipv6}/64"));
    let addresses = options.underlay.keep(&[&ipv4, &ipv6]);
    if !options.relays_on_wires {
        internet.plug(relay, "eth0", &addresses)?;
        return Ok(None);
    }
    let perfect = Impairment::default();
    let wire = internet.plug_wire(relay, "eth0", &addresses, perfect, options.seed)?;
    // The same whenever it is plugged in: it is one card, and neighbours remember it.
    relay.ip(&format!("link set eth0 address 02:00:00:00:00:{index:02x}"))?;
    Ok(Some(wire))
}

/// The IPv4 and the IPv6 address of a relay, as far as the internet has the family.
pub fn relay_addresses(index: u8) -> [IpAddr; 2] {
    let host = 31 + index;
    // The same digits, read as hexadecimal.
    let digits = u16::from(host / 10 * 16 + host % 10);
    let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, digits);
    [Ipv4Addr::new(203, 0, 113, host).into(), ipv6.into()]
}

/// What the office's name server knows: its own names, and how to find the portal.
fn office_names(portal: &[String]) -> Vec<String> {
    let mut names = portal.to_vec();
    names.extend(records("web.office.example", &["10.20.0.10", "fd20::10"]));
    names.extend(records("v4.office.example", &["10.20.0.10"]));
    names.extend(records("v6.office.example", &["fd20::10"]));
    names.extend(records("database.office.example", &["10.20.0.20", "fd20::20"]));
    names.push("wiki.office.example CNAME web.office.example".to_owned());
    names.push("_web._tcp.office.example SRV 1 2 80 web.office.example".to_owned());
    names.push("about.office.example TXT the office".to_owned());
    names
}

fn records(name: &str, addresses: &[&str]) -> Vec<String> {
    let kind = |address: &str| if address.contains(':') { "AAAA" } else { "A" };
    addresses.iter().map(|address| format!("{name} {} {address}", kind(address))).collect()
}

fn serve_pages(at: &Namespace, addresses: &[&str], ports: &[u16], page: &str) -> Result<Process> {
    let mut command = at.command("connlib-e2e-helper").args(["http", "--page", page]);
    for address in parse(addresses)? {
        for &port in ports {
            command =
                command.arg("--listen").arg(std::net::SocketAddr::new(address, port).to_string());
        }
    }
    let mut process = command.spawn_watched(&format!("pages-{}", at.name()))?;
    process.wait_for("listening", DEADLINE)?;
    Ok(process)
}

fn serve_names(at: &Namespace, addresses: &[&str], records: &[String]) -> Result<Process> {
    let mut command = at.command("connlib-e2e-helper").arg("dns");
    for address in parse(addresses)? {
        command = command.arg("--listen").arg(std::net::SocketAddr::new(address, 53).to_string());
    }
    for record in records {
        command = command.args(["--record", record]);
    }
    let mut process = command.spawn_watched(&format!("names-{}", at.name()))?;
    process.wait_for("listening", DEADLINE)?;
    Ok(process)
}

fn parse(addresses: &[&str]) -> Result<Vec<IpAddr>> {
    Ok(addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?)
}
