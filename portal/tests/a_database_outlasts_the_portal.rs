//! What the portal hands out stays as it is over a restart, and no token can be read from the file.

use connlib_portal::store::{
    Authorization, Change, Owner, Relay, SignIn, Store, StoreError, TokenId,
};
use connlib_portal_api::{ClientId, GatewayId, PublicKey, RelayId, ResourceId, Secret};
use uuid::Uuid;

fn sign_in(id: u128) -> SignIn<'static> {
    SignIn {
        id: Uuid::from_u128(id),
        owner: Uuid::from_u128(100 + id),
        external_id: "machine",
        name: "laptop",
        max_devices: 8,
        online: &[],
    }
}

fn authorization(client: u128, resource: u128) -> Authorization {
    Authorization {
        id: Uuid::from_u128(9),
        client: ClientId::from_u128(client),
        owner: Uuid::from_u128(100 + client),
        client_key: PublicKey([1; 32]),
        resource: ResourceId::from_u128(resource),
        gateway: GatewayId::from_u128(3),
        gateway_key: PublicKey([2; 32]),
        token: TokenId("t".into()),
        token_expires_at: Some(500),
        created_at: 20,
    }
}

#[test]
fn addresses_tokens_authorizations_and_relays_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portal.db");
    let relay = Relay {
        id: RelayId::from_u128(77),
        stamp_secret: Secret::new("s3cret"),
        ipv4: Some([203, 0, 113, 5].into()),
        ipv6: None,
        port: 3478,
        token: TokenId("r".into()),
    };

    let mut store = Store::open(&path).unwrap();
    let devices: Vec<_> =
        (1..4).map(|id| store.sign_in(&sign_in(id), 10).unwrap().device).collect();
    let token = store.new_token(&Owner::Gateway("gw".into()), None, 10).unwrap();
    for (client, resource) in [(1, 50), (1, 51), (2, 50)] {
        store.apply(&Change::PutAuthorization(authorization(client, resource)), 20).unwrap();
    }
    let (client, resource) = (ClientId::from_u128(1), ResourceId::from_u128(51));
    store.apply(&Change::DeleteAuthorization { client, resource }, 20).unwrap();
    store.apply(&Change::PutRelay(relay.clone()), 20).unwrap();
    drop(store);

    let mut store = Store::open(&path).unwrap();
    for device in devices.iter().rev() {
        let id = device.id.as_u128();
        assert_eq!(&store.sign_in(&sign_in(id), 30).unwrap().device, device);
    }
    assert!(store.find_token(&token.text).unwrap().is_some());
    assert_eq!(store.authorizations().unwrap(), [authorization(1, 50), authorization(2, 50)]);
    assert_eq!(store.relays().unwrap(), [relay]);
}

#[test]
fn no_file_holds_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("portal.db")).unwrap();
    let token = store.new_token(&Owner::Relay, None, 10).unwrap();
    let secret = token.text.rsplit('.').next().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portal.db");
    Store::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_another_process_writes_is_noticed_and_what_we_write_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portal.db");
    let mut portal = Store::open(&path).unwrap();
    portal.sign_in(&sign_in(1), 10).unwrap();
    assert!(!portal.changed_by_others().unwrap());
    Store::open(&path).unwrap().new_token(&Owner::Relay, None, 10).unwrap();
    assert!(portal.changed_by_others().unwrap());
    assert!(!portal.changed_by_others().unwrap());
}

#[test]
fn a_newer_schema_and_a_file_that_is_no_database_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portal.db");
    drop(Store::open(&path).unwrap());
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute("INSERT INTO schema_version (version) VALUES (99)", []).unwrap();
    drop(raw);
    assert!(matches!(Store::open(&path), Err(StoreError::NewerSchema { found: 99, .. })));

    let path = folder.path().join("text");
    std::fs::write(&path, "site = 1\n".repeat(200)).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Sql(_))));
}
