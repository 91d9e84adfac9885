use connlib_packet::{
    Ecn, Headers, Offload, PartialChecksum, Segmentation, SegmentationKind, TunPacket,
};
use connlib_tunnel::{DropReason, Target};

use crate::lab::{GATEWAY_V4, Lab, NETWORK, tcp, udp, udp_with};

#[test]
fn packets_travel_both_ways() {
    let mut lab = Lab::connected();
    let there = [udp("100.64.0.1:5000", "10.1.0.1:53"), udp("100.64.0.1:5000", "10.1.0.2:53")];
    lab.send(0, &there);
    assert_eq!(lab.take_tun(), there);
    let back = udp("10.1.0.1:53", "100.64.0.1:5000");
    lab.arrive(&back);
    assert_eq!(lab.take_packets(0), [back]);
    let stats = lab.gateway.stats();
    assert_eq!((stats.packets_in, stats.packets_out), (2, 1));
    assert_eq!(stats.drops().count(), 0);
}

#[test]
fn many_packets_arrive_in_order_and_a_super_packet_in_pieces() {
    let mut lab = Lab::connected();
    let packets: Vec<_> =
        (0..100u32).map(|n| udp_with("100.64.0.1:5000", "10.1.0.1:53", &n.to_be_bytes())).collect();
    lab.send(0, &packets);
    assert_eq!(lab.take_tun(), packets);

    let payload: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
    let packet = tcp("10.1.0.1:443", "100.64.0.1:5000", &payload);
    let segmentation = Segmentation { kind: SegmentationKind::Tcp4, segment_size: 1240 };
    let offload = Offload {
        checksum: Some(PartialChecksum { start: 20, offset: 16 }),
        segmentation: Some(segmentation),
    };
    lab.arrive_with(&packet, offload);
    let received = lab.take_packets(0);
    assert_eq!(received.len(), 50_000usize.div_ceil(1240));
    let joined: Vec<u8> = received.iter().flat_map(|packet| packet[40..].to_vec()).collect();
    assert_eq!(joined, payload);
    assert_eq!(lab.gateway.stats().packets_out, 1);
}

#[test]
fn refusals_are_answered() {
    let mut lab = Lab::connected();
    let refused = udp("100.64.0.1:5000", "10.2.0.1:53");
    lab.send(0, std::slice::from_ref(&refused));
    assert_eq!(lab.take_tun(), [] as [Vec<u8>; 0]);
    let [answer] = &lab.take_packets(0)[..] else { panic!("no answer") };
    assert!(answer.ends_with(&refused));
    // RFC 1812 §5.2.7.1: communication administratively prohibited.
    assert_eq!(answer[20..22], [3, 13]);
    let headers = Headers::parse(answer).unwrap();
    assert_eq!(headers.source().to_string(), "10.2.0.1");
    assert_eq!(headers.destination().to_string(), "100.64.0.1");

    // With the internet, a private address is not forbidden; there is no way to it.
    lab.authorize(0, NETWORK, Target::Internet);
    lab.send(0, &[refused, udp("100.64.0.1:5000", "8.8.8.8:53")]);
    assert_eq!(lab.take_tun().len(), 1);
    assert_eq!(lab.take_packets(0)[0][20..22], [3, 0]);
}

#[test]
fn answers_to_refused_packets_are_limited() {
    let mut lab = Lab::connected();
    let refused: Vec<_> =
        (0..500).map(|n| udp(&format!("100.64.0.1:{}", 5000 + n), "10.2.0.1:53")).collect();
    lab.send(0, &refused);
    assert_eq!(lab.take_packets(0).len(), 128);
    assert_eq!(lab.dropped(DropReason::NotAllowed), 500);
}

#[test]
fn clients_do_not_reach_each_other() {
    let mut lab = Lab::new(2);
    for client in [0, 1] {
        lab.authorize(client, NETWORK, Target::Cidr("0.0.0.0/0".parse().unwrap()));
        lab.connect(client);
    }
    lab.send(0, &[udp("100.64.0.1:5000", "100.64.0.2:53")]);
    assert_eq!(lab.take_tun(), [] as [Vec<u8>; 0]);
    // Not even if the kernel sent it back, or the source is made up.
    lab.arrive(&udp("100.64.0.1:5000", "100.64.0.2:53"));
    lab.send(0, &[udp("100.64.0.2:5000", "10.1.0.1:53")]);
    assert_eq!(lab.take_packets(1), [] as [Vec<u8>; 0]);
    assert_eq!(lab.dropped(DropReason::ForeignSource), 2);
    assert_eq!(lab.take_tun(), [] as [Vec<u8>; 0]);
}

#[test]
fn what_was_decided_for_one_client_does_not_hold_for_another() {
    let mut lab = Lab::new(2);
    for client in [0, 1] {
        lab.authorize(client, NETWORK, crate::lab::network());
        lab.connect(client);
    }
    let packet = udp("100.64.0.1:5000", "10.1.0.1:53");
    lab.send(0, std::slice::from_ref(&packet));
    assert_eq!(lab.take_tun(), std::slice::from_ref(&packet));
    lab.send(1, &[packet]);
    assert_eq!(lab.take_tun(), [] as [Vec<u8>; 0]);
}

#[test]
fn the_gateway_itself_is_reached_for_dns_only() {
    let mut lab = Lab::connected();
    let dns = udp("100.64.0.1:5000", &format!("{GATEWAY_V4}:53535"));
    lab.send(0, &[dns.clone(), udp("100.64.0.1:5000", &format!("{GATEWAY_V4}:22"))]);
    assert_eq!(lab.take_tun(), [dns]);
    let answer = udp(&format!("{GATEWAY_V4}:53535"), "100.64.0.1:5000");
    lab.arrive(&answer);
    assert!(lab.take_packets(0).contains(&answer));
}

#[test]
fn congestion_marks_are_carried_inside() {
    for (inner, outer, expected) in [
        (Ecn::Ect0, Ecn::Ce, Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect0, Ecn::Ect0),
        (Ecn::NotEct, Ecn::Ce, Ecn::NotEct),
    ] {
        let mut lab = Lab::connected();
        let mut packet = udp("100.64.0.1:5000", "10.1.0.1:53");
        packet[1] |= inner.bits();
        let old = u16::from_be_bytes([packet[10], packet[11]]);
        let update = connlib_packet::checksum::Update::default()
            .word(0x4500, 0x4500 | u16::from(inner.bits()));
        packet[10..12].copy_from_slice(&update.apply(old).to_be_bytes());
        lab.send_marked(0, &[packet], outer);
        let mut arrived = lab.take_tun().remove(0);
        assert_eq!(Headers::parse(&arrived).unwrap().ecn(), expected);
        assert!(TunPacket::parse(&mut arrived, Offload::NONE).unwrap().is_intact());
    }
}

#[test]
fn packets_for_nobody_are_counted() {
    let mut lab = Lab::connected();
    lab.arrive(&udp("10.1.0.1:53", "100.64.0.9:5000"));
    lab.arrive(&udp("10.2.0.1:53", "100.64.0.1:5000"));
    assert_eq!(lab.dropped(DropReason::UnknownPeer), 1);
    assert_eq!(lab.dropped(DropReason::NotAllowed), 1);
    assert_eq!(lab.take_packets(0), [] as [Vec<u8>; 0]);
}
