//! Who is served (RFC 8489 §9.2).

use std::time::Duration;

use connlib_relay::server::PerUser;
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};

use crate::support::*;

const SIGNED_METHODS: [u16; 4] = [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND];

#[test]
fn a_request_without_integrity_is_challenged() {
    for method in SIGNED_METHODS {
        let mut relay = Relay::new(config());
        let client = Client::alice("198.51.100.7:5000");
        let answer =
            Answer { bytes: relay.exchange(client.tuple, &request(method, &[UDP])).unwrap() };
        assert_eq!(answer.code(), Some(401));
        assert_eq!(answer.value(0x14), Some(REALM.into()));
        assert!(answer.nonce().is_some());
        assert!(!answer.is_signed());
    }
}

/// As the clients of the portal do it.
#[test]
fn a_signed_request_without_a_nonce_is_challenged_by_a_signed_answer() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let answer =
        Answer { bytes: relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap() };
    assert_eq!(answer.code(), Some(401));
    assert!(answer.is_signed());
    answer.check(&client);
    client.nonce = answer.nonce();
    client.transaction += 1;
    let answer =
        Answer { bytes: relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap() };
    assert_eq!(answer.code(), None);
}

#[test]
fn a_nonce_of_others_or_of_long_ago_is_stale() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    client.allocate(&mut relay);
    let nonce = client.nonce.clone();
    let code = |relay: &mut Relay, client: &Client| {
        let answer =
            Answer { bytes: relay.exchange(client.tuple, &client.signed(REFRESH, &[])).unwrap() };
        (answer.code(), answer.nonce().is_some(), answer.is_signed())
    };
    assert_eq!(code(&mut relay, &client), (None, false, true));

    client.nonce = Some("dfc6523b-1e54-e153-dfed-ce67710456b8".to_owned());
    assert_eq!(code(&mut relay, &client), (Some(438), true, true));

    let mut elsewhere = Client::stamped("198.51.100.7:5001", "b");
    elsewhere.nonce = nonce.clone();
    assert_eq!(code(&mut relay, &elsewhere), (Some(438), true, true));

    client.nonce = nonce;
    for _ in 0..7 {
        assert_eq!(code(&mut relay, &client), (None, false, true));
        relay.pass(Duration::from_secs(590));
    }
    assert_eq!(code(&mut relay, &client), (Some(438), true, true));
    assert_eq!(client.ask(&mut relay, REFRESH, &[]).code(), None);
}

#[test]
fn a_wrong_password_is_unauthorized() {
    let mut relay = Relay::new(config());
    for mut client in
        [Client::stamped("198.51.100.7:5000", "a"), Client::alice("198.51.100.7:5001")]
    {
        let right = client.password.clone();
        client.password = "wrong".to_owned();
        let answer = Answer {
            bytes: relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap(),
        };
        assert_eq!(answer.code(), Some(401));
        // Whoever doesn't know a password learns nothing to guess it by, or the secret that it is made of.
        assert!(!answer.is_signed());
        client.nonce = answer.nonce();
        let answer = Answer {
            bytes: relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap(),
        };
        assert_eq!(answer.code(), Some(401));
        client.password = right;
        let answer = Answer {
            bytes: relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap(),
        };
        assert_eq!(answer.code(), None);
    }
    let unknown = Client::new("198.51.100.7:5002", "mallory", "x");
    let answer =
        Answer { bytes: relay.exchange(unknown.tuple, &unknown.signed(ALLOCATE, &[UDP])).unwrap() };
    assert_eq!((answer.code(), answer.is_signed()), (Some(401), false));
}

#[test]
fn credentials_expire() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    client.allocate(&mut relay);
    relay.now.unix_seconds += 24 * 60 * 60;
    assert_eq!(client.ask(&mut relay, REFRESH, &[]).code(), None, "good to the last second");
    relay.now.unix_seconds += 1;
    let answer =
        Answer { bytes: relay.exchange(client.tuple, &client.signed(REFRESH, &[])).unwrap() };
    assert_eq!(answer.code(), Some(401));
    assert!(answer.is_signed());
}

#[test]
fn either_of_two_secrets_makes_passwords() {
    let mut config = config();
    config.credentials.stamp_secrets.insert(0, "a newer secret".to_owned());
    let mut relay = Relay::new(config);
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let answer =
        Answer { bytes: relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap() };
    client.nonce = answer.nonce();
    let answer =
        Answer { bytes: relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap() };
    answer.check(&client);
    assert_eq!(answer.code(), None);
}

/// As services for WebRTC hand them out: HMAC-SHA1 over the username.
#[test]
fn credentials_of_the_rest_kind_are_good_until_they_expire() {
    let mut config = config();
    config.credentials.rest_secrets = vec!["shared".to_owned()];
    let mut relay = Relay::new(config);
    for (expiry, code) in [(UNIX_SECONDS, None), (UNIX_SECONDS - 1, Some(401))] {
        let username = format!("{expiry}:bob");
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"shared").unwrap();
        mac.update(username.as_bytes());
        let password = data_encoding::BASE64.encode(&mac.finalize().into_bytes());
        for port in [5000, 5001] {
            let mut client = Client::new(&format!("198.51.100.7:{port}"), &username, &password);
            for code in [Some(401), code] {
                let request = client.signed(ALLOCATE, &[UDP]);
                let answer = Answer { bytes: relay.exchange(client.tuple, &request).unwrap() };
                assert_eq!(answer.code(), code);
                client.nonce = answer.nonce();
            }
        }
    }
    assert_eq!(relay.server.allocations(), 2, "a browser makes several");
}

