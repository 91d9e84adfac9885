//! What must last: device addresses and key bases, hashed tokens, live authorizations, relays.
//!
//! SQLite behind a small interface. The SQL stands in one file, in the common ground with
//! PostgreSQL, so that another backend is another `Store`, not another portal.

mod authorizations;
mod devices;
mod relays;
mod sql;
mod tokens;

use std::path::Path;
use std::time::Duration;

use connlib_portal_api::{ClientId, RelayId, ResourceId};
use rusqlite::Connection;
use uuid::Uuid;

pub use authorizations::Authorization;
pub use devices::{Addresses, Device, PskBase, SignIn, SignedIn};
pub use relays::Relay;
pub use tokens::{NewToken, Owner, Token, TokenId, TokenState};

/// How long a statement waits for another process, such as `token new`, to finish its own.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the database could not serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be made or opened.
    #[error("cannot open the database file: {0}")]
    Open(#[from] std::io::Error),
    /// The database refused.
    #[error("database: {0}")]
    Sql(#[from] rusqlite::Error),
    /// A newer portal has changed the schema.
    #[error("the database has schema {found}, this portal knows {known}: use a newer portal")]
    NewerSchema {
        /// What the file says.
        found: i64,
        /// What this portal writes.
        known: i64,
    },
    /// A value in the database is not what this portal would have written.
    #[error("the database holds an unreadable {0}")]
    Corrupt(&'static str),
    /// All devices that the client may have are online.
    #[error("all devices that the client may have are online")]
    TooManyDevices,
    /// Every tunnel address is taken.
    #[error("every tunnel address is taken")]
    NoAddressLeft,
}

/// A change that the hub wants to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A client may reach a resource through a gateway.
    PutAuthorization(Authorization),
    /// It no longer may.
    DeleteAuthorization {
        /// The device.
        client: ClientId,
        /// The resource.
        resource: ResourceId,
    },
    /// A relay is here.
    PutRelay(Relay),
    /// A relay is gone.
    DeleteRelay(RelayId),
    /// A device was here a moment ago.
    Seen(Uuid),
}

/// The portal's database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    data_version: i64,
}

impl Store {
    /// Opens the database file, made if it is not there, and brings its schema up to date.
    ///
    /// The file holds key bases and is made for its owner alone.
    ///
    /// # Errors
    /// If the file cannot be opened, is no database, or is of a newer portal.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)?;
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A commit needs no sync then; what a power cut takes is asked for anew.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        Self::prepare(connection)
    }

    /// A database that ends with the process.
    ///
    /// # Errors
    /// If memory is short.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(mut connection: Connection) -> Result<Self, StoreError> {
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute(sql::CREATE_VERSION, [])?;
        let found: Option<i64> = transaction.query_row(sql::READ_VERSION, [], |row| row.get(0))?;
        let found = found.unwrap_or(0);
        let known = i64::try_from(sql::MIGRATIONS.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(StoreError::NewerSchema { found, known });
        }
        for (version, migration) in (1..).zip(sql::MIGRATIONS) {
            if version > found {
                transaction.execute_batch(migration)?;
                transaction.execute(sql::WRITE_VERSION, [version])?;
            }
        }
        transaction.commit()?;
        let mut store = Self { connection, data_version: 0 };
        store.changed_by_others()?;
        Ok(store)
    }

    /// Whether another process has written since this was last asked.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn changed_by_others(&mut self) -> Result<bool, StoreError> {
        // SQLite's own; a PostgreSQL backend would LISTEN.
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        Ok(std::mem::replace(&mut self.data_version, version) != version)
    }

    /// Whether the database answers.
    pub fn is_ready(&self) -> bool {
        self.connection.query_row(sql::READ_VERSION, [], |_| Ok(())).is_ok()
    }

    /// Writes down what the hub wants to last.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn apply(&mut self, change: &Change, now: u64) -> Result<(), StoreError> {
        match change {
            Change::PutAuthorization(authorization) => self.put_authorization(authorization),
            Change::DeleteAuthorization { client, resource } => {
                self.delete_authorization(*client, *resource)
            }
            Change::PutRelay(relay) => self.put_relay(relay),
            Change::DeleteRelay(id) => self.delete_relay(*id),
            Change::Seen(device) => self.seen(*device, now),
        }
    }
}

/// Unix seconds as the database holds them.
fn to_db(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn from_db(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0)
}

/// Parses a text column.
fn parse<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(what))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| StoreError::Open(e.into()))?;
    Ok(bytes)
}
