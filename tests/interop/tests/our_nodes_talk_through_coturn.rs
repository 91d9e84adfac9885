//! coturn as the relay between two of our nodes that have no other way to each other.
//!
//! coturn knows ADDITIONAL-ADDRESS-FAMILY by the number of a draft, not by that of RFC 8656 §18.6, and passes ours over:
//! from it everybody gets an IPv4 address alone, however the way to it is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use connlib_e2e::Lab;
use connlib_interop::{
    Coturn, Relayed, Site, coturn,
    relayed::{
        Seen,
        Underlay::{self, Both, Ip4, Ip6},
    },
    site::RELAY,
};
use connlib_stun::Method;

const DEADLINE: Duration = Duration::from_secs(60);
/// Of our nodes, where tests have no reason for another one.
const PORT: u16 = 52625;

const STALE_NONCE: u16 = 438;
const MISMATCH: u16 = 437;

fn is_by_relay(relayed: &Relayed) -> bool {
    let of_relay = |address: SocketAddr| RELAY.contains(&address.ip());
    relayed.paths().into_iter().all(|path| {
        path.is_some_and(|path| path.local.is_some_and(of_relay) || of_relay(path.remote))
    })
}

/// Two nodes on this port that have asked and answered so often, and lost nothing.
fn talk(site: &Site, underlays: [Underlay; 2], port: u16) -> Relayed {
    let mut relayed = Relayed::new(site, underlays, port, coturn::users()).unwrap();
    let enough = |relayed: &Relayed| relayed.answered >= 200;
    relayed.converse("answers", DEADLINE, enough).unwrap();
    relayed.fall_silent(DEADLINE).unwrap();
    assert!(is_by_relay(&relayed), "{:?}", relayed.paths());
    assert_eq!(relayed.answered, relayed.asked);
    relayed
}

#[test]
fn whatever_the_ways_to_it_are() {
    let lab = Lab::new().unwrap();
    let site = Site::lay(&lab).unwrap();
    let _coturn = Coturn::start(&lab, &site, &[]).unwrap();
    let all = [[Ip4, Ip4], [Ip6, Ip6], [Ip4, Ip6], [Ip6, Ip4], [Both, Both]];
    for (underlays, port) in all.into_iter().zip(PORT..) {
        let relayed = talk(&site, underlays, port);
        assert_eq!(relayed.failures, [], "{underlays:?}");
        for seen in relayed.seen() {
            let [address] = seen.relayed[..] else { panic!("{underlays:?}: {seen:?}") };
            assert!(address.is_ipv4(), "{underlays:?}: {seen:?}");
            assert_eq!(seen.count(Method::ALLOCATE, 0), 1, "{underlays:?}: {seen:?}");
        }
    }
}

/// coturn finds the allocations of those who were there before, and ends them a second after they are given back.
#[test]
fn whoever_begins_anew_at_the_same_port_is_served() {
    let lab = Lab::new().unwrap();
    let site = Site::lay(&lab).unwrap();
    let _coturn = Coturn::start(&lab, &site, &[]).unwrap();
    // With both families, the nearer address of coturn need not be the same both times.
    drop(talk(&site, [Ip4, Ip6], PORT));
    let relayed = talk(&site, [Ip4, Ip6], PORT);
    for seen in relayed.seen() {
        let mismatches = seen.count(Method::ALLOCATE, MISMATCH);
        assert!((1..=2).contains(&mismatches), "{seen:?}");
        assert_eq!(seen.count(Method::ALLOCATE, 0), 1, "{seen:?}");
    }
}

#[test]
fn allocations_outlast_nonces_and_lifetimes() {
    let lab = Lab::new().unwrap();
    let site = Site::lay(&lab).unwrap();
    let options = ["--max-allocate-lifetime=30", "--stale-nonce=5"];
    let _coturn = Coturn::start(&lab, &site, &options).unwrap();
    let start = Instant::now();
    let mut relayed = talk(&site, [Both, Both], PORT);
    let paths = relayed.paths();
    for seen in relayed.seen() {
        assert_eq!(seen.lifetime, Some(30), "{seen:?}");
    }
    // Without a refresh, coturn would have ended the allocations by then.
    let lived = |_: &Relayed| start.elapsed() > Duration::from_secs(40);
    relayed.converse("the end of a lifetime", DEADLINE, lived).unwrap();
    relayed.fall_silent(DEADLINE).unwrap();
    assert_eq!(relayed.answered, relayed.asked);
    assert_eq!(relayed.failures, []);
    assert_eq!(relayed.paths(), paths);
    for seen in relayed.seen() {
        // The refresh found the nonce of the allocation too old.
        assert!(seen.count(Method::REFRESH, STALE_NONCE) > 0, "{seen:?}");
        assert!(seen.count(Method::REFRESH, 0) > 0, "{seen:?}");
        assert_eq!(seen.count(Method::ALLOCATE, 0), 1, "{seen:?}");
    }
}

#[test]
fn a_restarted_one_is_found_again() {
    let lab = Lab::new().unwrap();
    let site = Site::lay(&lab).unwrap();
    let mut coturn = Coturn::start(&lab, &site, &[]).unwrap();
    let mut relayed = talk(&site, [Both, Both], PORT);
    for restart in 1..=2 {
        coturn = coturn.restart().unwrap();
        let answered = relayed.answered;
        // It knows nothing of what there was, says so, and is asked for other allocations.
        let again = |relayed: &Relayed| {
            let has_new = |seen: &Seen| seen.count(Method::ALLOCATE, 0) == 1 + restart;
            relayed.answered >= answered + 100 && relayed.seen().into_iter().all(has_new)
        };
        relayed.converse("answers by new allocations", DEADLINE, again).unwrap();
        assert!(is_by_relay(&relayed), "{:?}", relayed.paths());
        // What was under way is lost.
        relayed.forgive();
    }
    let answered = relayed.answered;
    relayed
        .converse("more answers", DEADLINE, |relayed| relayed.answered >= answered + 100)
        .unwrap();
    relayed.fall_silent(DEADLINE).unwrap();
    assert_eq!(relayed.failures, []);
}

#[test]
fn over_tcp_where_no_datagrams_get_through() {
    let lab = Lab::new().unwrap();
    let site = Site::lay(&lab).unwrap();
    let _coturn = Coturn::start(&lab, &site, &[]).unwrap();
    let wall = "table inet wall { chain out { type filter hook output priority 0; meta l4proto udp drop; }; }";
    site.left.nft(wall).unwrap();
    let relayed = talk(&site, [Both, Both], PORT);
    assert_eq!(relayed.failures, []);
    assert_eq!(relayed.streams().map(|streams| streams > 0), [true, false]);
}
