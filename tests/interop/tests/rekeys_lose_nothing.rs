//! A session with wireguard-go is renewed again and again while both sides talk, and nobody notices.

use std::time::Duration;

use connlib_e2e::Lab;
use connlib_interop::{Clock, Pair};
use connlib_link::Role;

/// One handshake to begin with, then rekeys.
const SESSIONS: usize = 7;
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn rekeys_of_ours_lose_nothing() {
    let lab = Lab::new().unwrap();
    let pair = Pair::lay(&lab, "rekey").unwrap();
    let mut end = pair.end(Role::Controlling, Clock::fast()).unwrap();
    end.converse("a first answer", DEADLINE, |seen| seen.answered > 0).unwrap();
    let probe = pair.probe().unwrap();
    end.converse("sessions", DEADLINE, |seen| seen.sessions() >= SESSIONS).unwrap();
    end.fall_silent(DEADLINE).unwrap();
    probe.stop().unwrap();

    let seen = end.seen();
    assert_eq!(seen.answered, seen.asked);
    assert!(seen.questions > 1000, "{seen:?}");
    assert_eq!(seen.lost_questions(), 0, "{seen:?}");
    assert!(seen.initiations_sent >= SESSIONS, "{seen:?}");
    // It has lived through seconds only, and saw every handshake of ours come in time.
    assert_eq!(seen.initiations_received, 0, "{seen:?}");
}
