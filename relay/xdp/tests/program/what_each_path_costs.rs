//! Prints what the program costs a packet, by the kernel's own account of packets that come by a link: see it with
//! `--nocapture`. Asserts nothing about it.

use aya::sys::{Stats, enable_stats};
use connlib_relay_xdp::{Action, Config, PATHS, Preference, Runs, Shape};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    each_path_is_as_the_model_says::prepare,
    lab::{Lab, UPLINK, dual_stack, in_namespace, lay_out},
    wire::Wire,
};

/// Packets a path.
const PACKETS: u32 = 20_000;

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_each_path_costs() {
    in_namespace(|| {
        lay_out();
        let uplink = Wire::to(UPLINK);
        let mut lab = Lab::attached(Config { preference: Preference::Native, ..dual_stack() });
        let _counting = enable_stats(Stats::RunTime).unwrap();
        for path in PATHS {
            let mut random = ChaCha8Rng::seed_from_u64(u64::from(path.index()));
            let (frame, before) = loop {
                lab.unbind_all();
                let frame = prepare(&mut lab, path, &mut random);
                if lab.model.relay(&frame).is_some_and(|(action, _)| action == Action::Transmit) {
                    break (frame.bytes(), lab.xdp.runs().unwrap());
                }
            };
            for _ in 0..PACKETS {
                uplink.send(&frame);
            }
            let after = lab.xdp.runs().unwrap();
            println!(
                "{:>16} -> {:<16}{:>5} ns",
                name(path.from),
                name(path.to),
                cost(before, after)
            );
        }
        lab.unbind_all();
        let before = lab.xdp.runs().unwrap();
        for _ in 0..PACKETS {
            uplink.send(&[0; 60]);
        }
        println!(
            "{:>36}{:>5} ns",
            "what is not for the relay",
            cost(before, lab.xdp.runs().unwrap())
        );
    });
}

fn cost(before: Runs, after: Runs) -> u128 {
    (after.time - before.time).as_nanos() / u128::from(after.count - before.count).max(1)
}

fn name(shape: Shape) -> String {
    format!("{:?} {:?}", shape.family, shape.framing).to_lowercase()
}
