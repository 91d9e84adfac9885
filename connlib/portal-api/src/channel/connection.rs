//! The peer's end of one connection. A new connection gets a new [`Channel`].

mod output;

pub use output::{Closed, Event, Output};

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::{Disconnect, Frame, HEARTBEAT_TOPIC, InvalidFrame, Reply, event};
use crate::messages::Message;
use crate::wire::shorten;

/// How long the portal may take to let us in.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// With more heartbeats than that unanswered, the connection is dead.
const MAX_UNANSWERED: u32 = 3;
/// The most messages that wait.
const MAX_QUEUED: usize = 32;

/// The peer's end of one connection, from the join on.
pub struct Channel {
    topic: &'static str,
    join: Value,
    state: State,
    next_reference: u64,
    /// Messages that wait until we have joined and the socket takes them; at most [`MAX_QUEUED`].
    queue: VecDeque<(&'static str, Value)>,
    events: VecDeque<Event>,
    /// The socket has not yet taken the last frame.
    writing: bool,
    heartbeat_at: Instant,
    heartbeat_due: bool,
    /// Heartbeats since the last answer to one.
    unanswered: u32,
}

enum State {
    /// The join is written, or waits to be (without a reference).
    Joining {
        reference: Option<u64>,
        deadline: Instant,
    },
    Joined {
        reference: u64,
    },
    Closed(Closed),
}

/// Too many messages wait for the portal already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("32 messages wait for the portal already")]
pub struct QueueFull;

impl Channel {
    /// The channel of a connection that was made just now. Joins at once.
    pub fn new(topic: &'static str, join: Value, now: Instant) -> Self {
        Self {
            topic,
            join,
            state: State::Joining { reference: None, deadline: now + JOIN_TIMEOUT },
            next_reference: 0,
            queue: VecDeque::new(),
            events: VecDeque::new(),
            writing: false,
            heartbeat_at: now + HEARTBEAT_INTERVAL,
            heartbeat_due: false,
            unanswered: 0,
        }
    }

    /// Sends a message, once we have joined. One that waits already in the same words is not sent twice.
    ///
    /// # Errors
    /// If 32 messages wait already.
    pub fn send<M: Message>(&mut self, message: &M) -> Result<(), QueueFull> {
        let message = (message.event(), message.payload());
        if self.queue.contains(&message) {
            return Ok(());
        }
        if self.queue.len() == MAX_QUEUED {
            return Err(QueueFull);
        }
        self.queue.push_back(message);
        Ok(())
    }

    /// A text frame arrived.
    ///
    /// # Errors
    /// If it is not a frame. The channel goes on.
    pub fn handle_text(&mut self, text: &str, now: Instant) -> Result<(), InvalidFrame> {
        let frame = Frame::parse(text)?;
        if frame.topic == HEARTBEAT_TOPIC {
            // Whatever it says about the heartbeat: the portal is there.
            self.unanswered = 0;
        } else if frame.topic != self.topic {
            tracing::debug!(topic = %frame.topic, event = %frame.event, "Frame of another topic");
        } else {
            match &*frame.event {
                event::REPLY => self.handle_reply(&frame, now),
                event::ERROR => tracing::debug!("The portal's end of the channel broke"),
                event::CLOSE => self.close(Closed::ByPortal),
                event::DISCONNECT => {
                    let reason = Disconnect::deserialize(frame.payload)
                        .map_or_else(|_| String::new(), |disconnect| disconnect.reason);
                    self.close(Closed::SessionEnded { reason: shorten(&reason) });
                }
                _ => self.events.push_back(Event::Frame(frame)),
            }
        }
        Ok(())
    }

    /// The socket has taken the last [`Output::Transmit`].
    pub fn handle_written(&mut self) {
        self.writing = false;
    }

    /// The time of the last [`Output::Timeout`] has come. Harmless if it has not.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let State::Joining { deadline, .. } = self.state
            && now >= deadline
        {
            return self.close(Closed::JoinTimedOut);
        }
        if now < self.heartbeat_at {
            return;
        }
        if self.unanswered > MAX_UNANSWERED {
            return self.close(Closed::HeartbeatsUnanswered);
        }
        // Counts even if the socket has not taken the last one yet: it is stuck then.
        self.unanswered += 1;
        self.heartbeat_due = true;
        self.heartbeat_at = now + HEARTBEAT_INTERVAL;
    }

