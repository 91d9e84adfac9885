//! Devices: addresses and key bases that stay with a device for good.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use rusqlite::{OptionalExtension as _, params};
use uuid::Uuid;

use super::{Store, StoreError, hex, parse, random, sql, to_db, unhex};

/// 100.64.0.0/11 and `fd00:2021:1111::/107` both have 21 bits for hosts (spec 1.15). The first is the
/// network, the last the broadcast address. DNS sentinels and proxy addresses lie outside.
const FIRST_HOST: i64 = 1;
const LAST_HOST: i64 = (1 << 21) - 2;

/// The addresses of a device in the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// In 100.64.0.0/11.
    pub ipv4: Ipv4Addr,
    /// In `fd00:2021:1111::/107`, with the same host number.
    pub ipv6: Ipv6Addr,
}

impl Addresses {
    fn of_host(host: i64) -> Result<Self, StoreError> {
        if !(FIRST_HOST..=LAST_HOST).contains(&host) {
            return Err(StoreError::Corrupt("host number"));
        }
        let host = u32::try_from(host).map_err(|_| StoreError::Corrupt("host number"))?;
        let ipv4 = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + host);
        let network = Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 0);
        let ipv6 = Ipv6Addr::from_bits(network.to_bits() + u128::from(host));
        Ok(Self { ipv4, ipv6 })
    }
}

/// The random part of a device from which its preshared keys are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PskBase(pub [u8; 32]);

impl fmt::Debug for PskBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskBase(..)")
    }
}

/// A client's device or a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: Uuid,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its key base.
    pub psk_base: PskBase,
}

/// A device that signs in.
#[derive(Debug, Clone, Copy)]
pub struct SignIn<'a> {
    /// Its id.
    pub id: Uuid,
    /// The client of the policy that it belongs to; a gateway belongs to itself.
    pub owner: Uuid,
    /// The id that it gave itself.
    pub external_id: &'a str,
    /// The name that it gave itself.
    pub name: &'a str,
    /// How many devices the owner may have.
    pub max_devices: u32,
    /// Devices that cannot make room because they are online.
    pub online: &'a [Uuid],
}

/// A device that has signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The device.
    pub device: Device,
    /// Devices of the same owner that made room for it.
    pub evicted: Vec<Uuid>,
}

