//! Whether a relay is there: something that it answers should come back when something is sent.

use std::time::{Duration, Instant};

/// Nothing has come after what was sent: the relay is asked whether it is there.
const ASK_AFTER: Duration = Duration::from_millis(500);

/// It has not answered that either: it is gone, or its network is.
const SILENCE: Duration = Duration::from_millis(1500);

/// The same by a stream, which may be busy with other things or repeat what was lost.
const STREAM_SILENCE: Duration = Duration::from_millis(5500);

/// Something sent so long after the last thing that came is no traffic.
const LIVELY: Duration = Duration::from_secs(2);

/// Looks at what goes to a relay and what comes from it. Costs no timer for each packet.
#[derive(Debug)]
pub(super) struct Watch {
    round_trip: Duration,
    silence: Duration,
    /// The first thing sent that nothing has come after.
    silent_since: Option<Instant>,
    heard: Option<Instant>,
    look_at: Option<Instant>,
    /// Nothing but this one thing has been sent of late: its answer ends the watch.
    is_for_one: bool,
}

impl Watch {
    pub(super) fn new(round_trip: Duration, is_stream: bool) -> Self {
        Self {
            round_trip,
            silence: if is_stream { STREAM_SILENCE } else { SILENCE },
            silent_since: None,
            heard: None,
            look_at: None,
            is_for_one: false,
        }
    }

    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    /// Something was sent that the relay or a peer is to answer.
    pub(super) fn note_sent(&mut self, now: Instant) {
        if self.silent_since.is_none() {
            self.silent_since = Some(now);
            let was_quiet = self.heard.is_none_or(|heard| now >= heard + LIVELY);
            self.is_for_one = self.look_at.is_none() && was_quiet;
            // What is set already looks again when it is due.
            self.look_at.get_or_insert(now + self.ask_after());
        }
    }

    /// Something came from the relay.
    pub(super) fn note_received(&mut self, now: Instant) {
        self.silent_since = None;
        self.heard = Some(now);
        if self.is_for_one {
            self.look_at = None;
        }
    }

    /// Since when the relay has been silent, if that is too long.
    pub(super) fn silent_since(&self, now: Instant) -> Option<Instant> {
        self.silent_since.filter(|since| now >= *since + self.silence())
    }

    /// Whether anything came after this.
    pub(super) fn has_heard_since(&self, since: Instant) -> bool {
        self.heard.is_some_and(|heard| heard > since)
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether the relay should be asked whether it is there.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.look_at.is_none_or(|at| now < at) {
            return false;
        }
        let Some(since) = self.silent_since else {
            self.look_at = None;
            return false;
        };
        let (ask, silence) = (since + self.ask_after(), since + self.silence());
        self.look_at = [ask, silence].into_iter().find(|at| *at > now);
        now >= ask
    }

    fn ask_after(&self) -> Duration {
        ASK_AFTER.max(self.round_trip * 2)
    }

    fn silence(&self) -> Duration {
        self.ask_after() + self.silence.max(self.round_trip * 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_relay_that_falls_silent_is_asked_and_found_out_within_two_seconds() {
        let start = Instant::now();
        let mut watch = Watch::new(ms(30), false);
        let mut asked = None;
        for step in 0..300 {
            let now = start + ms(10) * step;
            watch.note_sent(now);
            if step < 50 {
                watch.note_received(now);
            }
            if watch.handle_timeout(now) {
                asked.get_or_insert(now - start);
            }
            assert_eq!(watch.silent_since(now).is_some(), step >= 250, "{step}");
        }
        assert!(asked.is_some_and(|at| (ms(1000)..ms(1600)).contains(&at)), "{asked:?}");
    }

    #[test]
    fn one_question_and_its_answer_wake_nobody() {
        let start = Instant::now();
        let mut watch = Watch::new(ms(30), false);
        for minute in 0..10 {
            let now = start + ms(60_000) * minute;
            watch.note_sent(now);
            assert!(watch.next_timeout().is_some());
            watch.note_received(now + ms(30));
            assert_eq!(watch.next_timeout(), None);
        }
    }

    #[test]
    fn traffic_moves_the_timer_a_few_times_a_second_at_most() {
        let start = Instant::now();
        let mut watch = Watch::new(ms(30), false);
        let (mut moved, mut last) = (0, None);
        for step in 0..10_000 {
            let now = start + ms(1) * step;
            watch.note_sent(now);
            if step % 3 == 0 {
                watch.note_received(now);
            }
            watch.handle_timeout(now);
            moved += u32::from(std::mem::replace(&mut last, watch.next_timeout()) != last);
        }
        assert!(moved <= 50, "{moved}");
    }
}