    /// What to do next. Call it until it returns [`Output::Timeout`] or [`Output::Closed`].
    pub fn poll_output(&mut self) -> Output {
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        if let State::Closed(reason) = &self.state {
            return Output::Closed(reason.clone());
        }
        if !self.writing
            && let Some(frame) = self.next_frame()
        {
            self.writing = true;
            return Output::Transmit(frame.to_text());
        }
        Output::Timeout(match self.state {
            State::Joining { deadline, .. } => deadline.min(self.heartbeat_at),
            State::Joined { .. } | State::Closed(_) => self.heartbeat_at,
        })
    }

    fn next_frame(&mut self) -> Option<Frame> {
        let number = self.next_reference;
        let frame = match &mut self.state {
            State::Joining { reference: reference @ None, .. } => {
                *reference = Some(number);
                Frame::join(self.topic, self.join.clone(), number)
            }
            _ if std::mem::take(&mut self.heartbeat_due) => Frame::heartbeat(number),
            State::Joined { .. } => {
                let (event, payload) = self.queue.pop_front()?;
                Frame::new(self.topic, event, payload, Some(number))
            }
            State::Joining { .. } | State::Closed(_) => return None,
        };
        self.next_reference += 1;
        Some(frame)
    }

    fn handle_reply(&mut self, frame: &Frame, now: Instant) {
        let Some((reply, number)) = Reply::parse(&frame.payload).zip(frame.reference) else {
            tracing::debug!("Reply of an unknown form");
            return;
        };
        match (&self.state, reply) {
            (State::Joining { reference: Some(join), .. }, Reply::Ok) if *join == number => {
                self.state = State::Joined { reference: number };
                self.events.push_back(Event::Joined);
            }
            (State::Joining { reference: Some(join), .. }, Reply::Error { reason })
                if *join == number =>
            {
                self.close(Closed::JoinRefused { reason: shorten(&reason) });
            }
            // A frame from before the last join says nothing about that join.
            (State::Joined { reference: join }, Reply::Error { reason })
                if reason == Reply::UNMATCHED_TOPIC && number > *join =>
            {
                tracing::debug!("The portal does not know that we joined: joining again");
                self.state = State::Joining { reference: None, deadline: now + JOIN_TIMEOUT };
            }
            (_, Reply::Error { reason }) => {
                tracing::info!(reason = shorten(&reason), "The portal refused a message");
            }
            (_, Reply::Ok) => {}
        }
    }

