//! A namespace with a relay's interfaces, routes and neighbours, and the program loaded.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use connlib_relay_xdp::{
    Addresses, AttachError, Binding, Config, Family, Maps, Preference, Verdict, Xdp,
};
use nix::sched::{CloneFlags, unshare};

use crate::model::Model;

pub(crate) const LISTEN_PORT: u16 = 3479;

/// The interface that has the relay's addresses and its default route.
pub(crate) const UPLINK: &str = "up0";
/// Another one that the program serves.
pub(crate) const SIDE: &str = "side0";
/// One that it does not.
pub(crate) const FOREIGN: &str = "other0";

pub(crate) const LOCAL_V4: &str = "10.0.0.5";
pub(crate) const PUBLIC_V4: &str = "203.0.113.5";
pub(crate) const LOCAL_V6: &str = "fd00::5";
pub(crate) const PUBLIC_V6: &str = "2001:db8::5";

/// A neighbour: its address or a prefix that is reached by it, and its Ethernet address.
pub(crate) struct Neighbour {
    pub(crate) address: &'static str,
    pub(crate) interface: &'static str,
    pub(crate) ethernet: [u8; 6],
}

/// The uplink's Ethernet address.
pub(crate) const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0xff];
pub(crate) const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const NEIGHBOURS: [Neighbour; 6] = [
    Neighbour { address: "10.0.0.1", interface: UPLINK, ethernet: ROUTER },
    Neighbour { address: "fd00::1", interface: UPLINK, ethernet: ROUTER },
    Neighbour { address: "10.0.0.7", interface: UPLINK, ethernet: [2, 0, 0, 0, 0, 7] },
    Neighbour { address: "fd01::9", interface: SIDE, ethernet: [2, 0, 0, 0, 0, 9] },
    Neighbour { address: "10.1.0.9", interface: SIDE, ethernet: [2, 0, 0, 0, 0, 9] },
    Neighbour { address: "10.2.0.9", interface: FOREIGN, ethernet: [2, 0, 0, 0, 0, 8] },
];

/// The relay, and what the model knows about it.
pub(crate) struct Lab {
    pub(crate) xdp: Xdp,
    pub(crate) maps: Maps,
    pub(crate) model: Model,
}

/// Runs a test on a thread of its own in a fresh namespace, which ends with the thread.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests make namespaces: they need root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_ascii_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

pub(crate) fn dual_stack() -> Config {
    Config {
        interfaces: vec![UPLINK.to_owned(), SIDE.to_owned()],
        preference: Preference::Auto,
        listen_port: LISTEN_PORT,
        v4: Some(Addresses {
            local: LOCAL_V4.parse().unwrap(),
            public: PUBLIC_V4.parse().unwrap(),
        }),
        v6: Some(Addresses {
            local: LOCAL_V6.parse().unwrap(),
            public: PUBLIC_V6.parse().unwrap(),
        }),
    }
}

impl Lab {
    /// Lays out the namespace of this thread.
    pub(crate) fn new(config: Config) -> Self {
        lay_out();
        Self::again(config)
    }

    /// Another relay in a namespace that is laid out.
    pub(crate) fn again(config: Config) -> Self {
        let (mut xdp, maps) = Xdp::load(&config).unwrap();
        xdp.serve_all().unwrap();
        Self { xdp, maps, model: Model::new(config) }
    }

    /// A relay whose program sees real packets.
    pub(crate) fn attached(config: Config) -> Self {
        let (xdp, maps) = attach(&config).unwrap();
        Self { xdp, maps, model: Model::new(config) }
    }

    /// A binding, and its port.
    pub(crate) fn bind(&mut self, binding: Binding) {
        self.maps.add_port(binding.allocation_port, family(binding.peer)).unwrap();
        self.maps.insert_channel(&binding).unwrap();
        self.model.bindings.push(binding);
    }

    pub(crate) fn unbind_all(&mut self) {
        for binding in self.model.bindings.drain(..) {
            self.maps.remove_channel(&binding).unwrap();
            self.maps.remove_port(binding.allocation_port, family(binding.peer)).unwrap();
        }
    }

    /// What the program makes of a frame that comes by the uplink.
    pub(crate) fn run(&mut self, frame: &[u8]) -> Verdict {
        self.xdp.try_out(frame, index(UPLINK), 1).unwrap()
    }
}

/// A program that is attached.
pub(crate) fn attach(config: &Config) -> Result<(Xdp, Maps), AttachError> {
    let (mut xdp, maps) = Xdp::load(config)?;
    xdp.tend()?;
    Ok((xdp, maps))
}

/// Of an address.
pub(crate) fn family(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

pub(crate) fn lay_out() {
    ip("link set lo up");
    for interface in [UPLINK, SIDE, FOREIGN] {
        ip(&format!("link add {interface} type veth peer name {interface}-far"));
        ip(&format!("link set {interface}-far up"));
        ip(&format!("link set {interface} up"));
    }
    for (interface, address) in [
        (UPLINK, "10.0.0.5/24"),
        (UPLINK, "fd00::5/64"),
        (SIDE, "10.1.0.5/24"),
        (SIDE, "fd01::5/64"),
        (FOREIGN, "10.2.0.5/24"),
    ] {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        ip(&format!("address add {address} dev {interface} {nodad}"));
    }
    set_ethernet(UPLINK, OWN);
    for Neighbour { address, interface, ethernet } in NEIGHBOURS {
        let ethernet = written(ethernet);
        ip(&format!("neighbour add {address} lladdr {ethernet} dev {interface} nud permanent"));
    }
    ip("route add default via 10.0.0.1");
    ip("-6 route add default via fd00::1");
}

/// The number of an interface.
pub(crate) fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

/// Gives an interface another Ethernet address.
pub(crate) fn set_ethernet(interface: &str, address: [u8; 6]) {
    ip(&format!("link set {interface} address {}", written(address)));
}

fn written(ethernet: [u8; 6]) -> String {
    ethernet.map(|byte| format!("{byte:02x}")).join(":")
}

/// The Ethernet address of an interface.
pub(crate) fn ethernet_of(interface: &str) -> [u8; 6] {
    // `/sys` shows the interfaces of the namespace that mounted it, so this is asked otherwise.
    let output = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "link/ether");
    let text = words.nth(1).unwrap();
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

pub(crate) fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}
