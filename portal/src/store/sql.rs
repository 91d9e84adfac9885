//! All SQL of the portal, in one place and in the common ground of SQLite and PostgreSQL.
//!
//! Times are unix seconds, ids, keys and hashes are text. Parameters appear in the order of their
//! numbers, since SQLite numbers `$n` by first appearance.

/// Schema changes in order; a database's version is how many of them it has seen.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE devices (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    external_id TEXT NOT NULL,
    name TEXT NOT NULL,
    host BIGINT NOT NULL UNIQUE,
    psk_base TEXT NOT NULL,
    last_seen BIGINT NOT NULL
);
CREATE INDEX devices_by_owner ON devices (owner, last_seen);
CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    salt TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT
);
CREATE TABLE authorizations (
    client TEXT NOT NULL,
    resource TEXT NOT NULL,
    id TEXT NOT NULL,
    gateway TEXT NOT NULL,
    client_key TEXT NOT NULL,
    gateway_key TEXT NOT NULL,
    token TEXT NOT NULL,
    token_expires_at BIGINT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (client, resource)
);
CREATE TABLE relays (
    id TEXT NOT NULL PRIMARY KEY,
    stamp_secret TEXT NOT NULL,
    ipv4 TEXT,
    ipv6 TEXT,
    port BIGINT NOT NULL,
    token TEXT NOT NULL
);
"];

pub(super) const CREATE_VERSION: &str =
    "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)";
pub(super) const READ_VERSION: &str = "SELECT MAX(version) FROM schema_version";
pub(super) const WRITE_VERSION: &str = "INSERT INTO schema_version (version) VALUES ($1)";

pub(super) const FIND_DEVICE: &str = "SELECT host, psk_base FROM devices WHERE id = $1";
pub(super) const TOUCH_DEVICE: &str =
    "UPDATE devices SET external_id = $1, name = $2, last_seen = $3 WHERE id = $4";
pub(super) const SEEN_DEVICE: &str = "UPDATE devices SET last_seen = $1 WHERE id = $2";
pub(super) const DEVICES_OF: &str = "SELECT id FROM devices WHERE owner = $1 ORDER BY last_seen";
pub(super) const DELETE_DEVICE: &str = "DELETE FROM devices WHERE id = $1";
pub(super) const HOST_TAKEN: &str = "SELECT COUNT(*) FROM devices WHERE host = $1";
/// The lowest free number above one that is taken.
pub(super) const NEXT_FREE_HOST: &str = "SELECT MIN(a.host) + 1 FROM devices a \
    LEFT JOIN devices b ON b.host = a.host + 1 WHERE b.host IS NULL";
pub(super) const INSERT_DEVICE: &str = "INSERT INTO devices \
    (id, owner, external_id, name, host, psk_base, last_seen) VALUES ($1, $2, $3, $4, $5, $6, $7)";

pub(super) const INSERT_TOKEN: &str = "INSERT INTO tokens \
    (id, kind, owner, salt, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";
pub(super) const FIND_TOKEN: &str = "SELECT id, kind, owner, created_at, expires_at, revoked_at, \
    last_used_at, salt, hash FROM tokens WHERE id = $1";
pub(super) const LIST_TOKENS: &str = "SELECT id, kind, owner, created_at, expires_at, revoked_at, \
    last_used_at FROM tokens ORDER BY kind, owner, created_at, id";
pub(super) const USE_TOKEN: &str = "UPDATE tokens SET last_used_at = $1 WHERE id = $2";
pub(super) const REVOKE_TOKEN: &str =
    "UPDATE tokens SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL";
pub(super) const REVOKED_TOKENS: &str = "SELECT id FROM tokens WHERE revoked_at IS NOT NULL";

pub(super) const PUT_AUTHORIZATION: &str = "INSERT INTO authorizations \
    (client, resource, id, gateway, client_key, gateway_key, token, token_expires_at, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (client, resource) DO UPDATE SET \
    id = excluded.id, gateway = excluded.gateway, client_key = excluded.client_key, \
    gateway_key = excluded.gateway_key, token = excluded.token, \
    token_expires_at = excluded.token_expires_at, created_at = excluded.created_at";
pub(super) const DELETE_AUTHORIZATION: &str =
    "DELETE FROM authorizations WHERE client = $1 AND resource = $2";
pub(super) const LIST_AUTHORIZATIONS: &str = "SELECT a.client, a.resource, a.id, a.gateway, \
    a.client_key, a.gateway_key, a.token, a.token_expires_at, a.created_at, d.owner FROM authorizations a JOIN devices d ON d.id = a.client \
    ORDER BY a.client, a.resource";

pub(super) const PUT_RELAY: &str = "INSERT INTO relays \
    (id, stamp_secret, ipv4, ipv6, port, token) VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT (id) DO UPDATE SET ipv4 = excluded.ipv4, ipv6 = excluded.ipv6, \
    port = excluded.port, token = excluded.token";
pub(super) const DELETE_RELAY: &str = "DELETE FROM relays WHERE id = $1";
pub(super) const LIST_RELAYS: &str =
    "SELECT id, stamp_secret, ipv4, ipv6, port, token FROM relays ORDER BY id";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_appear_in_the_order_of_their_numbers() {
        for sql in [
            WRITE_VERSION,
            FIND_DEVICE,
            TOUCH_DEVICE,
            SEEN_DEVICE,
            DEVICES_OF,
            DELETE_DEVICE,
            HOST_TAKEN,
            INSERT_DEVICE,
            INSERT_TOKEN,
            FIND_TOKEN,
            USE_TOKEN,
            REVOKE_TOKEN,
            PUT_AUTHORIZATION,
            DELETE_AUTHORIZATION,
            PUT_RELAY,
            DELETE_RELAY,
        ] {
            let numbers: Vec<usize> = sql
                .split('$')
                .skip(1)
                .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>())
                .map(|digits| digits.parse().unwrap())
                .collect();
            assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "{sql}");
        }
    }
}
