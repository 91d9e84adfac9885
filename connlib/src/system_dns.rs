//! The system's DNS settings, changed while packets go on: systemd-resolved may take seconds.

use connlib_net::dns_control::{DnsControl, Error, Settings};
use futures_util::future::BoxFuture;

/// Applies settings one after the other; of those that wait, the latest.
pub(crate) struct SystemDns {
    /// `None` while settings are being applied.
    control: Option<DnsControl>,
    applying: Option<BoxFuture<'static, (DnsControl, Result<(), Error>)>>,
    wanted: Option<Settings>,
}

impl SystemDns {
    pub(crate) fn new(control: DnsControl) -> Self {
        Self { control: Some(control), applying: None, wanted: None }
    }

    /// From now on, these are wanted; [`applied`](Self::applied) tells whether they are in force.
    pub(crate) fn set(&mut self, settings: Settings) {
        self.wanted = Some(settings);
    }

    /// Waits until the settings that were wanted last are in force, or were refused; for ever if nothing is wanted.
    /// Cancel safe.
    pub(crate) async fn applied(&mut self) -> Result<(), Error> {
        loop {
            if let Some(applying) = &mut self.applying {
                let (control, result) = applying.await;
                self.applying = None;
                self.control = Some(control);
                if self.wanted.is_none() {
                    return result;
                }
            }
            match (self.control.take(), self.wanted.take()) {
                (Some(mut control), Some(settings)) => {
                    self.applying = Some(Box::pin(async move {
                        let result = control.set(&settings).await;
                        (control, result)
                    }));
                }
                (control, _) => {
                    self.control = control;
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Gives the system its own settings back.
    pub(crate) async fn revert(mut self) -> Result<(), Error> {
        if let Some(applying) = self.applying.take() {
            self.control = Some(applying.await.0);
        }
        match &mut self.control {
            Some(control) => control.revert().await,
            None => Ok(()),
        }
    }
}
