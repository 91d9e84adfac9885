use std::time::Duration;

use connlib_packet::control;
use connlib_tunnel::{Filters, Gone, Retained};

use crate::lab::{GATEWAY, Lab, NAMES, NETWORK, network, port, udp};

const NONE: [Vec<u8>; 0] = [];

fn packet() -> Vec<u8> {
    udp("100.64.0.1:5000", "10.1.0.1:53")
}

/// Whether packets of an established flow still pass, both ways.
fn passes(lab: &mut Lab) -> bool {
    let answer = udp("10.1.0.1:53", "100.64.0.1:5000");
    lab.send(0, &[packet()]);
    lab.arrive(&answer);
    let (there, back) = (!lab.take_tun().is_empty(), lab.take_packets(0).contains(&answer));
    assert_eq!(there, back);
    there
}

/// The client was told that the gateway has dropped its end.
fn was_dismissed(lab: &mut Lab) -> bool {
    let client = lab.clients[0].id;
    let is_told = lab.take_messages(0) == [control::Event::Goodbye];
    assert_eq!(is_told, lab.take_gone() == [(client, Gone::Unauthorized)]);
    assert_eq!(is_told, lab.gateway.path(client).is_none());
    is_told
}

#[test]
fn by_being_taken_back_one_after_the_other() {
    let mut lab = Lab::connected();
    let client = lab.clients[0].id;
    assert!(passes(&mut lab));
    lab.gateway.reject_access(client, NETWORK, lab.now);
    lab.settle();
    assert!(!passes(&mut lab));
    assert!(!was_dismissed(&mut lab));
    lab.gateway.reject_access(client, NAMES, lab.now);
    lab.settle();
    assert!(was_dismissed(&mut lab));
    assert_eq!(lab.gateway.clients(), 0);
}

#[test]
fn by_expiring_without_any_packet() {
    let mut lab = Lab::connected();
    let (client, soon) = (lab.clients[0].id, lab.now + Duration::from_secs(5));
    lab.gateway.reject_access(client, NAMES, lab.now);
    lab.gateway.update_expiry(client, NETWORK, Some(soon));
    lab.wait(Duration::from_millis(4_900));
    assert!(passes(&mut lab));
    lab.wait(Duration::from_millis(200));
    assert!(was_dismissed(&mut lab));
}

#[test]
fn by_expiring_even_if_the_host_is_late() {
    let mut lab = Lab::connected();
    let soon = lab.now + Duration::from_secs(5);
    lab.try_authorize(0, NETWORK, network(), Some(soon)).unwrap();
    assert!(passes(&mut lab));
    // Nobody calls `handle_timeout`.
    lab.now = soon;
    assert!(!passes(&mut lab));
}

#[test]
fn by_missing_in_what_the_portal_knows() {
    let mut lab = Lab::connected();
    let client = lab.clients[0].id;
    let soon = lab.now + Duration::from_secs(5);
    let retained = |resource, expires_at| Retained { client, resource, expires_at };
    lab.gateway.retain_authorizations([retained(NETWORK, Some(soon))], lab.now);
    lab.settle();
    assert!(passes(&mut lab));
    lab.announce(0, NAMES, "web.test", 1);
    assert_eq!(lab.requests, [], "not its resource any more");
    lab.take_messages(0);
    lab.wait(Duration::from_secs(5));
    assert!(was_dismissed(&mut lab));

    lab.authorize(0, NETWORK, network());
    lab.connect(0);
    assert!(passes(&mut lab));
    lab.gateway.retain_authorizations([], lab.now);
    lab.settle();
    assert!(was_dismissed(&mut lab));
    lab.gateway.retain_authorizations([retained(NETWORK, None)], lab.now);
    assert_eq!(lab.gateway.clients(), 0, "nothing is known of this client");
}

#[test]
fn filters_change_for_flows_that_are_established() {
    let mut lab = Lab::connected();
    assert!(passes(&mut lab));
    lab.gateway.update_resource_filters(NETWORK, &port(54));
    assert!(!passes(&mut lab));
    lab.gateway.update_resource_filters(NETWORK, &port(53));
    assert!(passes(&mut lab));
    lab.gateway.update_resource_filters(NETWORK, &Filters::ALL);
    assert!(passes(&mut lab));
}

#[test]
fn the_same_authorization_again_changes_nothing_but_its_end() {
    let mut lab = Lab::connected();
    let client = lab.clients[0].id;
    let soon = Some(lab.now + Duration::from_secs(5));
    lab.try_authorize(0, NETWORK, network(), soon).unwrap();
    assert!(lab.clients[0].node.path(GATEWAY.into()).is_some());
    assert!(lab.gateway.path(client).is_some());
    lab.authorize(0, NETWORK, network());
    lab.wait(Duration::from_secs(6));
    assert!(passes(&mut lab));
    assert_eq!(lab.take_gone(), []);
    assert_eq!(lab.take_tun(), NONE);
}
