//! A router such as homes and offices have: it forwards, and hides what is behind it.

use std::ops::Deref;

use anyhow::Result;

use crate::Namespace;

/// Ranges that the internet has no routes for (RFC 1918 §3, RFC 4193 §3.1).
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// How a router translates what leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Linux's usual way: the port stays if it is free, whatever the destination.
    Masquerade,
    /// A new random port for each destination, which no peer can predict.
    Symmetric,
}

/// A namespace that forwards between its interfaces.
#[derive(Debug)]
pub struct Router {
    namespace: Namespace,
}

impl Router {
    pub(crate) fn create(namespace: Namespace) -> Result<Self> {
        namespace.sysctl("net.ipv4.ip_forward", 1)?;
        namespace.sysctl("net.ipv6.conf.all.forwarding", 1)?;
        // A cable that is pulled and put back must find the addresses that were there.
        namespace.sysctl("net.ipv6.conf.all.keep_addr_on_down", 1)?;
        // Whoever tries several addresses at once hears of each that is out of reach.
        namespace.sysctl("net.ipv4.icmp_ratelimit", 0)?;
        namespace.sysctl("net.ipv6.icmp.ratelimit", 0)?;
        Ok(Self { namespace })
    }

    /// Masquerades both address families towards the interface `wan` and lets nothing in that
    /// does not answer something that went out. Replaces what was set before.
    ///
    /// Private addresses that lie nowhere near are unreachable, rather than lost on the internet.
    pub fn masquerade(&self, wan: &str, nat: Nat) -> Result<()> {
        for range in PRIVATE {
            self.namespace.ip(&format!("route replace unreachable {range}"))?;
        }
        let ports = match nat {
            Nat::Masquerade => "",
            Nat::Symmetric => "random,fully-random",
        };
        self.namespace.nft(&format!(
            "table inet router
             delete table inet router
             table inet router {{
                 chain translate {{
                     type nat hook postrouting priority srcnat
                     oifname {wan} masquerade {ports}
                 }}
                 chain guard {{
                     type filter hook forward priority filter
                     iifname {wan} ct state established,related accept
                     iifname {wan} drop
                 }}
                 # Answering strangers would occupy their ports in the translation table.
                 chain own {{
                     type filter hook input priority filter
                     iifname {wan} meta l4proto {{ tcp, udp }} ct state new drop
                 }}
             }}"
        ))
    }
}

impl Deref for Router {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
