//! Live authorizations. They outlast the portal, so that its restart revokes nothing.

use connlib_portal_api::{ClientId, GatewayId, PublicKey, ResourceId};
use rusqlite::params;
use uuid::Uuid;

use super::{Store, StoreError, TokenId, from_db, parse, sql, to_db};

/// A device may reach a resource through a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Names it in flow logs.
    pub id: Uuid,
    /// The device.
    pub client: ClientId,
    /// The client of the policy that the device belongs to.
    pub owner: Uuid,
    /// The key that the device had.
    pub client_key: PublicKey,
    /// The resource.
    pub resource: ResourceId,
    /// The gateway.
    pub gateway: GatewayId,
    /// The key that the gateway had.
    pub gateway_key: PublicKey,
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
                a.client_key.to_base64(),
                a.gateway_key.to_base64(),
                a.token.0,
                a.token_expires_at.map(to_db),
                to_db(a.created_at)
            ],
        )?;
        Ok(())
    }

    pub(super) fn delete_authorization(
        &mut self,
        client: ClientId,
        resource: ResourceId,
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
            let text = |column| row.get::<_, String>(column);
            all.push(Authorization {
                client: parse(&text(0)?, "device id")?,
                resource: parse(&text(1)?, "resource id")?,
                id: parse(&text(2)?, "authorization id")?,
                gateway: parse(&text(3)?, "gateway id")?,
                client_key: parse(&text(4)?, "client key")?,
                gateway_key: parse(&text(5)?, "gateway key")?,
                token: TokenId(text(6)?),
                token_expires_at: row.get::<_, Option<i64>>(7)?.map(from_db),
                created_at: from_db(row.get(8)?),
                owner: parse(&text(9)?, "client id")?,
            });
        }
        Ok(all)
    }
}
