//! Real packets on real links, with the program in the driver and behind it.

use std::{
    io::{BufRead as _, BufReader},
    net::UdpSocket,
    process::{Child, Command, Stdio},
    time::Duration,
};

use connlib_relay_xdp::{Action, Binding, Config, PATHS, Preference};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    each_path_is_as_the_model_says::prepare,
    frame::{Frame, channel_data},
    lab::{
        LISTEN_PORT, LOCAL_V4, Lab, OWN, ROUTER, SIDE, UPLINK, at, dual_stack, in_namespace,
        lay_out,
    },
    wire::Wire,
};

/// Packets a path.
const PACKETS: usize = 20;
/// Tells a run of this program that it is to hold the relay's.
const HOLDER: &str = "CONNLIB_TEST_HOLDER";
const ATTACHED: &str = "the program is attached";

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn natively() {
    packets_travel(Preference::Native);
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn generically() {
    packets_travel(Preference::Generic);
}

fn packets_travel(preference: Preference) {
    in_namespace(move || {
        lay_out();
        let (uplink, side) = (Wire::to(UPLINK), Wire::to(SIDE));
        let mut lab = Lab::attached(Config { preference, ..dual_stack() });
        for path in PATHS {
            let mut random = ChaCha8Rng::seed_from_u64(u64::from(path.index()));
            for _ in 0..PACKETS {
                let frame = prepare(&mut lab, path, &mut random);
                let (action, expected) = lab.model.relay(&frame).unwrap();
                uplink.send(&frame.bytes());
                let way_out = if action == Action::Redirect { &side } else { &uplink };
                way_out.expect(&expected.bytes());
                lab.unbind_all();
            }
            let relayed = lab.maps.counters().unwrap().relayed(path).packets;
            assert_eq!(relayed, PACKETS as u64, "{path:?}");
        }
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn the_host_and_user_space_get_what_is_theirs() {
    in_namespace(|| {
        lay_out();
        let uplink = Wire::to(UPLINK);
        let mut lab = Lab::attached(Config { preference: Preference::Native, ..dual_stack() });
        lab.bind(binding());
        let control = listen(LISTEN_PORT);
        let allocation = listen(binding().allocation_port);
        let of_the_host = listen(50_001);

        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        uplink.send(&to_relay(LISTEN_PORT, &stun).bytes());
        assert_eq!(received(&control), stun);
        let unbound = channel_data(binding().channel + 1, b"unbound", &[]);
        uplink.send(&to_relay(LISTEN_PORT, &unbound).bytes());
        assert_eq!(received(&control), unbound);
        uplink.send(&to_relay(binding().allocation_port, b"from a stranger").bytes());
        assert_eq!(received(&allocation), b"from a stranger");
        uplink.send(&to_relay(50_001, b"a query's answer").bytes());
        assert_eq!(received(&of_the_host), b"a query's answer");
    });
}

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn a_crash_detaches_the_program() {
    in_namespace(|| {
        lay_out();
        let uplink = Wire::to(UPLINK);
        let control = listen(LISTEN_PORT);
        let data = channel_data(binding().channel, b"by the kernel or by user space", &[]);
        let frame = to_relay(LISTEN_PORT, &data);

        let mut holder = hold();
        let lab = Lab::again(dual_stack());
        let mut model = lab.model;
        model.bindings.push(binding());
        let (_, relayed) = model.relay(&frame).unwrap();
        uplink.send(&frame.bytes());
        uplink.expect(&relayed.bytes());

        holder.kill().unwrap();
        holder.wait().unwrap();
        // The kernel lets go of the program a moment after the process is gone.
        let start = std::time::Instant::now();
        loop {
            uplink.send(&frame.bytes());
            let mut buffer = [0; 2048];
            match control.recv(&mut buffer) {
                Ok(length) => break assert_eq!(buffer[..length], data),
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
        }
    });
}

/// Not a test of itself: the process that crashes.
#[test]
#[ignore = "run by another test"]
fn holder() {
    if std::env::var_os(HOLDER).is_none() {
        return;
    }
    let mut lab = Lab::attached(Config { preference: Preference::Native, ..dual_stack() });
    lab.bind(binding());
    println!("\n{ATTACHED}");
    loop {
        std::thread::park();
    }
}

/// Long enough for anything that is going to happen at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Another process that has the relay's program attached.
fn hold() -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--nocapture", "--exact", "packets_travel_through_the_relay::holder"])
        .env(HOLDER, "1")
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == ATTACHED));
    child
}

fn listen(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(at(LOCAL_V4, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    let start = std::time::Instant::now();
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => return buffer[..length].to_vec(),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    }
}

pub(crate) fn binding() -> Binding {
    Binding {
        client: at("198.51.100.7", 40_000),
        channel: 0x4001,
        allocation_port: 50_000,
        peer: at("198.51.100.9", 9),
    }
}

pub(crate) fn to_relay(port: u16, payload: &[u8]) -> Frame {
    Frame {
        ethernet: [OWN, ROUTER],
        source: binding().client,
        destination: at(LOCAL_V4, port),
        hops: 64,
        class: 0,
        identification: 7,
        dont_fragment: true,
        has_checksum: true,
        payload: payload.to_vec(),
    }
}