#[test]
fn a_user_may_have_several_allocations_but_not_any_number() {
    let mut config = config();
    config.limits.allocations_per_user = 2;
    config.credentials.per_stamped_user = PerUser::Limited;
    let mut relay = Relay::new(config);
    for is_stamped in [true, false] {
        let client = |n: u16| {
            let remote = format!("198.51.100.7:{}", n + 10 * u16::from(is_stamped));
            if is_stamped { Client::stamped(&remote, "a") } else { Client::alice(&remote) }
        };
        client(1).allocate(&mut relay);
        client(2).allocate(&mut relay);
        assert_eq!(client(3).ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(486));
        assert_eq!(client(1).ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).code(), None);
        client(3).allocate(&mut relay);
    }
    assert!(relay.moved.is_empty());
}

/// A service that makes a new name at each visit doesn't make another user of whoever visits it.
#[test]
fn a_new_stamp_is_no_new_user() {
    let mut config = config();
    config.limits.allocations_per_user = 2;
    config.credentials.per_stamped_user = PerUser::Limited;
    let mut relay = Relay::new(config);
    let client = |n: u16, salt| {
        Client::stamped_until(&format!("198.51.100.7:{n}"), UNIX_SECONDS + u64::from(n), salt)
    };
    client(1, "bob").allocate(&mut relay);
    client(2, "bob").allocate(&mut relay);
    assert_eq!(client(3, "bob").ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(486));
    client(4, "carol").allocate(&mut relay);
    assert_eq!(client(2, "bob").ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).code(), None);
    client(3, "bob").allocate(&mut relay);
    // Nobody knows who is behind a stamp alone.
    for n in 10..15 {
        client(n, "").allocate(&mut relay);
    }
}

#[test]
fn only_its_user_may_use_an_allocation() {
    let mut relay = Relay::new(config());
    Client::stamped("198.51.100.7:5000", "a").allocate(&mut relay);
    let mut other = Client::stamped("198.51.100.7:5000", "b");
    assert_eq!(other.ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).code(), Some(441));
    assert_eq!(other.bind(&mut relay, 0x4000, "192.0.2.9:9"), Some(441));
    assert_eq!(other.permit(&mut relay, &["192.0.2.9:9"]), Some(441));
    assert_eq!(relay.server.allocations(), 1);
}

#[test]
fn the_next_process_at_an_address_takes_the_place_of_a_dead_one() {
    let mut relay = Relay::new(config());
    let mut dead = Client::stamped("198.51.100.7:5000", "a");
    dead.allocate(&mut relay);
    Client::stamped("198.51.100.7:5000", "b").allocate(&mut relay);
    assert_eq!(relay.server.allocations(), 1);
    assert_eq!(dead.ask(&mut relay, REFRESH, &[]).code(), Some(441));

    // Where users are not processes, as with people's names, the place is taken.
    let mut config = config();
    config.credentials.per_stamped_user = PerUser::Limited;
    let mut relay = Relay::new(config);
    Client::stamped("198.51.100.7:5000", "a").allocate(&mut relay);
    let mut other = Client::stamped("198.51.100.7:5000", "b");
    assert_eq!(other.ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(437));
}

#[test]
fn a_signed_request_without_username_or_realm_is_bad() {
    for missing in [0x06, 0x14] {
        let mut relay = Relay::new(config());
        let client = Client::alice("198.51.100.7:5000");
        let mut attributes = vec![UDP, (0x06, b"alice".as_slice()), (0x14, REALM.as_bytes())];
        attributes.retain(|attribute| attribute.0 != missing);
        let mut message =
            write(stun_types::message::MessageClass::Request, ALLOCATE, 5, &attributes);
        stun_types::prelude::MessageWriteExt::add_message_integrity(
            &mut message,
            &client.credentials(),
            client.algorithm,
        )
        .unwrap();
        let message = stun_types::prelude::MessageWrite::finish(message);
        assert_eq!(
            Answer { bytes: relay.exchange(client.tuple, &message).unwrap() }.code(),
            Some(400)
        );
    }
}

#[test]
fn a_fingerprint_is_checked_and_answered_by_one() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    client.has_fingerprint = true;
    client.allocate(&mut relay);
    client.transaction += 1;
    let mut request = client.signed(REFRESH, &[]);
    *request.last_mut().unwrap() ^= 1;
    assert_eq!(relay.exchange(client.tuple, &request), None);
}

/// With the key that RFC 8489 §9.2 has for it where no password algorithms are offered.
#[test]
fn a_request_signed_with_sha256_is_answered_likewise() {
    let mut relay = Relay::new(config());
    let client = Client::alice("198.51.100.7:5000");
    let key = Md5::digest("alice:firezone:wonderland");
    let sign = |message: &[u8]| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
        mac.update(message);
        mac.finalize().into_bytes()
    };
    let mut nonce = None;
    for code in [Some(401), None] {
        let mut attributes = vec![UDP, (0x06, b"alice".as_slice()), (0x14, REALM.as_bytes())];
        attributes.extend(nonce.as_ref().map(|nonce: &String| (0x15, nonce.as_bytes())));
        let mut message = request(ALLOCATE, &attributes);
        let len = message.len() - 20 + 36;
        message[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        let signature = sign(&message);
        message.extend([0, 0x1c, 0, 32]);
        message.extend(signature);
        let answer = Answer { bytes: relay.exchange(client.tuple, &message).unwrap() };
        assert_eq!(answer.code(), code);
        let (body, signature) = answer.bytes.split_at(answer.bytes.len() - 36);
        assert_eq!(signature[..4], [0, 0x1c, 0, 32]);
        assert_eq!(signature[4..], *sign(body));
        nonce = answer.nonce();
    }
}
