//! Where the program is attached, and what happens there while it is.

use std::process::Command;

use connlib_relay_xdp::{Action, AttachError, Config, Mode, Preference, Xdp};

use crate::{
    frame::channel_data,
    lab::{
        FOREIGN, LISTEN_PORT, Lab, OWN, SIDE, UPLINK, attach, dual_stack, in_namespace, ip,
        lay_out, set_ethernet,
    },
    packets_travel_through_the_relay::{binding, to_relay},
};

const NATIVE: Option<Mode> = Some(Mode::Native);
const GENERIC: Option<Mode> = Some(Mode::Generic);

fn on(interfaces: &[&str], preference: Preference) -> Config {
    let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    Config { interfaces, preference, ..dual_stack() }
}

fn modes(xdp: &Xdp) -> Vec<Option<Mode>> {
    xdp.modes().map(|(_, mode)| mode).collect()
}

/// What `ip` says to this.
fn refused(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_ascii_whitespace()).output().unwrap();
    assert!(!output.status.success(), "{arguments}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn it_attaches_as_the_driver_can_and_lets_go() {
    in_namespace(|| {
        lay_out();
        let mode = |interface: &str, preference| {
            attach(&on(&[interface], preference)).map(|(xdp, _)| modes(&xdp)[0])
        };
        ip("tuntap add tap0 mode tap");
        assert_eq!(mode("tap0", Preference::Auto).unwrap(), NATIVE);
        assert_eq!(mode("tap0", Preference::Generic).unwrap(), GENERIC);
        // This one's driver would lose what the program sends, for all that can be known.
        assert_eq!(mode(UPLINK, Preference::Auto).unwrap(), GENERIC);
        assert_eq!(mode(UPLINK, Preference::Native).unwrap(), NATIVE);
        // The driver of the loopback interface knows nothing of XDP.
        assert_eq!(mode("lo", Preference::Auto).unwrap(), GENERIC);
        let error = mode("lo", Preference::Native).unwrap_err();
        assert!(matches!(error, AttachError::Attach { mode: Mode::Native, .. }), "{error:?}");
        assert_eq!(mode(UPLINK, Preference::Off).unwrap(), None);

        // All in one mode, or none at all.
        attach(&on(&[FOREIGN, "lo"], Preference::Native)).unwrap_err();
        let (xdp, _) = attach(&on(&[FOREIGN, "lo"], Preference::Auto)).unwrap();
        assert_eq!(modes(&xdp), [GENERIC, GENERIC]);
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn it_follows_interfaces_that_go_and_come() {
    in_namespace(|| {
        lay_out();
        let (mut xdp, mut maps) = Xdp::load(&on(&["tap0", "tap1"], Preference::Auto)).unwrap();
        let error = xdp.tend().unwrap_err();
        assert!(matches!(error, AttachError::NoInterface(_)), "{error:?}");
        assert!(!xdp.tend().unwrap(), "said once");

        ip("tuntap add tap0 mode tap");
        assert!(xdp.tend().unwrap());
        assert_eq!(modes(&xdp), [NATIVE, None]);
        ip("tuntap add tap1 mode tap");
        assert!(xdp.tend().unwrap());
        assert_eq!(modes(&xdp), [NATIVE, NATIVE]);
        // It is told of things at any time.
        maps.add_port(binding().allocation_port, connlib_relay_xdp::Family::V4).unwrap();
        maps.insert_channel(&binding()).unwrap();

        // Another one with the same name.
        ip("link delete tap0");
        ip("tuntap add tap0 mode tap");
        assert_eq!(xdp.tend().ok(), Some(false), "the same mode as before");
        assert_eq!(modes(&xdp), [NATIVE, NATIVE]);
        assert!(!xdp.tend().unwrap());

        // By another name, it is another one.
        ip("link set tap0 name tap7");
        assert!(xdp.tend().unwrap());
        assert_eq!(modes(&xdp), [None, NATIVE]);
        assert_eq!(program_of("tap7"), None);
        ip("link set tap7 name tap0");
        assert!(xdp.tend().unwrap());

        // One that is there now can do less.
        ip("link delete tap0");
        ip("link add tap0 type bridge");
        assert!(xdp.tend().unwrap());
        assert_eq!(modes(&xdp), [GENERIC, GENERIC]);
        ip("link delete tap0");
        assert!(xdp.tend().unwrap());
        assert_eq!(modes(&xdp), [None, NATIVE]);

        ip("link delete tap1");
        xdp.tend().unwrap_err();
        assert_eq!(modes(&xdp), [None, None]);
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn it_follows_ethernet_addresses() {
    in_namespace(|| {
        lay_out();
        let mut lab = Lab::attached(on(&[UPLINK], Preference::Native));
        lab.bind(binding());
        let relays = |lab: &mut Lab, address| {
            let payload = channel_data(binding().channel, b"for whom?", &[]);
            let mut frame = to_relay(LISTEN_PORT, &payload);
            frame.ethernet[0] = address;
            lab.run(&frame.bytes()).action == Action::Transmit
        };
        let other = [2, 0, 0, 0, 0, 0xfe];
        assert!(relays(&mut lab, OWN));
        set_ethernet(UPLINK, other);
        assert!(!lab.xdp.tend().unwrap(), "the same mode as before");
        assert_eq!([OWN, other].map(|address| relays(&mut lab, address)), [false, true]);
        set_ethernet(UPLINK, OWN);
        lab.xdp.tend().unwrap();
        assert_eq!([OWN, other].map(|address| relays(&mut lab, address)), [true, false]);
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn one_interface_has_one_program_until_its_owner_lets_go() {
    in_namespace(|| {
        lay_out();
        let (first, _maps) = attach(&on(&[FOREIGN], Preference::Native)).unwrap();
        let held = program_of(FOREIGN).unwrap();
        let (mut second, _maps) = Xdp::load(&on(&[FOREIGN, SIDE], Preference::Auto)).unwrap();
        let error = second.tend().unwrap_err();
        assert!(matches!(error, AttachError::Attach { .. }), "{error:?}");
        assert_eq!(modes(&second), [None, None]);
        assert!(!second.tend().unwrap(), "said once");

        // Nobody takes it away by the older interface.
        for mode in ["xdp", "xdpdrv"] {
            refused(&format!("link set dev {FOREIGN} {mode} off"));
        }
        assert_eq!(program_of(FOREIGN), Some(held));

        drop(first);
        assert!(second.tend().unwrap());
        assert_eq!(modes(&second), [GENERIC, GENERIC]);
        assert_ne!(program_of(FOREIGN), Some(held));
    });
}

/// In the driver, a packet has to fit a page. The kernel sees to that as long as the program is there.
#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn longer_packets_are_for_later() {
    in_namespace(|| {
        lay_out();
        let (mut xdp, _maps) = attach(&on(&[UPLINK], Preference::Native)).unwrap();
        refused(&format!("link set dev {UPLINK}-far mtu 9000"));
        assert_eq!((xdp.tend().ok(), modes(&xdp)), (Some(false), vec![NATIVE]));
        drop(xdp);

        ip(&format!("link set dev {UPLINK}-far mtu 9000"));
        let error = attach(&on(&[UPLINK], Preference::Native)).unwrap_err();
        assert!(matches!(error, AttachError::Attach { mode: Mode::Native, .. }), "{error:?}");
        assert_eq!(modes(&attach(&on(&[UPLINK], Preference::Auto)).unwrap().0), [GENERIC]);

        // That the other end has changed does not show at this one.
        let (mut xdp, _maps) = Xdp::load(&on(&[UPLINK], Preference::Native)).unwrap();
        xdp.tend().unwrap_err();
        ip(&format!("link set dev {UPLINK}-far mtu 1500"));
        assert_eq!(xdp.tend().ok(), Some(false));
        xdp.try_again();
        assert_eq!((xdp.tend().ok(), modes(&xdp)), (Some(true), vec![NATIVE]));
        xdp.try_again();
        assert_eq!((xdp.tend().ok(), modes(&xdp)), (Some(false), vec![NATIVE]));
    });
}

/// The number of the program on an interface.
fn program_of(interface: &str) -> Option<u32> {
    let output = Command::new("ip").args(["link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split_ascii_whitespace().skip_while(|word| *word != "prog/xdp");
    words.nth(2).map(|number| number.parse().unwrap())
}
