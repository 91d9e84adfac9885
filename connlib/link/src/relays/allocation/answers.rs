//! What an allocation makes of the relay's answers.

use std::time::{Duration, Instant};

use connlib_stun::{Attribute, Class, Message};

use super::super::requests::{Purpose, Request};
use super::{Allocation, Outbox, Refusal, State};

/// What a relay grants that does not say for how long (RFC 8656 §3.2).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

/// What a relay may grant: less would be a flood of refreshes, more would be believed in after a restart.
const LIFETIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(30)..=Duration::from_secs(3600);

/// The same is asked so often with another nonce or other credentials.
const MAX_TRIES: u8 = 4;

/// RFC 8489 §14.8.
const BAD_REQUEST: u16 = 400;

/// A refresh that the relay refused for no reason that we know is tried again after this.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);

/// What was given back may still be there for a moment (coturn: a second) until the next may be asked for.
const AFTER_RELEASE: Duration = Duration::from_millis(1200);

impl Allocation {
    /// Takes a message from the relay. False: it answers none of our requests.
    pub(in super::super) fn handle_response(
        &mut self,
        message: &Message<'_>,
        now: Instant,
        out: &mut Outbox,
    ) -> bool {
        let transaction = message.transaction();
        if !self.requests.awaits(transaction) {
            return false;
        }
        let is_success = message.class() == Class::Success;
        if is_success && !self.session.is_authentic(message) {
            tracing::debug!(relay = %self.relay, "ignored an answer without proof of who sent it");
            return true;
        }
        let code = message.error_code();
        if !is_success && code.is_none() {
            return true;
        }
        let Some(request) = self.requests.take(transaction) else { return false };
        self.watch.note_received(now);
        match code {
            None => self.handle_success(request.purpose, message, now, out),
            // An error proves nothing about its sender (most can't be signed); whoever knows the transaction's id can
            // as well keep all datagrams from us.
            Some(code) => self.handle_error(&request, code, message, now, out),
        }
        self.bind_waiting(now, out);
        true
    }

    fn handle_success(
        &mut self,
        purpose: Purpose,
        message: &Message<'_>,
        now: Instant,
        out: &mut Outbox,
    ) {
        // Whatever was signed with, the relay takes it.
        self.proven = None;
        match purpose {
            Purpose::Allocate => {
                for address in message.xor_addresses(Attribute::XOR_RELAYED_ADDRESS).flatten() {
                    self.relayed[usize::from(address.is_ipv6())].get_or_insert(address);
                }
                if self.relayed == [None; 2] {
                    return self.fail(Refusal::Error(0));
                }
                self.state = State::Granted { since: now };
                self.live_on(message, now);
                tracing::debug!(relay = %self.relay, relayed = ?self.relayed, "allocated");
            }
            Purpose::Refresh => {
                self.is_suspect = false;
                self.live_on(message, now);
            }
            Purpose::Release => self.begin_after_release(now, out),
            Purpose::Bind(number) => self.channels.bound(number, now),
        }
    }

    fn live_on(&mut self, message: &Message<'_>, now: Instant) {
        let lifetime = message.number(Attribute::LIFETIME).map(u64::from);
        let lifetime = lifetime.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let lifetime = lifetime.clamp(*LIFETIMES.start(), *LIFETIMES.end());
        self.expires_at = now + lifetime;
        self.ask_at = Some(now + lifetime / 2);
    }

    /// What was there before is gone: now there is room for ours.
    fn begin_after_release(&mut self, now: Instant, out: &mut Outbox) {
        if let State::Asked { .. } = self.state {
            self.ask(Purpose::Allocate, 0, now, out);
        }
    }

    fn handle_error(
        &mut self,
        request: &Request,
        code: u16,
        message: &Message<'_>,
        now: Instant,
        out: &mut Outbox,
    ) {
        let purpose = request.purpose;
        // RFC 8489 §9.2.5: 401 says that there was no nonce, 438 that it was too old.
        let is_challenge = matches!(code, 401 | 438);
        if is_challenge && request.tries < MAX_TRIES {
            // Another request may have learned the same already.
            let is_new = self.session.adopt(message);
            if is_new || code == 438 {
                return self.ask(purpose, request.tries + 1, now, out);
            }
        }
        tracing::debug!(relay = %self.relay, ?purpose, code, "refused");
        match (purpose, code) {
            (_, 401 | 438 | 441) => self.handle_bad_credentials(purpose, request.tries, now, out),
            (Purpose::Release, _) => self.begin_after_release(now, out),
            (Purpose::Allocate, 437) => match self.state {
                // The relay knows an allocation of this address: an answer was lost, or we were restarted.
                State::Asked { resets: 0 } => {
                    self.state = State::Asked { resets: 1 };
                    self.ask(Purpose::Release, 0, now, out);
                }
                State::Asked { resets: 1 } => {
                    self.state = State::Asked { resets: 2 };
                    self.ask_at = Some(now + AFTER_RELEASE);
                }
                _ => self.fail(Refusal::Error(code)),
            },
            (Purpose::Allocate, _) => self.fail(Refusal::Error(code)),
            (_, 437) => self.begin(0, now, out),
            (Purpose::Refresh, _) => self.ask_at = Some(now + REFRESH_AGAIN),
            (Purpose::Bind(number), _) => {
                self.channels.refused(number, now);
                if code == BAD_REQUEST {
                    // So says coturn when it has been started anew. Of a refresh it says what is the matter.
                    self.probe(now, out);
                }
            }
        }
    }

    fn handle_bad_credentials(
        &mut self,
        purpose: Purpose,
        tries: u8,
        now: Instant,
        out: &mut Outbox,
    ) {
        if let Some(proven) = self.proven.take() {
            // RFC 8656 §5: whoever made the allocation goes on with it, by nothing but the credentials of that time.
            self.session = proven;
            self.is_outdated = true;
            return self.ask(purpose, tries.saturating_sub(1), now, out);
        }
        match purpose {
            Purpose::Allocate => self.fail(Refusal::Credentials),
            Purpose::Release => self.fail(Refusal::Occupied),
            // It was started anew with other secrets, and knows nothing of what it granted before.
            Purpose::Refresh if self.is_suspect => self.fail(Refusal::Credentials),
            Purpose::Refresh => self.is_outdated = true,
            Purpose::Bind(number) => {
                self.is_outdated = true;
                self.channels.refused(number, now);
            }
        }
    }
}
