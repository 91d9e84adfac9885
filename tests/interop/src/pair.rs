//! Our end and one of another program, each in a namespace, with a cable between them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use connlib_e2e::{
    Lab, Namespace,
    probe::{Echo, Probe},
};
use connlib_link::{IceCredentials, LinkConfig, Node, NodeConfig, PeerId, Role};
use data_encoding::BASE64;
use uuid::Uuid;

use crate::device::{Device, Peer};
use crate::end::{ECHO_PORT, End, Hosts};
use crate::{Clock, tools};

const MTU: u16 = 1280;

const OUR_ADDRESS: &str = "198.18.0.1";
const THEIR_ADDRESS: &str = "198.18.0.2";
const OUR_PORT: u16 = 52625;
const THEIR_PORT: u16 = 51820;

const OUR_HOSTS: [&str; 2] = ["10.31.0.1", "fd31::1"];
const THEIR_HOSTS: [&str; 2] = ["10.31.0.2", "fd31::2"];

const PRESHARED_KEY: [u8; 32] = [9; 32];

/// Both namespaces, the other program, and what our end is made of.
#[derive(Debug)]
pub struct Pair {
    ours: Namespace,
    theirs: Namespace,
    device: Device,
    node: NodeConfig,
    _echoes: Vec<Echo>,
}

impl Pair {
    /// Lays out the network and starts Tailscale's wireguard-go on it. `name` is part of the namespaces' names.
    pub fn lay(lab: &Lab, name: &str) -> Result<Self> {
        let program = tools::wireguard_go()?;
        tools::WG.ensure_present()?;
        let ours = lab.namespace(&format!("{name}-ours"))?;
        let theirs = lab.namespace(&format!("{name}-theirs"))?;
        lab.cable(
            (&ours, "eth0", &[&format!("{OUR_ADDRESS}/24")]),
            (&theirs, "eth0", &[&format!("{THEIR_ADDRESS}/24")]),
        )?;
        let device = Device::start(&theirs, &program, &format!("{name}-wireguard-go"))?;
        let mut seed = [0; 32];
        for (byte, letter) in seed.iter_mut().zip(name.bytes()) {
            *byte = letter;
        }
        let node = NodeConfig { seed, ..NodeConfig::default() };
        let mut pair = Self { ours, theirs, device, node, _echoes: Vec::new() };
        pair.configure()?;
        for address in THEIR_HOSTS {
            let address = SocketAddr::new(address.parse()?, ECHO_PORT);
            pair._echoes.push(Echo::start(&pair.theirs, address)?);
        }
        Ok(pair)
    }

    /// Kills the other program and starts it anew: it has its keys, and no session.
    pub fn restart(self) -> Result<Self> {
        let pair = Self { device: self.device.restart()?, ..self };
        pair.configure()?;
        Ok(pair)
    }

    /// Our end, in this role. There is to be one of a pair.
    pub fn end(&self, role: Role, clock: Clock) -> Result<End> {
        let address = format!("{OUR_ADDRESS}:{OUR_PORT}");
        let socket = self.ours.enter(|| UdpSocket::bind(&address))??;
        let theirs: SocketAddr = format!("{THEIR_ADDRESS}:{THEIR_PORT}").parse()?;
        let key = BASE64.decode(self.device.public_key().as_bytes())?;
        let config = LinkConfig {
            peer: PeerId(Uuid::from_u128(1)),
            role,
            remote_public_key: key.try_into().ok().context("a key has 32 bytes")?,
            preshared_key: PRESHARED_KEY,
            local: credentials("ours"),
            remote: credentials("theirs"),
        };
        End::new(config, self.node.clone(), socket, theirs, hosts()?, clock)
    }

    /// Has the other side ask our host.
    pub fn probe(&self) -> Result<Probe> {
        Probe::start(&self.theirs, SocketAddr::new(OUR_HOSTS[0].parse()?, ECHO_PORT))
    }

    fn configure(&self) -> Result<()> {
        // The seed decides about the key.
        let key = Node::new(self.node.clone(), std::time::Instant::now()).public_key();
        let [public_key, preshared_key] = [key, PRESHARED_KEY].map(|key| BASE64.encode(&key));
        self.device.listen(THEIR_PORT)?;
        self.device.add_peer(&Peer {
            public_key: &public_key,
            preshared_key: Some(&preshared_key),
            endpoint: &format!("{OUR_ADDRESS}:{OUR_PORT}"),
            allowed: &OUR_HOSTS.join(","),
        })?;
        let [v4, v6] = THEIR_HOSTS;
        self.device.bring_up(&[&format!("{v4}/24"), &format!("{v6}/64")], MTU)
    }
}

fn hosts() -> Result<Hosts> {
    let address = |text: &str| text.parse::<IpAddr>();
    let pair = |family: usize| -> Result<(IpAddr, IpAddr)> {
        Ok((address(OUR_HOSTS[family])?, address(THEIR_HOSTS[family])?))
    };
    Ok([pair(0)?, pair(1)?])
}

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { username: name.into(), password: format!("{name}-password-0123456789") }
}
