//! The hub, its database and its connections, tied together on one thread.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use tokio::sync::{Notify, watch};

use super::admission::{self, Endpoint};
use super::http::{Head, Refusal};
use super::limiter::Limiter;
use super::outbox::{self, Inlet, Item, Outbox};
use crate::hub::{CloseReason, ConnectionId, Hub, Now, Output};
use crate::policy::Policy;
use crate::store::{Store, StoreError};

/// Close codes of RFC 6455 §7.4.1 and, for the restart, of the registry that it founded.
const NORMAL_CLOSURE: u16 = 1000;
const POLICY_VIOLATION: u16 = 1008;
const SERVICE_RESTART: u16 = 1012;

/// What every task of the server shares. All of them run on one thread, and no borrow lasts over
/// an await.
#[derive(Debug)]
pub(super) struct Portal {
    state: RefCell<State>,
    wake_changed: Notify,
    stopping: watch::Sender<bool>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) hub: Hub,
    pub(super) store: Store,
    pub(super) limiter: Limiter,
    outboxes: HashMap<ConnectionId, Outbox>,
    wake_at: Option<Instant>,
}

impl Portal {
    /// Takes up where an earlier process ended.
    pub(super) fn new(policy: Policy, store: Store, seed: [u8; 32]) -> Result<Self, StoreError> {
        let now = now();
        let mut hub = Hub::new(policy, seed, now);
        hub.restore(store.authorizations()?, store.relays()?, now);
        hub.revoke_tokens(&store.revoked_tokens()?.into_iter().collect(), now);
        let state = State {
            hub,
            store,
            limiter: Limiter::default(),
            outboxes: HashMap::new(),
            wake_at: None,
        };
        let portal = Self {
            state: RefCell::new(state),
            wake_changed: Notify::new(),
            stopping: watch::Sender::new(false),
        };
        portal.with(|_, _| ());
        Ok(portal)
    }

    /// Lets a peer in, or says why not.
    pub(super) fn admit(
        &self,
        endpoint: Endpoint,
        head: &Head,
        source: IpAddr,
    ) -> Result<(ConnectionId, Inlet), Refusal> {
        self.with(|state, now| {
            let id = admission::admit(state, endpoint, head, source, now)?;
            let (outbox, inlet) = outbox::new();
            state.outboxes.insert(id, outbox);
            Ok((id, inlet))
        })
    }

    pub(super) fn text(&self, id: ConnectionId, text: &str) {
        self.with(|state, now| state.hub.handle_text(id, text, now));
    }

    pub(super) fn alive(&self, id: ConnectionId) {
        self.with(|state, now| state.hub.handle_alive(id, now));
    }

    pub(super) fn disconnected(&self, id: ConnectionId) {
        self.with(|state, now| {
            if state.outboxes.remove(&id).is_some() {
                tracing::info!(connection = %id, "disconnected");
                state.hub.handle_disconnect(id, now);
            }
        });
    }

    pub(super) fn set_policy(&self, policy: Policy) {
        self.with(|state, now| state.hub.set_policy(policy, now));
    }

    /// Ends all connections, and those that are about to be.
    pub(super) fn shut_down(&self) {
        self.stopping.send_replace(true);
        self.with(|state, now| state.hub.shut_down(now));
    }

    /// Returns once the portal stops.
    pub(super) async fn stopped(&self) {
        // The sender lives as long as we do, so this cannot fail.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state.borrow().store.is_ready()
    }

    /// Looks whether somebody has revoked a token.
    pub(super) fn review_tokens(&self) {
        self.with(|state, now| {
            let revoked = state.store.changed_by_others().and_then(|changed| {
                if changed { state.store.revoked_tokens() } else { Ok(Vec::new()) }
            });
            match revoked {
                Ok(revoked) if revoked.is_empty() => {}
                Ok(revoked) => {
                    let revoked: BTreeSet<_> = revoked.into_iter().collect();
                    state.hub.revoke_tokens(&revoked, now);
                }
                Err(error) => tracing::error!(%error, "cannot look for revoked tokens"),
            }
        });
    }

    /// Wakes the hub when something is due. Never ends.
    pub(super) async fn run_timers(&self) {
        loop {
            let wake_at = self.state.borrow().wake_at;
            let due = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.with(|state, now| state.hub.handle_timeout(now)),
                () = self.wake_changed.notified() => {}
            }
        }
    }

    /// One call of the hub, and all that follows from it.
    fn with<T>(&self, call: impl FnOnce(&mut State, Now) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let now = now();
        let result = call(&mut state, now);
        let before = state.wake_at;
        state.drain(now);
        // Waking later than needed is for the timer itself to find out.
        if state.wake_at.is_some_and(|at| before.is_none_or(|before| at < before)) {
            self.wake_changed.notify_one();
        }
        result
    }
}

impl State {
    fn drain(&mut self, now: Now) {
        loop {
            match self.hub.poll_output() {
                Output::Send { to, text } => self.push(to, Item::Text(text), now),
                Output::Ping(to) => self.push(to, Item::Ping, now),
                Output::Close { connection, reason } => {
                    tracing::info!(%connection, ?reason, "disconnected");
                    let code = match reason {
                        CloseReason::TokenEnded => POLICY_VIOLATION,
                        CloseReason::Shutdown => SERVICE_RESTART,
                        _ => NORMAL_CLOSURE,
                    };
                    self.push(connection, Item::Close(code), now);
                    self.outboxes.remove(&connection);
                }
                Output::Persist(change) => {
                    if let Err(error) = self.store.apply(&change, now.unix) {
                        // What is not written down ends with the process, so access fails closed.
                        tracing::error!(%error, "a change will not outlast this process");
                    }
                }
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return;
                }
            }
        }
    }

    fn push(&mut self, to: ConnectionId, item: Item, now: Now) {
        let Some(outbox) = self.outboxes.get(&to) else { return };
        if outbox.push(item).is_err() {
            tracing::info!(connection = %to, "does not read what it is sent: dropped");
            outbox.abort();
            self.outboxes.remove(&to);
            self.hub.handle_disconnect(to, now);
        }
    }
}

/// The time on both clocks.
fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix: unix.as_secs() }
}
