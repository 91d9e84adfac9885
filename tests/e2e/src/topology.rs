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
//! Only the gateway reaches the office, and nothing on the internet reaches the client unasked.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;

use crate::{Impairment, Lab, Namespace, Nat, Process, Router, link::Switch, wire::Wire};

/// The domain whose names only the office's name server knows.
pub const OFFICE_DOMAIN: &str = "office.example";
/// What the office's web server says.
pub const OFFICE_PAGE: &str = "This page lives in the office.";
/// What the web server on the internet says.
pub const PUBLIC_PAGE: &str = "This page is for everybody.";

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
    fn has(self, address: &str) -> bool {
        match self {
            Self::Dual => true,
            Self::V4Only => !address.contains(':'),
            Self::V6Only => address.contains(':'),
        }
    }

    fn keep<'a>(self, addresses: &[&'a str]) -> Vec<&'a str> {
        addresses.iter().copied().filter(|address| self.has(address)).collect()
    }
}

/// What can be chosen about [`Direct`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The families of the internet.
    pub underlay: Underlay,
    /// How the client's router translates.
    pub nat: Nat,
    /// The faults of the cable between client and router. Without any it is the kernel's own.
    pub access: Impairment,
    /// Decides which packets the faults hit.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            underlay: Underlay::Dual,
            nat: Nat::Masquerade,
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
    /// Where the gateway is to run.
    pub gateway: Namespace,
    /// The segment behind the gateway.
    pub office: Switch,
    /// The office's web server, on ports 80 and 8080.
    pub web: Namespace,
    /// A machine in the office with a web server on port 80 that no policy lets anybody reach.
    pub database: Namespace,
    servers: Vec<Process>,
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
        let inside = keep(&["192.168.77.2/24", "fd77::2/64"]);
        let outside = keep(&["192.168.77.1/24", "fd77::1/64"]);
        let ends = ((&client, "eth0", &inside[..]), (&*router, "lan", &outside[..]));
        let access = if options.access == Impairment::default() {
            lab.cable(ends.0, ends.1)?;
            None
        } else {
            Some(lab.wire(ends.0, ends.1, options.access.clone(), options.seed)?)
        };
        for gateway in keep(&["192.168.77.1", "fd77::1"]) {
            client.route("default", gateway)?;
        }
        let resolvers = keep(&["203.0.113.53", "2001:db8:113::53"]);
        client.set_resolvers(&parse(&resolvers)?)?;

        let gateway = lab.namespace("gateway")?;
        internet.plug(&gateway, "wan", &keep(&["203.0.113.10/24", "2001:db8:113::10/64"]))?;
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
            gateway,
            office,
            web,
            database,
            servers,
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

    /// The programs that serve pages and names.
    pub fn servers(&self) -> &[Process] {
        &self.servers
    }
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
