//! Relays that have joined. A restarted portal takes them for present until it knows better, so
//! that no peer loses its relayed paths by that restart.

use std::net::{Ipv4Addr, Ipv6Addr};

use connlib_portal_api::{RelayId, Secret};
use rusqlite::params;

use super::{Store, StoreError, TokenId, parse, sql};

/// A relay that has joined by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Follows from its stamp secret.
    pub id: RelayId,
    /// What the relay and the portal make credentials with.
    pub stamp_secret: Secret,
    /// Its public IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its public IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its port.
    pub port: u16,
    /// The token that it joined with.
    pub token: TokenId,
}

impl Relay {
    /// Whether both have the same addresses and port.
    pub(crate) fn listens_where(&self, other: &Self) -> bool {
        (self.ipv4, self.ipv6, self.port) == (other.ipv4, other.ipv6, other.port)
    }
}

impl Store {
    pub(super) fn put_relay(&mut self, relay: &Relay) -> Result<(), StoreError> {
        self.connection.execute(
            sql::PUT_RELAY,
            params![
                relay.id.to_string(),
                relay.stamp_secret.expose(),
                relay.ipv4.map(|ip| ip.to_string()),
                relay.ipv6.map(|ip| ip.to_string()),
                relay.port,
                relay.token.0
            ],
        )?;
        Ok(())
    }

    pub(super) fn delete_relay(&mut self, id: RelayId) -> Result<(), StoreError> {
        self.connection.execute(sql::DELETE_RELAY, [id.to_string()])?;
        Ok(())
    }

    /// The relays that were present last.
    ///
    /// # Errors
    /// If the database refuses or holds what no portal wrote.
    pub fn relays(&self) -> Result<Vec<Relay>, StoreError> {
        let mut statement = self.connection.prepare(sql::LIST_RELAYS)?;
        let mut rows = statement.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let text = |column| row.get::<_, Option<String>>(column);
            all.push(Relay {
                id: parse(&row.get::<_, String>(0)?, "relay id")?,
                stamp_secret: Secret::new(row.get::<_, String>(1)?),
                ipv4: text(2)?.map(|ip| parse(&ip, "relay address")).transpose()?,
                ipv6: text(3)?.map(|ip| parse(&ip, "relay address")).transpose()?,
                port: row.get(4)?,
                token: TokenId(row.get(5)?),
            });
        }
        Ok(all)
    }
}