impl Store {
    /// Finds a device, or gives it addresses and a key base at its first sign-in.
    ///
    /// # Errors
    /// If the owner has all its devices online, the addresses are spent, or the database refuses.
    pub fn sign_in(&mut self, sign_in: &SignIn<'_>, now: u64) -> Result<SignedIn, StoreError> {
        let id = sign_in.id.to_string();
        let transaction = self.connection.transaction()?;
        let known = transaction
            .query_row(sql::FIND_DEVICE, [&id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
            .optional()?;
        let mut evicted = Vec::new();
        let (host, psk_base) = match known {
            Some((host, psk_base)) => {
                let values = params![sign_in.external_id, sign_in.name, to_db(now), id];
                transaction.execute(sql::TOUCH_DEVICE, values)?;
                (host, unhex(&psk_base).ok_or(StoreError::Corrupt("key base"))?)
            }
            None => {
                evicted = make_room(&transaction, sign_in)?;
                let host = free_host(&transaction)?;
                let psk_base = random::<32>()?;
                transaction.execute(
                    sql::INSERT_DEVICE,
                    params![
                        id,
                        sign_in.owner.to_string(),
                        sign_in.external_id,
                        sign_in.name,
                        host,
                        hex(&psk_base),
                        to_db(now)
                    ],
                )?;
                (host, psk_base)
            }
        };
        transaction.commit()?;
        let addresses = Addresses::of_host(host)?;
        let device = Device { id: sign_in.id, addresses, psk_base: PskBase(psk_base) };
        Ok(SignedIn { device, evicted })
    }

    /// Notes that a device was here, so that it is not the first to make room.
    pub(super) fn seen(&mut self, device: Uuid, now: u64) -> Result<(), StoreError> {
        self.connection.execute(sql::SEEN_DEVICE, params![to_db(now), device.to_string()])?;
        Ok(())
    }
}

/// Removes devices of the owner, unseen for longest first, until one more fits.
fn make_room(
    transaction: &rusqlite::Transaction<'_>,
    sign_in: &SignIn<'_>,
) -> Result<Vec<Uuid>, StoreError> {
    let mut statement = transaction.prepare(sql::DEVICES_OF)?;
    let devices = statement
        .query_map([sign_in.owner.to_string()], |row| row.get::<_, String>(0))?
        .map(|id| parse::<Uuid>(&id?, "device id"))
        .collect::<Result<Vec<_>, _>>()?;
    let max = usize::try_from(sign_in.max_devices).unwrap_or(usize::MAX);
    let surplus = (devices.len() + 1).saturating_sub(max);
    let evicted: Vec<_> =
        devices.into_iter().filter(|id| !sign_in.online.contains(id)).take(surplus).collect();
    if evicted.len() < surplus {
        return Err(StoreError::TooManyDevices);
    }
    for device in &evicted {
        transaction.execute(sql::DELETE_DEVICE, [device.to_string()])?;
    }
    Ok(evicted)
}

fn free_host(transaction: &rusqlite::Transaction<'_>) -> Result<i64, StoreError> {
    let taken: i64 = transaction.query_row(sql::HOST_TAKEN, [FIRST_HOST], |row| row.get(0))?;
    if taken == 0 {
        return Ok(FIRST_HOST);
    }
    let next: Option<i64> = transaction.query_row(sql::NEXT_FREE_HOST, [], |row| row.get(0))?;
    next.filter(|host| *host <= LAST_HOST).ok_or(StoreError::NoAddressLeft)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in(id: u128, online: &[Uuid]) -> SignIn<'_> {
        SignIn {
            id: Uuid::from_u128(id),
            owner: Uuid::from_u128(7),
            external_id: "x",
            name: "laptop",
            max_devices: 2,
            online,
        }
    }

    #[test]
    fn hosts_are_neither_network_nor_broadcast_nor_beyond() {
        assert!(Addresses::of_host(0).is_err());
        assert!(Addresses::of_host(LAST_HOST + 1).is_err());
        let last = Addresses::of_host(LAST_HOST).unwrap();
        assert_eq!(last.ipv4.to_string(), "100.95.255.254");
        assert_eq!(last.ipv6.to_string(), "fd00:2021:1111::1f:fffe");
    }

    #[test]
    fn a_device_keeps_what_it_was_given_and_a_freed_address_is_used_again() {
        let mut store = Store::in_memory().unwrap();
        let first = store.sign_in(&sign_in(1, &[]), 10).unwrap();
        let second = store.sign_in(&sign_in(2, &[]), 11).unwrap();
        assert_eq!(first.device.addresses.ipv4.to_string(), "100.64.0.1");
        assert_eq!(second.device.addresses.ipv4.to_string(), "100.64.0.2");
        assert_ne!(first.device.psk_base, second.device.psk_base);
        assert_eq!(store.sign_in(&sign_in(1, &[]), 12).unwrap(), first);

        // The second has been away for longest now.
        let third = store.sign_in(&sign_in(3, &[]), 13).unwrap();
        assert_eq!(third.evicted, [Uuid::from_u128(2)]);
        assert_eq!(third.device.addresses, second.device.addresses);
    }

    #[test]
    fn a_device_that_is_online_does_not_make_room() {
        let mut store = Store::in_memory().unwrap();
        store.sign_in(&sign_in(1, &[]), 10).unwrap();
        store.sign_in(&sign_in(2, &[]), 11).unwrap();
        let both = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let refused = store.sign_in(&sign_in(3, &both), 12);
        assert!(matches!(refused, Err(StoreError::TooManyDevices)));
        let third = store.sign_in(&sign_in(3, &both[..1]), 12).unwrap();
        assert_eq!(third.evicted, [Uuid::from_u128(2)]);
    }
}
