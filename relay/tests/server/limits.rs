//! Quotas.

use std::time::Duration;

use connlib_relay::server::{Limits, PerUser, Rate};

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

/// To make an allocation and to end it at once takes a worker longer than all else it does for somebody.
#[test]
fn a_user_cannot_make_and_end_allocations_without_end() {
    let mut relay = limited(|limits| limits.allocating = Rate { per_second: 2, burst: 70 });
    let cycles = |relay: &mut Relay, mut client: Client| {
        (0..200)
            .take_while(|_| match client.ask(relay, ALLOCATE, &[UDP]).code() {
                None => {
                    let end = client.ask(relay, REFRESH, &[(LIFETIME, &[0; 4])]);
                    assert_eq!(end.code(), None);
                    true
                }
                code => {
                    assert_eq!(code, Some(486));
                    false
                }
            })
            .count()
    };
    for client in [Client::alice, |remote: &str| Client::stamped(remote, "a")] {
        assert_eq!(cycles(&mut relay, client("198.51.100.7:1")), 70);
        assert_eq!(cycles(&mut relay, client("198.51.100.7:2")), 0, "the same user");
        assert_eq!(cycles(&mut relay, Client::stamped("198.51.100.7:3", "another")), 70);
        relay.pass(Duration::from_secs(10));
        assert_eq!(cycles(&mut relay, client("198.51.100.7:1")), 20);
        relay.pass(Duration::from_secs(100));
    }
}

/// Whoever may have many may make them at once.
#[test]
fn the_limit_per_user_can_be_used_at_once() {
    let mut relay = limited(|limits| {
        limits.allocating = Rate { per_second: 1, burst: 1 };
        limits.allocations_per_user = 10;
    });
    for port in 1..=10 {
        Client::alice(&format!("198.51.100.7:{port}")).allocate(&mut relay);
    }
}

/// Two workers of one relay, of which each user may have several allocations.
fn workers(change: impl FnOnce(&mut Limits)) -> [Relay; 2] {
    let mut config = config();
    config.credentials.per_stamped_user = PerUser::Limited;
    change(&mut config.limits);
    let [first, mut second] = [Relay::new(config.clone()), Relay::new(config)];
    second.now = first.now;
    [first, second]
}

#[test]
fn workers_share_the_limit_in_all() {
    let [mut first, mut second] = workers(|limits| limits.allocations = 2);
    let client = |n: u8| Client::stamped(&format!("198.51.100.{n}:1"), &format!("{n}"));
    // The kernel chose one worker for both: nothing is set aside for the other.
    client(1).allocate(&mut first);
    client(2).allocate(&mut first);
    for relay in [&mut first, &mut second] {
        assert_eq!(client(3).ask(relay, ALLOCATE, &[UDP]).code(), Some(508));
    }
    assert_eq!(client(1).ask(&mut first, REFRESH, &[(LIFETIME, &[0; 4])]).code(), None);
    client(3).allocate(&mut second);
    assert_eq!(client(4).ask(&mut first, ALLOCATE, &[UDP]).code(), Some(508));
    // Nor do the allocations of a worker that ended count.
    drop(second);
    client(4).allocate(&mut first);
}

#[test]
fn workers_share_the_limit_per_user() {
    let [mut first, mut second] = workers(|limits| limits.allocations_per_user = 1);
    Client::stamped("198.51.100.1:1", "a").allocate(&mut first);
    let mut elsewhere = Client::stamped("198.51.100.2:1", "a");
    assert_eq!(elsewhere.ask(&mut second, ALLOCATE, &[UDP]).code(), Some(486));
    Client::stamped("198.51.100.3:1", "b").allocate(&mut second);
    first.pass(Duration::from_secs(600));
    elsewhere.allocate(&mut second);
}

#[test]
fn workers_share_the_limit_per_source() {
    let [mut first, mut second] = workers(|limits| limits.allocations_per_source = 1);
    Client::stamped("198.51.100.1:1", "a").allocate(&mut first);
    let mut same_source = Client::stamped("198.51.100.1:2", "b");
    assert_eq!(same_source.ask(&mut second, ALLOCATE, &[UDP]).code(), Some(486));
    Client::stamped("198.51.100.2:1", "b").allocate(&mut second);
    first.pass(Duration::from_secs(600));
    same_source.allocate(&mut second);
}

#[test]
fn an_allocation_whose_port_cannot_be_opened_takes_no_place() {
    let [mut first, mut second] = workers(|limits| limits.allocations = 1);
    first.busy_ports.extend(1..=u16::MAX);
    let mut unlucky = Client::stamped("198.51.100.1:1", "a");
    assert_eq!(unlucky.ask(&mut first, ALLOCATE, &[UDP]).code(), Some(508));
    Client::stamped("198.51.100.2:1", "b").allocate(&mut second);
}

#[test]
fn a_username_moves_between_workers_however_low_the_limit() {
    let mut config = config();
    config.limits.allocations_per_user = 1;
    let mut workers = [Relay::new(config.clone()), Relay::new(config)];
    workers[1].now = workers[0].now;
    for port in 1..7 {
        let [old, new] = &mut workers;
        Client::stamped(&format!("198.51.100.7:{port}"), "a").allocate(new);
        old.server.handle_username_moved(&new.moved.pop().unwrap());
        old.run();
        assert_eq!((old.server.allocations(), new.server.allocations()), (0, 1));
        workers.reverse();
    }
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

/// However many allocations somebody has, there are channels and permissions left for others.
#[test]
fn nobody_takes_all_channels_and_permissions() {
    let mut config = config();
    config.credentials.per_stamped_user = PerUser::Limited;
    (config.limits.channels, config.limits.permissions) = (100, 100);
    let mut relay = Relay::new(config);
    let mut granted = [0, 0];
    for port in 1..=10 {
        let mut greedy = Client::stamped(&format!("198.51.100.7:{port}"), "greedy");
        greedy.allocate(&mut relay);
        for number in 0..20 {
            let peer = format!("192.0.2.1:{}", number + 1);
            granted[0] += usize::from(greedy.bind(&mut relay, 0x4000 + number, &peer).is_none());
            let peer = format!("192.0.{port}.{number}:1");
            granted[1] += usize::from(greedy.permit(&mut relay, &[&peer]).is_none());
        }
    }
    assert!(granted.iter().all(|count| (40..=50).contains(count)), "{granted:?}");
    let mut other = Client::stamped("198.51.101.7:1", "other");
    other.allocate(&mut relay);
    for number in 0..20 {
        assert_eq!(other.bind(&mut relay, 0x4000 + number, &format!("192.0.2.1:{number}1")), None);
        assert_eq!(other.permit(&mut relay, &[&format!("192.0.2.{number}:1")]), None);
    }
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
