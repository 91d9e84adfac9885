//! Tolerant decoding: what a newer or faulty portal says must not cost more than the part that is wrong.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests are tests.

use connlib_portal_api::channel::Frame;
use connlib_portal_api::messages::client::{FromPortal, IpStack, Resource, ToPortal};
use connlib_portal_api::messages::common::{Filter, PortRange, Reason};
use connlib_portal_api::messages::{DecodeError, Message, gateway};
use connlib_portal_api::{ClientId, GatewayId, ResourceId, SiteId};
use serde_json::{Value, json};

fn id(number: u128) -> String {
    ResourceId::from_u128(number).to_string()
}

fn cidr(number: u128) -> Value {
    json!({"type": "cidr", "id": id(number), "name": "net", "address": "10.0.0.0/8", "sites": [], "filters": []})
}

fn relay(number: u128, addr: &str) -> Value {
    json!({"type": "turn", "id": id(number), "addr": addr, "username": "1:s", "password": "p", "expires_at": 1})
}

fn init(resources: &Value) -> FromPortal {
    FromPortal::decode("init", init_payload(resources)).unwrap()
}

fn init_payload(resources: &Value) -> Value {
    json!({
        "interface": {"ipv4": "100.64.0.7", "ipv6": "fd00:2021:1111::7"},
        "resources": resources,
        "relays": [],
        "authorizations": [],
        "flow_logs": {"api_url": "https://x", "upload_interval_secs": 0, "upload_batch_size": 0},
    })
}

