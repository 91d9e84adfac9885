//! What the program is told.

use connlib_relay_xdp::{Action, Binding, MapError, Pass};

use crate::{
    frame::{Frame, channel_data},
    lab::{LISTEN_PORT, LOCAL_V4, Lab, OWN, ROUTER, at, dual_stack, in_namespace},
};

/// How many fit.
const ROOM: u32 = 1 << 18;

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_does_not_fit_stays_with_user_space() {
    in_namespace(|| {
        let mut lab = Lab::new(dual_stack());
        for number in 0..ROOM {
            lab.maps.insert_channel(&numbered(number)).unwrap();
        }
        let error = lab.maps.insert_channel(&numbered(ROOM)).unwrap_err();
        assert!(matches!(error, MapError::Full), "{error:?}");
        // What is there already can be told again.
        lab.maps.insert_channel(&numbered(0)).unwrap();

        assert_eq!(lab.run(&from_client(&numbered(ROOM)).bytes()).action, Action::Pass);
        assert_eq!(lab.maps.counters().unwrap().passed(Pass::NoChannel), 1);
        assert_eq!(lab.run(&from_client(&numbered(ROOM - 1)).bytes()).action, Action::Transmit);

        lab.maps.remove_channel(&numbered(7)).unwrap();
        lab.maps.remove_channel(&numbered(7)).unwrap();
        lab.maps.insert_channel(&numbered(ROOM)).unwrap();
        assert_eq!(lab.run(&from_client(&numbered(ROOM)).bytes()).action, Action::Transmit);
    });
}

/// All different, by their clients' and their peers' ports.
fn numbered(number: u32) -> Binding {
    let [a, b, c, _] = number.to_le_bytes();
    let port = u16::from_le_bytes([a, b]).max(1);
    Binding {
        client: at(&format!("198.51.{c}.7"), port),
        channel: if a == 0 && b == 0 { 0x4001 } else { 0x4000 },
        allocation_port: port,
        peer: at(&format!("198.52.{c}.9"), if a == 0 && b == 0 { 8 } else { 9 }),
    }
}

fn from_client(binding: &Binding) -> Frame {
    Frame {
        ethernet: [OWN, ROUTER],
        source: binding.client,
        destination: at(LOCAL_V4, LISTEN_PORT),
        hops: 64,
        class: 0,
        identification: 7,
        dont_fragment: true,
        has_checksum: true,
        payload: channel_data(binding.channel, b"data", &[]),
    }
}
