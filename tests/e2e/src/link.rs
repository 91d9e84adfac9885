//! Cables between two namespaces, and switches that many share.

use std::ops::Deref;

use anyhow::{Context as _, Result};

use crate::{Impairment, Lab, Namespace, wire::Wire};

/// One end of a cable: where it is plugged in, the interface's name there, and its addresses.
pub type End<'a> = (&'a Namespace, &'a str, &'a [&'a str]);

impl Lab {
    /// Joins two namespaces by an unimpaired cable.
    pub fn cable(&self, left: End<'_>, right: End<'_>) -> Result<()> {
        join(left.0, left.1, right.0, right.1)?;
        bring_up(left)?;
        bring_up(right)
    }

    /// Joins two namespaces by a cable with faults; `seed` decides which packets they hit.
    pub fn wire(
        &self,
        left: End<'_>,
        right: End<'_>,
        impairment: Impairment,
        seed: u64,
    ) -> Result<Wire> {
        let wire = Wire::lay((left.0, left.1), (right.0, right.1), impairment, seed)?;
        bring_up(left)?;
        bring_up(right)?;
        Ok(wire)
    }
}

/// An Ethernet segment. As a namespace, it is the one that its bridge lives in.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
}

impl Switch {
    pub(crate) fn create(namespace: Namespace) -> Result<Self> {
        // Without spanning tree a port forwards at once.
        namespace.ip("link add bridge type bridge stp_state 0 forward_delay 0")?;
        namespace.ip("link set bridge up")?;
        Ok(Self { namespace })
    }

    /// Plugs a namespace in by an unimpaired cable.
    pub fn plug(&self, namespace: &Namespace, interface: &str, addresses: &[&str]) -> Result<()> {
        let port = namespace.name();
        join(namespace, interface, &self.namespace, port)?;
        self.attach(port)?;
        bring_up((namespace, interface, addresses))
    }

    /// Plugs a namespace in by a cable with faults; `seed` decides which packets they hit.
    pub fn plug_wire(
        &self,
        namespace: &Namespace,
        interface: &str,
        addresses: &[&str],
        impairment: Impairment,
        seed: u64,
    ) -> Result<Wire> {
        let port = namespace.name();
        let wire = Wire::lay((namespace, interface), (&self.namespace, port), impairment, seed)?;
        self.attach(port)?;
        bring_up((namespace, interface, addresses))?;
        Ok(wire)
    }

    fn attach(&self, port: &str) -> Result<()> {
        self.namespace.ip(&format!("link set {port} master bridge up"))?;
        Ok(())
    }
}

impl Deref for Switch {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

fn join(left: &Namespace, left_name: &str, right: &Namespace, right_name: &str) -> Result<()> {
    left.ip(&format!(
        "link add {left_name} type veth peer name {right_name} netns {}",
        right.full_name()
    ))
    .with_context(|| {
        format!("cannot join {left_name} of {} and {right_name} of {}", left.name(), right.name())
    })?;
    Ok(())
}

fn bring_up((namespace, interface, addresses): End<'_>) -> Result<()> {
    for address in addresses {
        namespace.address(interface, address)?;
    }
    namespace.ip(&format!("link set {interface} up"))?;
    Ok(())
}
