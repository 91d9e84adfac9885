//! The same in real time, which takes minutes: `CONNLIB_INTEROP_SECONDS` says how many seconds, 400 unless told.

// Not with the clock that tests bend.
#![cfg(not(feature = "fast-clock"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, Instant};
use std::{env, thread};

use connlib_e2e::Lab;
use connlib_interop::{Clock, Pair, end::Seen};
use connlib_link::Role;

const DEADLINE: Duration = Duration::from_secs(20);

/// Whoever started a session renews it when it is so old.
const REKEY_AFTER: u64 = 120;

#[test]
#[ignore = "takes minutes"]
fn rekeys_of_both_programs_lose_nothing() {
    let seconds = env::var("CONNLIB_INTEROP_SECONDS").map_or(400, |text| text.parse().unwrap());
    let duration = Duration::from_secs(seconds);
    let sessions = usize::try_from(1 + seconds / (REKEY_AFTER + 10)).unwrap();

    let lab = Lab::new().unwrap();
    let (ours, theirs) = thread::scope(|scope| {
        let ours = scope.spawn(|| talk(&lab, Role::Controlling, duration));
        let theirs = scope.spawn(|| talk(&lab, Role::Controlled, duration));
        (ours.join().unwrap(), theirs.join().unwrap())
    });
    println!("we start sessions: {ours:?}\nwireguard-go does: {theirs:?}");
    for seen in [&ours, &theirs] {
        assert_eq!(seen.answered, seen.asked);
        assert_eq!(seen.lost_questions(), 0);
        assert!(seen.sessions() >= sessions, "{sessions} sessions were to be expected");
    }
    assert_eq!(ours.initiations_received, 0);
    assert_eq!(theirs.initiations_sent, 0);
}

/// Both sides talk for so long; whoever controls the link starts its sessions.
fn talk(lab: &Lab, role: Role, duration: Duration) -> Seen {
    let name = if role == Role::Controlling { "ours" } else { "theirs" };
    let pair = Pair::lay(lab, name).unwrap();
    let mut end = pair.end(role, Clock::real()).unwrap();
    let first = |end: &mut connlib_interop::End| match role {
        Role::Controlling => end.converse("an answer", DEADLINE, |seen| seen.answered > 0),
        Role::Controlled => end.listen("a question", DEADLINE, |seen| seen.questions > 0),
    };
    let probe = (role == Role::Controlled).then(|| pair.probe().unwrap());
    first(&mut end).unwrap();
    let probe = probe.unwrap_or_else(|| pair.probe().unwrap());
    let start = Instant::now();
    end.converse("the end", duration + DEADLINE, |_| start.elapsed() > duration).unwrap();
    end.fall_silent(DEADLINE).unwrap();
    probe.stop().unwrap();
    end.seen().clone()
}
