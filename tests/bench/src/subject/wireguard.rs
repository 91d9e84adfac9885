//! User-space WireGuards of others.

use std::path::Path;

use anyhow::{Context as _, Result};
use connlib_e2e::Process;
use connlib_interop::device::{Device, Peer};

use super::{
    MTU,
    network::{CLIENT_OUTSIDE, GATEWAY_OUTSIDE, Network, RESOURCES},
};

const PORT: u16 = 51820;
const CLIENT_INSIDE: &str = "10.30.0.1";
const GATEWAY_INSIDE: &str = "10.30.0.2";

/// Starts both ends and joins them. The client's process is the first.
pub(super) fn set_up(network: &Network, name: &str, program: &Path) -> Result<Vec<Process>> {
    let client = Device::start(&network.client, program, &format!("{name}-client"))?;
    let gateway = Device::start(&network.gateway, program, &format!("{name}-gateway"))?;

    let join = || {
        let allowed = format!("{GATEWAY_INSIDE}/32,{RESOURCES}");
        configure(&client, CLIENT_INSIDE, &gateway, &allowed, GATEWAY_OUTSIDE)?;
        let allowed = format!("{CLIENT_INSIDE}/32");
        configure(&gateway, GATEWAY_INSIDE, &client, &allowed, CLIENT_OUTSIDE)?;
        network.client.route(RESOURCES, GATEWAY_INSIDE)
    };
    join().with_context(|| [&client, &gateway].map(Device::last_words).concat())?;
    Ok(vec![client.into_process(), gateway.into_process()])
}

/// Gives a device an address and makes `peer` known to it, which is at `outside` and speaks for `allowed`.
fn configure(
    device: &Device,
    address: &str,
    peer: &Device,
    allowed: &str,
    outside: &str,
) -> Result<()> {
    device.listen(PORT)?;
    let endpoint = format!("{outside}:{PORT}");
    let public_key = peer.public_key();
    device.add_peer(&Peer { public_key, preshared_key: None, endpoint: &endpoint, allowed })?;
    device.bring_up(&[&format!("{address}/24")], MTU)
}
