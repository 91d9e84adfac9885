//! Where the program is attached, as interfaces go and come.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use connlib_relay_xdp::{AttachError, Xdp};

use super::own_addresses::OwnAddresses;
use super::{Interface, Shared, lock};

/// How long an interface may be there before the program is.
const PERIOD: Duration = Duration::from_secs(2);
/// After so many of these, what was refused is asked for once more.
const RETRY: u32 = 30;

/// Sees to it that the program is where it should be, as interfaces go and come.
#[derive(Debug)]
pub(crate) struct Keeper {
    xdp: Xdp,
    shared: Arc<Shared>,
    own: OwnAddresses,
    /// What was last said about why it does not run.
    failure: Option<String>,
}

impl Keeper {
    /// Attaches the program as far as it can be.
    pub(super) fn start(xdp: Xdp, shared: Arc<Shared>, own: OwnAddresses) -> Self {
        let mut keeper = Self { xdp, shared, own, failure: None };
        keeper.tend();
        keeper
    }

    /// Goes on with it until the process ends.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub(crate) fn spawn(mut self) -> Result<()> {
        let keep = move || {
            loop {
                for _ in 0..RETRY {
                    thread::sleep(PERIOD);
                    self.tend();
                }
                self.xdp.try_again();
            }
        };
        let thread = thread::Builder::new().name("relay-xdp".to_owned()).spawn(keep);
        thread.map(drop).context("cannot start a thread")
    }

    fn tend(&mut self) {
        self.own.find();
        let told = self.shared.tell(|maps| maps.set_addresses(self.own.v4(), self.own.v6()));
        if let Err(error) = told {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the XDP program does not know the relay's addresses");
        }
        let result = self.xdp.tend();
        let interfaces: Vec<Interface> = self
            .xdp
            .modes()
            .map(|(name, mode)| Interface { name: name.to_owned(), mode })
            .collect();
        let failure = result.as_ref().err().map(|error| format!("{error:?}"));
        if failure.is_none() || failure != self.failure {
            report(&interfaces, result);
        }
        if failure.is_some() || interfaces.iter().any(|interface| interface.mode.is_some()) {
            self.failure = failure;
        }
        *lock(&self.shared.interfaces) = interfaces;
    }
}

/// Says what has become of it, if that is new.
fn report(interfaces: &[Interface], result: Result<bool, AttachError>) {
    let (attached, missing): (Vec<_>, Vec<_>) =
        interfaces.iter().partition(|interface| interface.mode.is_some());
    let names = |interfaces: Vec<&Interface>| -> Vec<String> {
        interfaces.into_iter().map(|interface| interface.name.clone()).collect()
    };
    match (result, attached.first().and_then(|interface| interface.mode)) {
        (Ok(false), _) => {}
        (Ok(true), Some(mode)) => {
            let (interfaces, missing) = (names(attached), names(missing));
            tracing::info!(%mode, ?interfaces, ?missing, "relaying channels in the kernel");
        }
        (Ok(true), None) => tracing::info!("no XDP program is attached: relaying in user space"),
        (Err(error @ AttachError::NoInterface(_)), _) => {
            tracing::info!(%error, "no XDP program is attached: relaying in user space");
        }
        (Err(error), _) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the XDP program does not run: relaying in user space");
        }
    }
}
