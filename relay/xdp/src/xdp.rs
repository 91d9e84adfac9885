//! The handle of the fast path.

use std::{fmt, io};

use aya::programs::links::FdLink;

use crate::{
    AttachError, Config, Maps, Mode, Preference, Runs, Verdict, interface::Interface,
    program::Program,
};

/// The program in the kernel, and where it is attached. It is detached when this is dropped, or the process ends in whatever
/// way.
pub struct Xdp {
    interfaces: Vec<String>,
    preference: Preference,
    // Before the program: packets must not find it half gone.
    links: Vec<Link>,
    program: Program,
    /// What there was when it was last decided where to attach, in the order of the interfaces. Nothing: it is to be
    /// decided.
    seen: Option<Vec<Option<Interface>>>,
}

#[derive(Debug)]
struct Link {
    index: u32,
    mode: Mode,
    /// Attached as long as it lives.
    _link: FdLink,
}

impl Xdp {
    /// Loads the program, without attaching it yet.
    ///
    /// Lets the loopback interface forward, which the program needs to find routes.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded. The relay works without.
    pub fn load(config: &Config) -> Result<(Self, Maps), AttachError> {
        let (program, maps) = Program::load(config)?;
        let Config { interfaces, preference, .. } = config.clone();
        Ok((Self { interfaces, preference, links: Vec::new(), program, seen: None }, maps))
    }

    /// Attaches the program to those interfaces that are there, in the first mode by preference that all of them can do; or,
    /// if one of them cannot, to none. To be called every few seconds: interfaces go and come, and others attach programs.
    /// As long as nothing has changed, it costs a few system calls. Says whether something is attached otherwise than before.
    ///
    /// # Errors
    ///
    /// If it is attached nowhere, and why; once, until something changes. The relay works without.
    pub fn tend(&mut self) -> Result<bool, AttachError> {
        if self.preference == Preference::Off {
            return Ok(false);
        }
        let there = match self.look() {
            Ok(there) => there,
            Err(error) => {
                tracing::debug!(%error, "the kernel does not say which interfaces there are");
                return Ok(false);
            }
        };
        if self.seen.as_ref() == Some(&there) {
            return Ok(false);
        }
        let before = self.modes().map(|(_, mode)| mode).collect::<Vec<_>>();
        let attached = self.attach_to(&there);
        // Our own program is seen as well.
        self.seen = self.look().ok();
        attached?;
        Ok(self.modes().map(|(_, mode)| mode).ne(before))
    }

    /// If it is attached nowhere, it is tried again the next time though nothing seems to have changed: drivers have more
    /// reasons to refuse than can be seen.
    pub fn try_again(&mut self) {
        if self.links.is_empty() {
            self.seen = None;
        }
    }

    /// The interfaces, and how the program is attached to each.
    pub fn modes(&self) -> impl Iterator<Item = (&str, Option<Mode>)> {
        self.interfaces.iter().enumerate().map(|(number, name)| {
            let seen = self.seen.as_ref().and_then(|seen| seen[number]);
            let link =
                seen.and_then(|seen| self.links.iter().find(|link| link.index == seen.index));
            (name.as_str(), link.map(|link| link.mode))
        })
    }

    /// Lets packets come and leave by the interfaces that are there, to [try](Self::try_out) what the program does.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn serve_all(&mut self) -> Result<(), AttachError> {
        let there = self.look().map_err(AttachError::load)?;
        let there: Vec<Interface> = there.into_iter().flatten().collect();
        self.program.serve(&there)
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

    fn look(&self) -> io::Result<Vec<Option<Interface>>> {
        self.interfaces.iter().map(|name| Interface::find(name)).collect()
    }

    fn attach_to(&mut self, there: &[Option<Interface>]) -> Result<(), AttachError> {
        let names = self.interfaces.clone();
        let there: Vec<(&str, Interface)> = names
            .iter()
            .zip(there)
            .filter_map(|(name, interface)| Some((name.as_str(), (*interface)?)))
            .collect();
        if there.is_empty() {
            self.detach();
            return Err(AttachError::NoInterface(names));
        }
        if self.preference != Preference::Generic {
            let is_sent = there.iter().all(|(_, interface)| !interface.is_veth);
            // Behind some drivers' backs, packets would be lost.
            if self.preference == Preference::Native || is_sent {
                match self.attach_all(&there, Mode::Native) {
                    Err(error) if self.preference == Preference::Auto => {
                        let reason = &error as &dyn std::error::Error;
                        tracing::debug!(reason, "not in the driver");
                    }
                    result => return result,
                }
            }
        }
        if self.links.iter().any(|link| link.mode == Mode::Native) {
            self.detach();
        }
        self.attach_all(&there, Mode::Generic)
    }

    /// Attaches to all of these interfaces, where it is not attached already, or to none.
    fn attach_all(&mut self, there: &[(&str, Interface)], mode: Mode) -> Result<(), AttachError> {
        let id = Some(self.program.id());
        let stands = |index, interface: &Interface| {
            interface.index == index && interface.program(mode) == id
        };
        self.links.retain(|link| {
            link.mode == mode && there.iter().any(|(_, interface)| stands(link.index, interface))
        });
        let attached = there.iter().try_for_each(|(name, interface)| {
            let index = interface.index;
            if !self.links.iter().any(|link| link.index == index) {
                let link = self.program.attach(name, index, mode)?;
                self.links.push(Link { index, mode, _link: link });
            }
            Ok(())
        });
        // Nothing may leave by an interface whose driver does not know of the program.
        let interfaces: Vec<Interface> = there.iter().map(|(_, interface)| *interface).collect();
        let served = attached.and_then(|()| self.program.serve(&interfaces));
        if served.is_err() {
            self.detach();
        }
        served
    }

    fn detach(&mut self) {
        self.links.clear();
        drop(self.program.serve(&[]));
    }
}

impl fmt::Debug for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xdp").field("links", &self.links).finish_non_exhaustive()
    }
}
