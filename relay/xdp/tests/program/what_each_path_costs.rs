//! Prints what the program costs a packet. Asserts nothing about it: see it with `--nocapture`.

use std::time::Duration;

use connlib_relay_xdp::PATHS;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    each_path_is_as_the_model_says::prepare,
    lab::{Lab, UPLINK, dual_stack, in_namespace, index},
};

/// The kernel runs the program that often on one buffer. It does not restore what the program has changed, so every run
/// has one packet, and is long enough for the cost of starting it not to matter.
const RUNS: u32 = 200;

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn what_each_path_costs() {
    in_namespace(|| {
        let mut lab = Lab::new(dual_stack());
        for n in [1u32, 10, 1000] {
            let mut c: Vec<Duration> = (0..200)
                .map(|_| lab.xdp.try_out(&[0; 64], index(UPLINK), n).unwrap().duration)
                .collect();
            c.sort();
            println!("foreign {n} {:?}", c[100]);
        }
        for path in PATHS {
            let mut random = ChaCha8Rng::seed_from_u64(1);
            let frame = prepare(&mut lab, path, &mut random).bytes();
            let mut costs: Vec<Duration> = (0..RUNS)
                .map(|_| lab.xdp.try_out(&frame, index(UPLINK), 1).unwrap().duration)
                .collect();
            costs.sort();
            println!(
                "{path:?}: {:?} {:?} {:?}",
                costs[0],
                costs[RUNS as usize / 2],
                costs[RUNS as usize * 9 / 10]
            );
            lab.unbind_all();
        }
    });
}
