//! Access that a gateway gives, and when the portal is asked whether it still does.

use std::time::{Duration, Instant};

use super::{AWAY_FOR_A_MOMENT, MAX_HOLD_OFF_AWAY};
use crate::ids::GatewayId;

/// While the portal says that the gateway is away, it is asked again so often: no link lives on for longer without its
/// gateway.
const MAX_CONFIRMATIONS: u32 = 8;

/// Access that the gateway denies sooner than this after it was granted, or asked about, is not asked about; twice as long
/// each time that the portal confirms what the gateway denies, as with a name that has no addresses.
pub(super) const DOUBT_PAUSE: Duration = Duration::from_secs(2);
const MAX_DOUBT_PAUSE: Duration = Duration::from_secs(32);
/// Until the portal has confirmed it, it is asked about again after so long.
const DOUBT_RETRY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Granted {
    pub(super) gateway: GatewayId,
    /// When it was granted, or asked about.
    pub(super) since: Instant,
    /// The gateway has said no to something, and the portal was asked about that.
    pub(super) is_in_doubt: bool,
    /// How long the portal is not asked about what the gateway denies.
    pause: Duration,
    /// How often the portal has said that the gateway is away.
    times_away: u32,
    /// When to ask about that again.
    pub(super) ask_at: Option<Instant>,
}

impl Granted {
    /// `before`: the access that there was.
    pub(super) fn new(gateway: GatewayId, before: Option<&Self>, now: Instant) -> Self {
        let confirmed = before.filter(|it| it.is_in_doubt && it.gateway == gateway);
        let pause = confirmed.map_or(DOUBT_PAUSE, |it| (it.pause * 2).min(MAX_DOUBT_PAUSE));
        Self { gateway, since: now, is_in_doubt: false, pause, times_away: 0, ask_at: None }
    }

    /// The gateway denies something. Whether to ask the portal about that.
    pub(super) fn doubt(&mut self, now: Instant) -> bool {
        let pause = if self.is_in_doubt { DOUBT_RETRY } else { self.pause };
        let is_due = now >= self.since + pause;
        if is_due {
            (self.since, self.is_in_doubt) = (now, true);
        }
        is_due
    }

    /// The portal says that the gateway is away.
    pub(super) fn note_away(&mut self, now: Instant) {
        let pause = (AWAY_FOR_A_MOMENT * (1 << self.times_away)).min(MAX_HOLD_OFF_AWAY);
        self.ask_at = (self.times_away < MAX_CONFIRMATIONS).then(|| now + pause);
        self.times_away = (self.times_away + 1).min(MAX_CONFIRMATIONS);
    }

    /// What the portal said is nothing to go by any more.
    pub(super) fn forget_away(&mut self) {
        (self.times_away, self.ask_at) = (0, None);
    }
}
