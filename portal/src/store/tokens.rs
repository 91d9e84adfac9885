//! Tokens: made here, kept as salted hashes, bounded by expiry and revocation.

use std::fmt;

use rusqlite::{OptionalExtension as _, Row, params};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Store, StoreError, from_db, hex, random, sql, to_db, unhex};

/// What `token list` shows and `token revoke` takes: the public part of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who may sign in with a token, by the name in the policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Devices of this client.
    Client(String),
    /// This gateway.
    Gateway(String),
    /// Any relay.
    Relay,
}

impl Owner {
    /// The word for what it is.
    pub fn kind(&self) -> &'static str {
        self.columns().0
    }

    fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::Client(name) => ("client", name),
            Self::Gateway(name) => ("gateway", name),
            Self::Relay => ("relay", ""),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(name) => write!(f, "client \"{name}\""),
            Self::Gateway(name) => write!(f, "gateway \"{name}\""),
            Self::Relay => f.write_str("relay"),
        }
    }
}

/// What the database knows of a token. The token itself cannot be had from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: TokenId,
    /// Who may use it.
    pub owner: Owner,
    /// When it was made, in unix seconds, as all times here.
    pub created_at: u64,
    /// When it ends by itself.
    pub expires_at: Option<u64>,
    /// When it was revoked.
    pub revoked_at: Option<u64>,
    /// When a peer last signed in with it.
    pub last_used_at: Option<u64>,
}

/// Whether a token lets its owner in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody ended it.
    Revoked,
}

impl Token {
    /// Whether it lets its owner in.
    pub fn state(&self, now: u64) -> TokenState {
        if self.revoked_at.is_some() {
            TokenState::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            TokenState::Expired
        } else {
            TokenState::Active
        }
    }
}

/// A token that was just made.
pub struct NewToken {
    /// Its public part.
    pub id: TokenId,
    /// All of it. Nobody can show it again.
    pub text: String,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes a token: `.` (an empty nonce, spec 1.5), its id, `.`, 32 random bytes in hex.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn new_token(
        &mut self,
        owner: &Owner,
        expires_at: Option<u64>,
        now: u64,
    ) -> Result<NewToken, StoreError> {
        let id = hex(&random::<6>()?);
        let text = format!(".{id}.{}", hex(&random::<32>()?));
        let salt = random::<16>()?;
        let (kind, name) = owner.columns();
        let hash = hex(&digest(&salt, &text));
        let values = params![id, kind, name, hex(&salt), hash, to_db(now), expires_at.map(to_db)];
        self.connection.execute(sql::INSERT_TOKEN, values)?;
        Ok(NewToken { id: TokenId(id), text })
    }

    /// The token with this text, whatever its state; `None` if it was not made here.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn find_token(&self, text: &str) -> Result<Option<Token>, StoreError> {
        let Some((id, _)) = text.strip_prefix('.').and_then(|rest| rest.split_once('.')) else {
            return Ok(None);
        };
        let row = self
            .connection
            .query_row(sql::FIND_TOKEN, [id], |row| {
                Ok((token(row)?, row.get::<_, String>(7)?, row.get::<_, String>(8)?))
            })
            .optional()?;
        let Some((token, salt, hash)) = row else { return Ok(None) };
        let (Some(salt), Some(hash)) = (unhex::<16>(&salt), unhex::<32>(&hash)) else {
            return Err(StoreError::Corrupt("token hash"));
        };
        let matches = bool::from(digest(&salt, text).ct_eq(&hash));
        if matches { token.map(Some) } else { Ok(None) }
    }

    /// Notes that a peer signed in with it.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn use_token(&mut self, id: &TokenId, now: u64) -> Result<(), StoreError> {
        self.connection.execute(sql::USE_TOKEN, params![to_db(now), id.0])?;
        Ok(())
    }

    /// All tokens, by owner.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let mut statement = self.connection.prepare(sql::LIST_TOKENS)?;
        statement.query_map([], token)?.map(|token| token?).collect()
    }

    /// Ends a token; false if there is none of that id or it was revoked before.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn revoke_token(&mut self, id: &TokenId, now: u64) -> Result<bool, StoreError> {
        Ok(self.connection.execute(sql::REVOKE_TOKEN, params![to_db(now), id.0])? > 0)
    }

    /// The ids of all tokens that were revoked.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn revoked_tokens(&self) -> Result<Vec<TokenId>, StoreError> {
        let mut statement = self.connection.prepare(sql::REVOKED_TOKENS)?;
        let ids = statement.query_map([], |row| row.get(0).map(TokenId))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }
}

fn digest(salt: &[u8; 16], text: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(text).finalize().into()
}

fn token(row: &Row<'_>) -> rusqlite::Result<Result<Token, StoreError>> {
    let (kind, name): (String, String) = (row.get(1)?, row.get(2)?);
    let owner = match kind.as_str() {
        "client" => Owner::Client(name),
        "gateway" => Owner::Gateway(name),
        "relay" => Owner::Relay,
        _ => return Ok(Err(StoreError::Corrupt("token kind"))),
    };
    let time = |column| row.get::<_, Option<i64>>(column).map(|time| time.map(from_db));
    Ok(Ok(Token {
        id: TokenId(row.get(0)?),
        owner,
        created_at: time(3)?.unwrap_or(0),
        expires_at: time(4)?,
        revoked_at: time(5)?,
        last_used_at: time(6)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_whole_text_only() {
        let mut store = Store::in_memory().unwrap();
        let owner = Owner::Client("alice".into());
        let new = store.new_token(&owner, Some(100), 10).unwrap();
        assert!(new.text.starts_with('.') && !new.text.contains(char::is_whitespace));

        let token = store.find_token(&new.text).unwrap().expect("a token");
        assert_eq!((&token.id, &token.owner), (&new.id, &owner));
        assert_eq!(token.state(99), TokenState::Active);
        assert_eq!(token.state(100), TokenState::Expired);

        let flipped = if new.text.ends_with('0') { "1" } else { "0" };
        let altered = format!("{}{flipped}", &new.text[..new.text.len() - 1]);
        for wrong in ["", ".", "..", &new.id.0, &altered, &format!("x{}", new.text)] {
            assert_eq!(store.find_token(wrong).unwrap(), None, "{wrong}");
        }
    }

    #[test]
    fn revoking_holds_and_happens_once() {
        let mut store = Store::in_memory().unwrap();
        let new = store.new_token(&Owner::Relay, None, 10).unwrap();
        assert!(store.revoke_token(&new.id, 11).unwrap());
        assert!(!store.revoke_token(&new.id, 12).unwrap());
        assert!(!store.revoke_token(&TokenId("none".into()), 12).unwrap());
        let token = store.find_token(&new.text).unwrap().expect("a token");
        assert_eq!(token.state(12), TokenState::Revoked);
        assert_eq!(token.revoked_at, Some(11));
        assert_eq!(store.revoked_tokens().unwrap(), [new.id]);
    }
}
