//! A thousand worlds, each with troubles of its own.
#![allow(missing_docs)]

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use connlib_sim::story::{Outcome, live};

const WORLDS: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_happens_packets_meet_their_fate() {
    if let Some(seed) = number("CONNLIB_SIM_SEED") {
        println!("{:?}", live(seed));
        return;
    }
    let worlds = number("CONNLIB_SIM_WORLDS").unwrap_or(WORLDS);
    let first = number("CONNLIB_SIM_FIRST").unwrap_or_default();
    let next = AtomicU64::new(first);
    let outcomes = Mutex::new(Vec::<Outcome>::new());
    let failed = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + worlds {
                        return;
                    }
                    match catch_unwind(|| live(seed)) {
                        Ok(outcome) => outcomes.lock().unwrap().push(outcome),
                        Err(_) => failed.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let elapsed: Duration = outcomes.iter().map(|outcome| outcome.elapsed).sum();
    println!(
        "{} worlds, {} hours, {} packets: {} as expected, {} lost by the network, {} in trouble",
        outcomes.len(),
        elapsed.as_secs() / 3600,
        sum(|o| o.tally.sent),
        sum(|o| o.tally.as_expected),
        sum(|o| o.tally.lost),
        sum(|o| o.tally.excused),
    );
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(
        failed.is_empty(),
        "{} worlds failed: {failed:?}; replay one by CONNLIB_SIM_SEED={}",
        failed.len(),
        failed[0]
    );
}

#[test]
fn the_same_seed_takes_the_same_course() {
    for seed in 0..60 {
        assert_eq!(live(seed), live(seed), "seed {seed}");
    }
}
