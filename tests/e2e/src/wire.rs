//! A cable with delay, loss and other faults.
//!
//! Its ends are TAP devices, and a program of ours carries the frames between them, because not
//! every kernel has `netem`. A TAP device offers no offloads, so what arrives at the program is
//! what would be on a real cable: segmented, with complete checksums.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, Result};

use crate::{Impairment, Namespace, Process, wait};

const DEADLINE: Duration = Duration::from_secs(5);

/// A cable that a program carries. Both interfaces vanish with it.
#[derive(Debug)]
pub struct Wire {
    forwarder: Process,
    impairment: Impairment,
    changes: usize,
}

impl Wire {
    pub(crate) fn lay(
        left: (&Namespace, &str),
        right: (&Namespace, &str),
        impairment: Impairment,
        seed: u64,
    ) -> Result<Self> {
        let mut forwarder = left
            .0
            .command("connlib-e2e-helper")
            .args(["wire", "--left", left.1, "--right", right.1])
            .args(["--right-namespace", right.0.full_name()])
            .args(["--seed", &seed.to_string()])
            .args(["--impairment", &serde_json::to_string(&impairment)?])
            .spawn(&format!("wire-{}-{}", left.0.name(), right.0.name()))?;
        forwarder.wait_for("carrying frames", DEADLINE)?;
        Ok(Self { forwarder, impairment, changes: 0 })
    }

    /// The faults it has now.
    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// Gives it other faults, in force when this returns.
    pub fn set_impairment(&mut self, impairment: Impairment) -> Result<()> {
        let mut line = serde_json::to_string(&impairment)?;
        line.push('\n');
        let stdin = self.forwarder.stdin().context("the wire takes no orders")?;
        stdin.write_all(line.as_bytes())?;
        stdin.flush()?;

        let (log, changes) = (self.forwarder.log(), self.changes);
        wait::until("the wire to change", DEADLINE, || {
            log.find_nth("impairment changed", changes)
        })?;
        self.changes += 1;
        self.impairment = impairment;
        Ok(())
    }

    /// Cuts it: nothing passes until other faults are set.
    pub fn cut(&mut self) -> Result<()> {
        self.set_impairment(Impairment { loss: 1.0, ..Impairment::default() })
    }
}
