//! Quotas.

use std::time::Duration;

use connlib_relay::server::Limits;

use crate::support::*;

fn limited(change: impl FnOnce(&mut Limits)) -> Relay {
    let mut config = config();
    change(&mut config.limits);
    Relay::new(config)
}

#[test]
fn allocations_have_a_limit_in_all() {
    let mut relay = limited(|limits| limits.allocations = 2);
    Client::stamped("198.51.100.7:1", "a").allocate(&mut relay);
    Client::stamped("198.51.101.7:1", "b").allocate(&mut relay);
    let mut third = Client::stamped("198.51.102.7:1", "c");
    assert_eq!(third.ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(508));
    relay.pass(Duration::from_secs(600));
    third.allocate(&mut relay);
}

#[test]
fn allocations_have_a_limit_per_source() {
    let mut relay = limited(|limits| limits.allocations_per_source = 2);
    for (network, other) in
        [("198.51.100.7", "198.51.100.8"), ("[2001:db8:7::7]", "[2001:db8:7:1::7]")]
    {
        let client =
            |host: &str, port| Client::stamped(&format!("{host}:{port}"), &format!("{host}{port}"));
        client(network, 1).allocate(&mut relay);
        client(network, 2).allocate(&mut relay);
        assert_eq!(client(network, 3).ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(486));
        client(other, 1).allocate(&mut relay);
        assert_eq!(
            client(network, 2).ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).code(),
            None
        );
        client(network, 3).allocate(&mut relay);
    }
    let mut same_64 = Client::stamped("[2001:db8:7::9]:1", "z");
    assert_eq!(same_64.ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(486));
}

#[test]
fn channels_have_limits() {
    let mut relay = limited(|limits| (limits.channels_per_allocation, limits.channels) = (2, 3));
    let mut clients =
        [Client::stamped("198.51.100.7:1", "a"), Client::stamped("198.51.100.7:2", "b")];
    for client in &mut clients {
        client.allocate(&mut relay);
    }
    let [first, second] = &mut clients;
    assert_eq!(first.bind(&mut relay, 0x4000, "192.0.2.1:1"), None);
    assert_eq!(first.bind(&mut relay, 0x4001, "192.0.2.1:2"), None);
    assert_eq!(first.bind(&mut relay, 0x4002, "192.0.2.1:3"), Some(508));
    assert_eq!(first.bind(&mut relay, 0x4001, "192.0.2.1:2"), None, "what stands can be refreshed");
    assert_eq!(second.bind(&mut relay, 0x4000, "192.0.2.1:1"), None);
    assert_eq!(second.bind(&mut relay, 0x4001, "192.0.2.1:2"), Some(508));
    assert_eq!(first.ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).code(), None);
    assert_eq!(second.bind(&mut relay, 0x4001, "192.0.2.1:2"), None);
}

#[test]
fn permissions_have_limits() {
    let mut relay =
        limited(|limits| (limits.permissions_per_allocation, limits.permissions) = (2, 3));
    let mut clients =
        [Client::stamped("198.51.100.7:1", "a"), Client::stamped("198.51.100.7:2", "b")];
    for client in &mut clients {
        client.allocate(&mut relay);
    }
    let [first, second] = &mut clients;
    assert_eq!(first.permit(&mut relay, &["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"]), Some(508));
    assert_eq!(first.permit(&mut relay, &["192.0.2.1:1", "192.0.2.2:1"]), None);
    assert_eq!(first.permit(&mut relay, &["192.0.2.1:1"]), None, "what stands can be refreshed");
    assert_eq!(first.permit(&mut relay, &["192.0.2.3:1"]), Some(508));
    assert_eq!(second.permit(&mut relay, &["192.0.2.1:1", "192.0.2.2:1"]), Some(508));
    assert_eq!(second.permit(&mut relay, &["192.0.2.1:1"]), None);
    // They go after five minutes, and then there is room for others.
    relay.pass(Duration::from_secs(300));
    assert_eq!(second.permit(&mut relay, &["192.0.2.3:1", "192.0.2.4:1"]), None);
}
