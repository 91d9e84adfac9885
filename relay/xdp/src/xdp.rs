//! The handle of the fast path.

use std::fmt;

use aya::programs::{ProgramError, XdpMode, links::FdLink};
use connlib_relay_xdp_types::Family;

use crate::{
    AttachError, Binding, Config, Counters, MapError, Mode, Preference, Runs, Verdict, forwarding,
    kind,
    program::{self, Program},
};

/// The program in the kernel. It is detached when this is dropped, or the process ends in whatever way.
pub struct Xdp {
    config: Config,
    // Before the program: packets must not find it half gone.
    links: Vec<FdLink>,
    program: Program,
}

impl Xdp {
    /// Loads the program and attaches it to all interfaces, in the first mode by preference that all of them can do.
    ///
    /// Lets the loopback interface forward, which the program needs to find routes.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded or attached. The relay works without.
    pub fn attach(config: &Config) -> Result<(Self, Mode), AttachError> {
        if config.preference == Preference::Off {
            return Err(AttachError::Off);
        }
        if config.interfaces.is_empty() {
            return Err(AttachError::NoInterface);
        }
        let mut xdp = Self::load(config)?;
        let mode = match config.preference {
            Preference::Native => Mode::Native,
            Preference::Auto if config.interfaces.iter().all(|name| sends_natively(name)) => {
                match xdp.attach_all(Mode::Native) {
                    Ok(()) => return Ok((xdp, Mode::Native)),
                    Err(error) => {
                        let reason = &error as &dyn std::error::Error;
                        tracing::debug!(reason, "not in the driver");
                        Mode::Generic
                    }
                }
            }
            _ => Mode::Generic,
        };
        xdp.attach_all(mode)?;
        Ok((xdp, mode))
    }

    /// Loads the program without attaching it, to [try](Self::try_out) what it does.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub fn load(config: &Config) -> Result<Self, AttachError> {
        let program = Program::load(config)?;
        if config.v4.is_some() {
            forwarding::allow(Family::V4);
        }
        if config.v6.is_some() {
            forwarding::allow(Family::V6);
        }
        Ok(Self { config: config.clone(), links: Vec::new(), program })
    }

    /// This port is an allocation's from now on, in this family: packets to it may be relayed by the program.
    ///
    /// # Errors
    ///
    /// If the kernel fails; user space relays then.
    pub fn add_port(&mut self, allocation_port: u16, family: Family) -> Result<(), MapError> {
        self.program.set_port(allocation_port, family, true)
    }

    /// The allocation is gone: packets to its port are none of the program's business.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn remove_port(&mut self, allocation_port: u16, family: Family) -> Result<(), MapError> {
        self.program.set_port(allocation_port, family, false)
    }

    /// From now on the program relays what belongs to this binding, both ways, as long as its port is
    /// [one of ours](Self::add_port). To insert it again is fine.
    ///
    /// A peer that is an allocation of this relay may be named by the public or the local address.
    ///
    /// # Errors
    ///
    /// If there is no room or the kernel fails; user space relays then.
    pub fn insert_channel(&mut self, binding: &Binding) -> Result<(), MapError> {
        let (client, peer) = program::legs(&self.config, binding);
        self.program.insert(client, peer)
    }

    /// The channel is not bound any more. It is fine if it never was.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn remove_channel(&mut self, binding: &Binding) -> Result<(), MapError> {
        let (client, peer) = program::legs(&self.config, binding);
        self.program.remove(client, peer)
    }

    /// What became of packets so far. Costs a system call for each counter.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn counters(&self) -> Result<Counters, MapError> {
        self.program.counters()
    }

    /// What the program costs, if the kernel counts that.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn runs(&mut self) -> Result<Runs, AttachError> {
        self.program.runs()
    }

    /// Runs the program `times` times on a frame as if it came by an interface. Nothing is sent; it is counted.
    ///
    /// # Errors
    ///
    /// If the kernel does not do that with this frame: one of less than 14 bytes, or longer than a page.
    pub fn try_out(
        &mut self,
        frame: &[u8],
        interface_index: u32,
        times: u32,
    ) -> Result<Verdict, AttachError> {
        self.program.run(frame, interface_index, times)
    }

    /// Attaches to all interfaces, or to none.
    fn attach_all(&mut self, mode: Mode) -> Result<(), AttachError> {
        let mut links = Vec::with_capacity(self.config.interfaces.len());
        for interface in &self.config.interfaces {
            links.push(attach_one(&mut self.program, interface, mode)?);
        }
        self.links = links;
        Ok(())
    }
}

impl fmt::Debug for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xdp").field("links", &self.links).finish_non_exhaustive()
    }
}

/// Whether what the program sends in the interface's driver arrives, as far as one can see from this end.
fn sends_natively(interface: &str) -> bool {
    let kind = program::index(interface).map(kind::of);
    !matches!(kind, Ok(Ok(Some(kind))) if kind == kind::VETH)
}

fn attach_one(program: &mut Program, interface: &str, mode: Mode) -> Result<FdLink, AttachError> {
    let program = program.xdp()?;
    let wanted = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let attached = program.attach(interface, wanted).map_err(|error| match error {
        ProgramError::UnknownInterface { name } => AttachError::UnknownInterface(name),
        ProgramError::SyscallError(error) => {
            AttachError::Attach { interface: interface.to_owned(), mode, source: error.io_error }
        }
        error => AttachError::Attach {
            interface: interface.to_owned(),
            mode,
            source: std::io::Error::other(error),
        },
    })?;
    let link = program.take_link(attached).map_err(AttachError::load)?;
    // Anything else than a link of the process's own would stay behind if we crash.
    FdLink::try_from(link).map_err(|_| AttachError::OldKernel)
}
