//! Makes the system send its DNS queries to us, and puts back what was before.
//!
//! One type, [`DnsControl`], three ways ([`Method`]): through systemd-resolved, by rewriting `/etc/resolv.conf`, or not at
//! all. Settings are applied only if they differ from those in force: browsers drop connections when they see a change.

mod error;
mod resolv_conf;
mod resolved;
mod search_domain;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use error::Error;
pub use search_domain::{InvalidSearchDomain, SearchDomain};

pub(crate) use resolv_conf::{backup_of, is_ours};

use crate::resolvers::{self, RESOLV_CONF, RESOLVED_UPLINKS};
use resolv_conf::ResolvConf;
use resolved::Resolved;

/// How the system's DNS settings are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// systemd-resolved is told by `resolvectl` that our interface answers for all names.
    SystemdResolved,
    /// `/etc/resolv.conf` is rewritten in place.
    EtcResolvConf,
    /// Nothing is changed; somebody else sends us what we should answer.
    Disabled,
}

impl Method {
    const ALL: [Self; 3] = [Self::SystemdResolved, Self::EtcResolvConf, Self::Disabled];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SystemdResolved => "systemd-resolved",
            Self::EtcResolvConf => "etc-resolv-conf",
            Self::Disabled => "disabled",
        })
    }
}

/// A name that is not one of a [`Method`].
#[derive(Debug, thiserror::Error)]
#[error("unknown DNS control {0:?}: use systemd-resolved, etc-resolv-conf or disabled")]
pub struct UnknownMethod(String);

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        let method = Self::ALL.into_iter().find(|method| method.to_string() == name);
        method.ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

/// What the system should use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where to send queries. Without any, the system's own settings are in force.
    pub servers: Vec<IpAddr>,
    /// A domain that completes names without a dot, before those that the system has already.
    pub search_domain: Option<SearchDomain>,
}

/// The system's DNS settings, as long as they are in our hands.
///
/// [`DnsControl::revert`] gives them back. Dropping it restores `resolv.conf` as well; systemd-resolved forgets the settings
/// of an interface when the interface goes.
#[derive(Debug)]
pub struct DnsControl(Way);

#[derive(Debug)]
enum Way {
    Resolved(Resolved),
    ResolvConf(ResolvConf),
    Disabled,
}

impl DnsControl {
    /// Prepares to change the settings of the system for the TUN device of this name.
    ///
    /// What a crashed process left in `/etc/resolv.conf` is undone first.
    pub fn new(method: Method, interface: &str) -> Result<Self, Error> {
        match method {
            Method::SystemdResolved => Ok(Self(Way::Resolved(Resolved::new(interface)))),
            Method::EtcResolvConf => Self::with_resolv_conf(Path::new(RESOLV_CONF)),
            Method::Disabled => Ok(Self(Way::Disabled)),
        }
    }

    /// [`Method::EtcResolvConf`] with a file of another name. The only other file that is ever written is the backup
    /// beside it.
    pub fn with_resolv_conf(path: &Path) -> Result<Self, Error> {
        Ok(Self(Way::ResolvConf(ResolvConf::open(path)?)))
    }

    /// Puts settings in force, in place of those of an earlier call.
    pub async fn set(&mut self, settings: &Settings) -> Result<(), Error> {
        match &mut self.0 {
            Way::Resolved(resolved) => resolved.set(settings).await,
            Way::ResolvConf(resolv_conf) => resolv_conf.set(settings),
            Way::Disabled => Ok(()),
        }
    }

    /// Makes the system forget answers, because names have got other addresses.
    pub async fn flush_caches(&mut self) -> Result<(), Error> {
        match &mut self.0 {
            Way::Resolved(resolved) => resolved.flush_caches().await,
            // The C library has no cache.
            Way::ResolvConf(_) | Way::Disabled => Ok(()),
        }
    }

    /// Gives the system its own settings back.
    pub async fn revert(&mut self) -> Result<(), Error> {
        match &mut self.0 {
            Way::Resolved(resolved) => resolved.revert().await,
            Way::ResolvConf(resolv_conf) => resolv_conf.restore(),
            Way::Disabled => Ok(()),
        }
    }

    /// The file that lists the system's own servers, for [`resolvers::read`], whatever settings are in force.
    pub fn upstream_file(&self) -> PathBuf {
        match &self.0 {
            Way::Resolved(_) => PathBuf::from(RESOLVED_UPLINKS),
            Way::ResolvConf(resolv_conf) => resolv_conf.path().to_owned(),
            Way::Disabled => {
                resolvers::upstream_file(Path::new(RESOLV_CONF), Path::new(RESOLVED_UPLINKS))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_named_as_on_the_command_line() {
        for name in ["systemd-resolved", "etc-resolv-conf", "disabled"] {
            assert_eq!(name.parse::<Method>().unwrap().to_string(), name);
        }
        assert!(
            "resolvconf".parse::<Method>().unwrap_err().to_string().contains("etc-resolv-conf")
        );
    }
}
