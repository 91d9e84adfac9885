//! wireguard-go restarts: it knows its keys and its peer, and has no session.

use std::time::Duration;

use connlib_e2e::Lab;
use connlib_interop::{Clock, Pair};
use connlib_link::Role;

const DEADLINE: Duration = Duration::from_secs(60);

/// It has something to say, and starts a handshake although it is for us to do so.
#[test]
fn a_session_that_the_peer_starts_is_taken_by_a_client() {
    let lab = Lab::new().unwrap();
    let mut pair = Pair::lay(&lab, "speaks").unwrap();
    let mut end = pair.end(Role::Controlling, Clock::real()).unwrap();
    end.converse("a first answer", DEADLINE, |seen| seen.answered > 0).unwrap();
    end.fall_silent(DEADLINE).unwrap();
    assert_eq!(end.seen().initiations_received, 0);

    for restart in 1..=3 {
        pair = pair.restart().unwrap();
        let probe = pair.probe().unwrap();
        let questions = end.seen().questions;
        end.listen("questions", DEADLINE, |seen| seen.questions >= questions + 10).unwrap();
        end.converse("answers", DEADLINE, |seen| seen.sessions() > restart).unwrap();
        end.fall_silent(DEADLINE).unwrap();
        probe.stop().unwrap();
        assert!(end.seen().initiations_received >= restart, "{:?}", end.seen());
        assert_eq!(end.seen().initiations_sent, 1, "{:?}", end.seen());
    }
    assert_eq!(end.seen().answered, end.seen().asked);
}

/// It has nothing to say. We hear nothing any more, and ask.
#[test]
fn a_peer_that_lost_the_session_gets_a_new_one_by_a_client() {
    let lab = Lab::new().unwrap();
    let mut pair = Pair::lay(&lab, "listens").unwrap();
    let mut end = pair.end(Role::Controlling, Clock::fast()).unwrap();
    end.converse("a first answer", DEADLINE, |seen| seen.answered > 0).unwrap();

    for _ in 0..3 {
        end.fall_silent(DEADLINE).unwrap();
        pair = pair.restart().unwrap();
        let (answered, initiations) = (end.seen().answered, end.seen().initiations_sent);
        end.converse("answers", DEADLINE, |seen| seen.answered >= answered + 10).unwrap();
        assert!(end.seen().initiations_sent > initiations);
        // What was sent in the session that it does not know is lost.
        end.forgive();
    }
}

/// As for a gateway, handshakes are the peer's affair.
#[test]
fn a_gateway_answers_one_session_after_the_other() {
    let lab = Lab::new().unwrap();
    let mut pair = Pair::lay(&lab, "gateway").unwrap();
    let mut end = pair.end(Role::Controlled, Clock::real()).unwrap();
    for session in 1..=6 {
        let probe = pair.probe().unwrap();
        let questions = end.seen().questions;
        end.listen("questions", DEADLINE, |seen| seen.questions >= questions + 10).unwrap();
        end.converse("answers", DEADLINE, |seen| seen.sessions() >= session).unwrap();
        end.fall_silent(DEADLINE).unwrap();
        probe.stop().unwrap();
        if session < 6 {
            pair = pair.restart().unwrap();
        }
    }
    assert_eq!(end.seen().answered, end.seen().asked);
    assert_eq!(end.seen().initiations_sent, 0, "{:?}", end.seen());
    assert!(end.seen().initiations_received >= 6, "{:?}", end.seen());
}
