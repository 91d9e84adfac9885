//! Live authorizations. They outlast the portal, so that its restart revokes nothing.

use rusqlite::params;
use uuid::Uuid;

use super::{Store, StoreError, TokenId, from_db, parse, sql, to_db};

/// A device may reach a resource through a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Names it in flow logs.
    pub id: Uuid,
    /// The device.
    pub client: Uuid,
    /// The client of the policy that the device belongs to.
    pub owner: Uuid,
    /// The key that the device had, as sent.
    pub client_key: String,
    /// The resource.
    pub resource: Uuid,
    /// The gateway.
    pub gateway: Uuid,
    /// The key that the gateway had, as sent.
    pub gateway_key: String,
    /// The token that the device had signed in with.
    pub token: TokenId,
    /// When that token ends, in unix seconds.
    pub token_expires_at: Option<u64>,
    /// When it was asked for, in unix seconds.
    pub created_at: u64,
}

impl Store {
    pub(super) fn put_authorization(&mut self, a: &Authorization) -> Result<(), StoreError> {
        self.connection.execute(
            sql::PUT_AUTHORIZATION,
            params![
                a.client.to_string(),
                a.resource.to_string(),
                a.id.to_string(),
                a.gateway.to_string(),
                a.client_key,
                a.gateway_key,
                a.token.0,
                a.token_expires_at.map(to_db),
                to_db(a.created_at)
            ],
        )?;
        Ok(())
    }

    pub(super) fn delete_authorization(
        &mut self,
        client: Uuid,
        resource: Uuid,
    ) -> Result<(), StoreError> {
        let values = params![client.to_string(), resource.to_string()];
        self.connection.execute(sql::DELETE_AUTHORIZATION, values)?;
        Ok(())
    }

    /// All authorizations of devices that still exist.
    ///
    /// # Errors
    /// If the database refuses or holds what no portal wrote.
    pub fn authorizations(&self) -> Result<Vec<Authorization>, StoreError> {
        let mut statement = self.connection.prepare(sql::LIST_AUTHORIZATIONS)?;
        let mut rows = statement.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let id = |column| -> Result<Uuid, StoreError> {
                parse(&row.get::<_, String>(column)?, "authorization id")
            };
            all.push(Authorization {
                client: id(0)?,
                resource: id(1)?,
                id: id(2)?,
                gateway: id(3)?,
                client_key: row.get(4)?,
                gateway_key: row.get(5)?,
                token: TokenId(row.get(6)?),
                token_expires_at: row.get::<_, Option<i64>>(7)?.map(from_db),
                created_at: from_db(row.get(8)?),
                owner: id(9)?,
            });
        }
        Ok(all)
    }
}
