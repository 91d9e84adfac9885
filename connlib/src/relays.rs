//! The relays that the portal told us of, entry by entry.

use connlib_portal_api::messages::common::{Relay as Entry, RelaysPresence};
use connlib_tunnel::{Relay, RelayCredentials};

/// Entries that are remembered; the oldest goes first. A peer is given a few relays, never that many.
const MAX_ENTRIES: usize = 64;

/// What the portal says about relays. One with two address families is two entries.
#[derive(Debug, Default)]
pub(crate) struct PortalRelays {
    entries: Vec<Entry>,
}

impl PortalRelays {
    pub(crate) fn set(&mut self, entries: &[Entry]) {
        self.entries = entries.to_vec();
        self.entries.truncate(MAX_ENTRIES);
    }

    /// Takes over what has changed. An entry for an address that is known brings other credentials.
    pub(crate) fn apply(&mut self, presence: &RelaysPresence) {
        self.entries.retain(|entry| !presence.disconnected_ids.contains(&entry.id()));
        for new in presence.connected.iter() {
            let is_same = |known: &Entry| known.id() == new.id() && known.addr() == new.addr();
            self.entries.retain(|known| !is_same(known));
            if self.entries.len() >= MAX_ENTRIES {
                self.entries.remove(0);
            }
            self.entries.push(new.clone());
        }
    }

    /// The relays in the tunnel's words.
    pub(crate) fn relays(&self) -> Vec<Relay> {
        let mut relays: Vec<Relay> = Vec::new();
        for entry in &self.entries {
            let id = entry.id().0;
            let credentials = match entry {
                Entry::Stun { .. } => None,
                Entry::Turn(server) => Some(RelayCredentials {
                    username: server.username.clone(),
                    password: server.password.expose().to_owned(),
                }),
            };
            match relays.iter_mut().find(|relay| relay.id == id) {
                Some(relay) => {
                    relay.addresses.push(entry.addr());
                    relay.credentials = relay.credentials.take().or(credentials);
                }
                None => relays.push(Relay { id, addresses: vec![entry.addr()], credentials }),
            }
        }
        relays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use connlib_portal_api::messages::common::{TurnServer, UnixTime};
    use connlib_portal_api::{RelayId, Secret};

    fn id(number: u8) -> RelayId {
        format!("00000000-0000-0000-0000-0000000000{number:02}").parse().unwrap()
    }

    fn turn(number: u8, addr: &str, username: &str) -> Entry {
        Entry::Turn(TurnServer {
            id: id(number),
            addr: addr.parse().unwrap(),
            username: username.to_owned(),
            password: Secret::new("password"),
            expires_at: UnixTime(2_000_000_000),
        })
    }

    #[test]
    fn the_newest_entries_are_remembered_and_no_more() {
        let mut relays = PortalRelays::default();
        let addr = |n: usize| format!("192.0.2.1:{}", n + 1);
        for n in 0..MAX_ENTRIES + 10 {
            let connected = vec![turn(1, &addr(n), "user")].into();
            relays.apply(&RelaysPresence { connected, ..RelaysPresence::default() });
        }
        let known = relays.relays();
        assert_eq!(known[0].addresses.len(), MAX_ENTRIES);
        assert_eq!(known[0].addresses[0], addr(10).parse().unwrap());
    }

    #[test]
    fn entries_of_one_relay_are_one_relay_and_new_credentials_replace_old_ones() {
        let mut relays = PortalRelays::default();
        let (v4, v6) = ("192.0.2.1:3478", "[2001:db8::1]:3478");
        relays.set(&[turn(1, v4, "old"), turn(1, v6, "old"), turn(2, "192.0.2.2:3478", "other")]);
        let known = relays.relays();
        assert_eq!(known.len(), 2);
        assert_eq!(known[0].addresses, [v4.parse().unwrap(), v6.parse().unwrap()]);

        let connected = vec![turn(1, v4, "new"), turn(1, v6, "new")].into();
        let disconnected_ids = vec![id(2)].into();
        relays.apply(&RelaysPresence { disconnected_ids, connected });
        let known = relays.relays();
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].addresses.len(), 2);
        assert_eq!(known[0].credentials.as_ref().unwrap().username, "new");
    }
}