fn resource(json: Value) -> Option<Resource> {
    match FromPortal::decode("resource_created_or_updated", json) {
        Ok(FromPortal::ResourceCreatedOrUpdated(resource)) => Some(resource),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

fn with(mut json: Value, field: &str, value: Value) -> Value {
    json[field] = value;
    json
}

#[test]
fn a_bad_resource_is_left_out_of_init() {
    let bad = [
        json!({"type": "teapot", "id": id(1), "name": "new kind"}),
        json!({"id": id(1), "name": "no type"}),
        json!("not even an object"),
        json!(null),
        with(cidr(1), "address", json!("10.0.0.0/99")),
        with(cidr(1), "id", json!("no uuid")),
        with(cidr(1), "name", json!(null)),
        with(cidr(1), "filters", json!(null)),
        with(cidr(1), "gateway_groups", json!([])), // with "sites" beside it
    ];
    for bad in bad {
        let message = init(&json!([cidr(1), bad, cidr(2)]));
        let skipped: Vec<_> = message.skipped().iter().map(|skipped| skipped.index).collect();
        assert_eq!(skipped, [1], "{bad}");
        let FromPortal::Init(init) = message else { panic!() };
        let ids: Vec<_> = init.resources.iter().map(Resource::id).collect();
        assert_eq!(ids, [ResourceId::from_u128(1), ResourceId::from_u128(2)], "{bad}");
    }
}

#[test]
fn a_skipped_resource_says_of_what_type_it_was() {
    let message = init(&json!([{"type": "teapot", "id": id(1)}]));
    assert_eq!(message.skipped()[0].kind.as_deref(), Some("teapot"));
}

#[test]
fn bad_relays_authorizations_devices_and_resolvers_are_left_out() {
    let pool = json!({"type": "static_device_pool", "id": id(1), "name": "iot", "devices": [
        {"client_id": id(5), "ipv4": "100.64.1.38/32", "ipv6": "fd00:2021:1111::125/128"},
        {"id": id(6), "ipv4": "100.64.1.39", "ipv6": "fd00:2021:1111::126"},
        {"client_id": id(7), "ipv4": "100.64.1.0/24", "ipv6": "fd00:2021:1111::127/128"},
    ]});
    let mut payload = init_payload(&json!([pool]));
    payload["relays"] = json!([
        relay(1, "203.0.113.5:3478"),
        relay(1, "[2001:db8::5]:3478"),
        {"type": "stun", "id": id(2), "addr": "203.0.113.6:3478"},
        relay(3, "no address"),
        {"type": "carrier pigeon", "id": id(4)},
    ]);
    payload["authorizations"] = json!([
        {"client_id": id(1), "resource_id": id(2), "expires_at": 1_729_813_989},
        {"client_id": id(1), "resource_id": id(3), "expires_at": null},
        {"client_id": 1, "resource_id": id(3), "expires_at": 1},
        {"client_id": id(1), "resource_id": id(3), "expires_at": "soon"},
    ]);
    payload["interface"]["upstream_do53"] = json!([{"ip": "1.1.1.1"}, {"ip": "localhost"}]);
    let message = FromPortal::decode("init", payload.clone()).unwrap();
    assert_eq!(message.skipped().len(), 6);
    let FromPortal::Init(init) = message else { panic!() };
    assert_eq!(init.relays.len(), 3);
    assert_eq!(init.authorizations.len(), 2);
    assert_eq!(init.interface.do53_servers(), ["1.1.1.1:53".parse().unwrap()]);
    let Resource::StaticDevicePool(pool) = &init.resources[0] else { panic!() };
    let devices: Vec<_> = pool.devices.iter().map(|device| device.client_id).collect();
    assert_eq!(devices, [ClientId::from_u128(5), ClientId::from_u128(6)]);
    let device = serde_json::to_value(&pool.devices[1]).unwrap();
    assert_eq!(
        (&device["ipv4"], &device["ipv6"]),
        (&json!("100.64.1.39/32"), &json!("fd00:2021:1111::126/128"))
    );

    payload["interface"]["upstream_do53"] = json!([]);
    payload["interface"]["upstream_dns"] =
        json!([{"protocol": "ip_port", "address": "9.9.9.9:5353"}, {"protocol": "smoke"}]);
    let FromPortal::Init(init) = FromPortal::decode("init", payload).unwrap() else { panic!() };
    assert_eq!(init.interface.do53_servers(), ["9.9.9.9:5353".parse().unwrap()]);
}

#[test]
fn a_bad_candidate_is_left_out() {
    let payload =
        json!({"gateway_id": id(1), "candidates": ["candidate:1", 2, null, "candidate:3"]});
    let message = FromPortal::decode("ice_candidates", payload).unwrap();
    assert_eq!(message.skipped().len(), 2);
    let FromPortal::GatewayIceCandidates(message) = message else { panic!() };
    assert_eq!(*message.candidates, ["candidate:1".to_owned(), "candidate:3".to_owned()]);
}

#[test]
fn a_filter_that_we_do_not_know_lets_nothing_through() {
    let ports = |start, end| PortRange::new(start, end).unwrap();
    let table = [
        (json!({"protocol": "tcp"}), Filter::Tcp(PortRange::ALL)),
        (
            json!({"protocol": "tcp", "port_range_start": null, "port_range_end": null}),
            Filter::Tcp(PortRange::ALL),
        ),
        (
            json!({"protocol": "udp", "port_range_start": 53, "port_range_end": 54}),
            Filter::Udp(ports(53, 54)),
        ),
        (json!({"protocol": "tcp", "port_range_start": 1000}), Filter::Tcp(ports(1000, 65535))),
        (json!({"protocol": "icmp"}), Filter::Icmp),
        (json!({"protocol": "sctp"}), Filter::Unknown),
        (json!({"protocol": "tcp", "port_range_start": 2, "port_range_end": 1}), Filter::Unknown),
        (json!({"protocol": "tcp", "port_range_start": 70000}), Filter::Unknown),
        (json!({"protocol": "tcp", "port_range_start": -1}), Filter::Unknown),
        (json!({}), Filter::Unknown),
        (json!(null), Filter::Unknown),
    ];
    for (wire, filter) in table {
        let json = with(cidr(1), "filters", json!([wire]));
        let Some(Resource::Cidr(resource)) = resource(json) else { panic!("{wire}") };
        assert_eq!(resource.filters, [filter], "{wire}");
    }
    assert_eq!(PortRange::new(2, 1), None);
    assert!(ports(53, 54).contains(54) && !ports(53, 54).contains(55));
}

#[test]
fn a_gateway_takes_no_missing_filters_for_all() {
    let json = json!({"type": "cidr", "id": id(1), "name": "n", "address": "10.0.0.0/8"});
    assert!(gateway::FromPortal::decode("resource_updated", json.clone()).is_err());
    let json = with(json, "filters", json!([]));
    assert!(gateway::FromPortal::decode("resource_updated", json).is_ok());
    let internet = json!({"type": "internet", "id": id(1)});
    assert!(gateway::FromPortal::decode("resource_updated", internet).is_ok());
}

#[test]
fn ip_stack_is_dual_unless_it_says_otherwise() {
    let dns =
        json!({"type": "dns", "id": id(1), "name": "n", "address": "*.x", "gateway_groups": []});
    let table = [
        (json!("dual"), IpStack::Dual),
        (json!("ipv4_only"), IpStack::Ipv4Only),
        (json!("ipv6_only"), IpStack::Ipv6Only),
        (json!(null), IpStack::Dual),
        (json!("ipv8_only"), IpStack::Dual),
        (json!(4), IpStack::Dual),
    ];
    let stack = |json| match resource(json) {
        Some(Resource::Dns(resource)) => resource.ip_stack,
        other => panic!("{other:?}"),
    };
    assert_eq!(stack(dns.clone()), IpStack::Dual);
    for (wire, expected) in table {
        assert_eq!(stack(with(dns.clone(), "ip_stack", wire.clone())), expected, "{wire}");
    }
}

#[test]
fn a_reason_that_we_do_not_know_is_unknown() {
    let table = [
        (json!("offline"), Reason::Offline),
        (json!("version_mismatch"), Reason::VersionMismatch),
        (json!("ambiguous_address"), Reason::AmbiguousAddress),
        (json!("full_moon"), Reason::Unknown),
        (json!(null), Reason::Unknown),
        (json!({"a": 1}), Reason::Unknown),
    ];
    for (wire, expected) in table {
        let payload = json!({"resource_id": id(1), "reason": wire});
        let message = FromPortal::decode("authorization_creation_failed", payload).unwrap();
        let FromPortal::AuthorizationCreationFailed(failed) = message else { panic!() };
        assert_eq!(failed.reason, expected, "{wire}");
    }
}

#[test]
fn sites_are_read_by_both_names_and_written_by_one() {
    let sites = json!([{"id": id(9), "name": "hq"}]);
    let base = json!({"type": "dns", "id": id(1), "name": "n", "address": "x"});
    for name in ["sites", "gateway_groups"] {
        let Some(read) = resource(with(base.clone(), name, sites.clone())) else {
            panic!("{name}")
        };
        assert_eq!(read.sites()[0].id, SiteId::from_u128(9));
        let written = FromPortal::ResourceCreatedOrUpdated(read).payload();
        assert_eq!(written["gateway_groups"], sites);
        assert_eq!(written.get("sites"), None);
    }
}

#[test]
fn the_site_of_an_authorization_is_read_by_both_names_and_written_by_one() {
    let key = "ZElgMipxYbRTXSirwzaOLWju8XJeK9xjyZsjLvoZunA=";
    let credentials = json!({"username": "u", "password": "p"});
    let base = json!({
        "resource_id": id(1), "gateway_id": id(2), "gateway_public_key": key, "preshared_key": key,
        "gateway_ipv4": "100.64.0.2", "gateway_ipv6": "fd00:2021:1111::2",
        "client_ice_credentials": credentials, "gateway_ice_credentials": credentials,
    });
    for name in ["site_id", "gateway_group_id"] {
        let message =
            FromPortal::decode("authorization_created", with(base.clone(), name, json!(id(3))))
                .unwrap();
        let written = message.payload();
        assert_eq!(written["gateway_group_id"], id(3));
        assert_eq!(written.get("site_id"), None);
    }
}

#[test]
fn both_names_of_gateway_candidates_are_understood() {
    let payload = json!({"gateway_id": id(1), "candidates": []});
    for (event, written) in [
        ("ice_candidates", "gateway_ice_candidates"),
        ("gateway_ice_candidates", "gateway_ice_candidates"),
        ("invalidate_ice_candidates", "invalidate_gateway_ice_candidates"),
        ("invalidate_gateway_ice_candidates", "invalidate_gateway_ice_candidates"),
    ] {
        assert_eq!(FromPortal::decode(event, payload.clone()).unwrap().event(), written);
    }
}

#[test]
fn a_network_has_no_host_bits_and_an_address_is_one() {
    for (wire, network) in [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("::1", "::1/128"),
    ] {
        let Some(Resource::Cidr(resource)) = resource(with(cidr(1), "address", json!(wire))) else {
            panic!("{wire}")
        };
        assert_eq!(resource.address.to_string(), network);
    }
}

#[test]
fn an_unknown_or_malformed_message_is_a_value() {
    let unknown = FromPortal::decode("brand_new", json!({})).unwrap_err();
    assert!(matches!(unknown, DecodeError::UnknownEvent { event } if event == "brand_new"));
    let unknown = FromPortal::decode(&"é".repeat(1000), json!({})).unwrap_err();
    assert!(matches!(unknown, DecodeError::UnknownEvent { event } if event.chars().count() == 64));
    for (event, payload) in [
        ("init", json!({})),
        ("init", json!(null)),
        ("init", json!([])),
        ("resource_deleted", json!({"id": id(1)})),
        ("reject_access", json!("x")),
        ("authorization_created", json!({"resource_id": id(1)})),
    ] {
        let error = FromPortal::decode(event, payload).unwrap_err();
        assert!(matches!(error, DecodeError::Malformed { event: named, .. } if named == event));
    }
}

#[test]
fn a_message_without_a_body_is_written_with_an_empty_one_and_read_with_any() {
    assert_eq!(ToPortal::NoRelays.payload(), json!({}));
    for payload in [json!({}), json!(null), json!({"new": 1})] {
        assert_eq!(ToPortal::decode("no_relays", payload).unwrap(), ToPortal::NoRelays);
    }
}

#[test]
fn a_request_names_a_device_only_if_there_is_one() {
    let payload = json!({"resource_id": id(1), "connected_gateway_ids": [id(2)]});
    let message = ToPortal::decode("request_authorization", payload.clone()).unwrap();
    let ToPortal::RequestAuthorization(mut request) = message else { panic!() };
    assert_eq!(*request.connected_gateway_ids, [GatewayId::from_u128(2)]);
    request.ipv4 = Some("100.65.0.1".parse().unwrap());
    let frame = Frame::message("client", &ToPortal::RequestAuthorization(request), 3);
    assert_eq!(frame.payload, with(payload, "ipv4", json!("100.65.0.1")));
    assert_eq!(frame.reference, Some(3));
}

#[test]
fn no_secret_is_shown_by_debug() {
    let key = "ZElgMipxYbRTXSirwzaOLWju8XJeK9xjyZsjLvoZunA=";
    let message = gateway::FromPortal::decode(
        "create_authorization",
        json!({
            "ref": "r", "resource": {"type": "internet", "id": id(1)}, "expires_at": null,
            "client": {"id": id(2), "public_key": key, "preshared_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                       "ipv4": "100.64.0.2", "ipv6": "fd00:2021:1111::2"},
            "client_ice_credentials": {"username": "u1", "password": "hidden1"},
            "gateway_ice_credentials": {"username": "u2", "password": "hidden2"},
            "flow_logs_ingest_token": "hidden3",
        }),
    )
    .unwrap();
    let shown = format!("{message:?}");
    assert!(shown.contains(key) && shown.contains("u1"), "{shown}");
    assert!(
        !shown.contains("hidden") && !shown.contains("[0, 0") && !shown.contains("AAAA"),
        "{shown}"
    );
}