    /// The first reason counts.
    fn close(&mut self, reason: Closed) {
        if !matches!(self.state, State::Closed(_)) {
            self.state = State::Closed(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::GatewayId;
    use crate::messages::client::{GatewayIceCandidates, ToPortal};

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn joins_first_and_holds_messages_until_the_portal_agrees() {
        let mut peer = Peer::new();
        peer.channel.send(&candidates(1)).unwrap();
        peer.channel.send(&candidates(2)).unwrap();
        assert_eq!(peer.drain(), ["phx_join 0"]);
        peer.reply_ok(0);
        assert_eq!(
            peer.drain(),
            ["joined", "new_gateway_ice_candidates 1", "new_gateway_ice_candidates 2"]
        );
        peer.channel.send(&ToPortal::NoRelays).unwrap();
        assert_eq!(peer.drain(), ["no_relays 3"]);
    }

    #[test]
    fn a_message_in_the_same_words_waits_only_once() {
        let mut peer = Peer::new();
        peer.drain();
        for _ in 0..100 {
            peer.channel.send(&candidates(1)).unwrap();
            peer.channel.send(&ToPortal::NoRelays).unwrap();
        }
        peer.reply_ok(0);
        assert_eq!(peer.drain()[1..], ["new_gateway_ice_candidates 1", "no_relays 2"]);
        // It waits no more, so that it may be said again.
        peer.channel.send(&ToPortal::NoRelays).unwrap();
        assert_eq!(peer.drain(), ["no_relays 3"]);
    }

    #[test]
    fn at_most_32_messages_wait_and_the_last_one_is_refused() {
        let mut peer = Peer::new();
        peer.drain();
        for number in 0..32 {
            peer.channel.send(&candidates(number)).unwrap();
        }
        assert_eq!(peer.channel.send(&candidates(32)), Err(QueueFull));
        assert_eq!(peer.channel.send(&candidates(31)), Ok(()));
        peer.reply_ok(0);
        assert_eq!(peer.drain().len(), 1 + 32);
        assert_eq!(peer.channel.send(&candidates(32)), Ok(()));
    }

    #[test]
    fn nothing_is_written_while_the_socket_is_busy() {
        let mut peer = Peer::joined();
        peer.channel.send(&candidates(1)).unwrap();
        peer.channel.send(&candidates(2)).unwrap();
        assert!(matches!(peer.channel.poll_output(), Output::Transmit(_)));
        assert!(matches!(peer.channel.poll_output(), Output::Timeout(_)));
        peer.channel.handle_written();
        assert_eq!(peer.drain(), ["new_gateway_ice_candidates 2"]);
    }

    #[test]
    fn a_join_without_answer_closes_after_5_s() {
        let mut peer = Peer::new();
        assert_eq!(peer.drain(), ["phx_join 0"]);
        peer.advance(4 * S);
        assert_eq!(peer.drain(), [""; 0]);
        peer.advance(S);
        assert_eq!(peer.closed(), Closed::JoinTimedOut);
    }

    #[test]
    fn a_refused_join_closes_with_the_reason() {
        let mut peer = Peer::new();
        peer.drain();
        peer.reply_error(0, "disabled\n");
        assert_eq!(peer.closed(), Closed::JoinRefused { reason: "disabled".into() });
    }

    #[test]
    fn an_answered_heartbeat_every_10_s_is_all_that_an_idle_channel_does() {
        let mut peer = Peer::joined();
        for number in 1..20 {
            let wake_at = peer.timeout();
            assert_eq!(wake_at, peer.now + 10 * S);
            peer.advance(10 * S);
            assert_eq!(peer.drain(), [format!("heartbeat {number}")]);
            let beat = Frame::heartbeat(number);
            peer.receive(&Frame::reply_ok(&beat));
            assert_eq!(peer.drain(), [""; 0]);
        }
    }

    #[test]
    fn more_than_3_unanswered_heartbeats_close() {
        let mut peer = Peer::joined();
        for number in 1..=4 {
            peer.advance(10 * S);
            assert_eq!(peer.drain(), [format!("heartbeat {number}")]);
        }
        peer.advance(10 * S);
        assert_eq!(peer.closed(), Closed::HeartbeatsUnanswered);
    }

    #[test]
    fn one_answer_makes_up_for_heartbeats_that_were_lost() {
        let mut peer = Peer::joined();
        for _ in 0..5 {
            for _ in 0..4 {
                peer.advance(10 * S);
            }
            peer.receive(&Frame::reply_ok(&Frame::heartbeat(1)));
        }
        assert!(peer.drain().iter().all(|output| output.starts_with("heartbeat")));
    }

    #[test]
    fn a_stuck_socket_counts_as_unanswered() {
        let mut peer = Peer::joined();
        peer.channel.send(&ToPortal::NoRelays).unwrap();
        assert!(matches!(peer.channel.poll_output(), Output::Transmit(_)));
        for _ in 0..5 {
            peer.now += 10 * S;
            peer.channel.handle_timeout(peer.now);
        }
        assert_eq!(peer.channel.poll_output(), Output::Closed(Closed::HeartbeatsUnanswered));
    }

    #[test]
    fn a_channel_that_the_portal_forgot_is_joined_again() {
        let mut peer = Peer::joined();
        peer.channel.send(&candidates(1)).unwrap();
        peer.channel.send(&candidates(2)).unwrap();
        peer.drain();
        peer.reply_error(1, Reply::UNMATCHED_TOPIC);
        peer.channel.send(&candidates(3)).unwrap();
        assert_eq!(peer.drain(), ["phx_join 3"]);
        // The other message from before says nothing about the new join.
        peer.reply_error(2, Reply::UNMATCHED_TOPIC);
        assert_eq!(peer.drain(), [""; 0]);
        peer.reply_ok(3);
        assert_eq!(peer.drain(), ["joined", "new_gateway_ice_candidates 4"]);
        peer.reply_error(2, Reply::UNMATCHED_TOPIC);
        assert_eq!(peer.drain(), [""; 0]);
    }

    #[test]
    fn joining_again_has_its_own_5_s() {
        let mut peer = Peer::joined();
        peer.channel.send(&ToPortal::NoRelays).unwrap();
        peer.drain();
        peer.advance(7 * S);
        peer.reply_error(1, Reply::UNMATCHED_TOPIC);
        peer.drain();
        peer.advance(4 * S);
        assert_eq!(peer.drain(), ["heartbeat 3"]);
        peer.advance(S);
        assert_eq!(peer.closed(), Closed::JoinTimedOut);
    }

    #[test]
    fn a_refused_message_changes_nothing() {
        let mut peer = Peer::joined();
        peer.channel.send(&ToPortal::NoRelays).unwrap();
        peer.drain();
        peer.reply_error(1, "invalid_version");
        assert_eq!(peer.drain(), [""; 0]);
    }

    #[test]
    fn the_portal_ends_the_session_with_a_reason() {
        for (payload, reason) in [
            (json!({"reason": "token_expired"}), Disconnect::TOKEN_EXPIRED),
            (json!({"reason": "certificate_revoked"}), Disconnect::CERTIFICATE_REVOKED),
            (json!({}), ""),
            (json!([1]), ""),
        ] {
            let mut peer = Peer::joined();
            peer.receive(&Frame::new("client", event::DISCONNECT, payload, None));
            assert_eq!(peer.closed(), Closed::SessionEnded { reason: reason.into() });
        }
    }

    #[test]
    fn close_closes_and_error_does_not() {
        let mut peer = Peer::joined();
        peer.receive(&Frame::new("client", event::ERROR, json!({}), None));
        assert_eq!(peer.drain(), [""; 0]);
        peer.receive(&Frame::new("client", event::CLOSE, json!({}), None));
        assert_eq!(peer.closed(), Closed::ByPortal);
        // The first reason stays.
        peer.advance(100 * S);
        assert_eq!(peer.closed(), Closed::ByPortal);
    }

    #[test]
    fn messages_of_our_topic_come_out_and_others_do_not() {
        let mut peer = Peer::joined();
        peer.receive(&Frame::new("client", "init", json!({}), None));
        peer.receive(&Frame::new("gateway", "init", json!({}), None));
        peer.receive(&Frame::new("client", "made_up", json!({}), None));
        assert_eq!(peer.drain(), ["init", "made_up"]);
    }

    #[test]
    fn what_is_not_a_frame_is_an_error_and_changes_nothing() {
        let mut peer = Peer::joined();
        for text in ["", "{}", "[1]", "{\"topic\":\"client\"}", "\u{0}"] {
            assert!(peer.channel.handle_text(text, peer.now).is_err());
        }
        for payload in [json!(null), json!({"status": 1}), json!({"status": "maybe"})] {
            peer.receive(&Frame::new("client", event::REPLY, payload, Some(0)));
        }
        assert_eq!(peer.drain(), [""; 0]);
    }

    fn candidates(number: u128) -> ToPortal {
        ToPortal::NewGatewayIceCandidates(GatewayIceCandidates {
            gateway_id: GatewayId::from_u128(number),
            candidates: vec!["candidate:1".to_owned()].into(),
        })
    }

    /// A channel in virtual time, on a socket that takes everything.
    struct Peer {
        channel: Channel,
        now: Instant,
    }

    impl Peer {
        fn new() -> Self {
            let now = Instant::now();
            Self { channel: Channel::new("client", Value::Null, now), now }
        }

        fn joined() -> Self {
            let mut peer = Self::new();
            peer.drain();
            peer.reply_ok(0);
            assert_eq!(peer.drain(), ["joined"]);
            peer
        }

        fn advance(&mut self, by: Duration) {
            self.now += by;
            self.channel.handle_timeout(self.now);
        }

        fn receive(&mut self, frame: &Frame) {
            self.channel.handle_text(&frame.to_text(), self.now).unwrap();
        }

        fn reply_ok(&mut self, reference: u64) {
            self.receive(&Frame::reply_ok(&Frame::join("client", Value::Null, reference)));
        }

        fn reply_error(&mut self, reference: u64, reason: &str) {
            let to = Frame::join("client", Value::Null, reference);
            self.receive(&Frame::reply_error(&to, reason));
        }

        /// What came out, in words, until the channel wants to wait.
        fn drain(&mut self) -> Vec<String> {
            let mut outputs = Vec::new();
            loop {
                match self.channel.poll_output() {
                    Output::Transmit(text) => {
                        let frame = Frame::parse(&text).unwrap();
                        outputs.push(format!("{} {}", frame.event, frame.reference.unwrap()));
                        self.channel.handle_written();
                    }
                    Output::Event(Event::Joined) => outputs.push("joined".to_owned()),
                    Output::Event(Event::Frame(frame)) => outputs.push(frame.event.into_owned()),
                    Output::Closed(reason) => panic!("closed: {reason}"),
                    Output::Timeout(at) => {
                        assert!(at > self.now, "a timeout in the past spins");
                        return outputs;
                    }
                }
            }
        }

        fn timeout(&mut self) -> Instant {
            match self.channel.poll_output() {
                Output::Timeout(at) => at,
                other => panic!("{other:?}"),
            }
        }

        fn closed(&mut self) -> Closed {
            match self.channel.poll_output() {
                Output::Closed(reason) => reason,
                other => panic!("{other:?}"),
            }
        }
    }
}
