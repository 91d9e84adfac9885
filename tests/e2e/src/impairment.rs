//! What a bad link does to packets, as a state machine: no socket, no clock, deterministic.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::payload::next_word;

/// The faults of a link, the same in both directions. The default has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Impairment {
    /// Added to every packet, one way.
    pub delay: Duration,
    /// Up to this much more, evenly spread. It does not change the order of packets.
    pub jitter: Duration,
    /// The share of packets that vanish, 0 to 1.
    pub loss: f64,
    /// The share of packets, 0 to 1, that are held back until later ones have overtaken them.
    pub reordering: f64,
    /// The share of ECN-capable packets, 0 to 1, that are marked "congestion experienced".
    pub congestion: f64,
    /// Bits per second; unlimited if absent.
    pub rate: Option<u64>,
    /// How long a packet may wait for the rate before it is dropped.
    pub queue: Duration,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reordering: 0.0,
            congestion: 0.0,
            rate: None,
            queue: Duration::from_millis(50),
        }
    }
}

/// How long a reordered packet is held back beyond its time.
const HELD_BACK: Duration = Duration::from_millis(5);

/// Frames that wait for their time. More than any test has in flight; beyond, new ones are dropped.
const CAPACITY: usize = 1 << 16;

/// One direction of an impaired link.
///
/// A link models a path through the internet, of which Ethernet is no part: multicast, ARP and IPv6
/// neighbour discovery pass untouched and without delay.
#[derive(Debug)]
pub struct Direction {
    impairment: Impairment,
    random: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    count: u64,
    /// When the link has sent all it was given, at its rate.
    idle_at: Option<Instant>,
    /// No packet in order leaves before this.
    last_release: Option<Instant>,
    spare: Vec<Vec<u8>>,
}

struct Fate {
    release: Instant,
    is_marked: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    release: Instant,
    number: u64,
    frame: Vec<u8>,
}

impl Direction {
    /// A direction whose random decisions follow from `seed`.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            random: seed,
            waiting: BinaryHeap::new(),
            count: 0,
            idle_at: None,
            last_release: None,
            spare: Vec::new(),
        }
    }

    /// Other faults from now on. What waits keeps its time.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// Takes in a frame that was sent at `now`.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        if self.waiting.len() >= CAPACITY {
            return;
        }
        let Some(Fate { release, is_marked }) = self.fate(frame, now) else { return };
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        if is_marked {
            mark_congestion(&mut copy);
        }
        self.waiting.push(Reverse(Waiting { release, number: self.count, frame: copy }));
        self.count += 1;
    }

    /// The next frame whose time has come; give it back by [`recycle`](Self::recycle).
    pub fn poll_frame(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_release()? > now {
            return None;
        }
        self.waiting.pop().map(|Reverse(waiting)| waiting.frame)
    }

    /// When [`poll_frame`](Self::poll_frame) has something next.
    pub fn next_release(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(waiting)| waiting.release)
    }

    /// Takes back a frame's memory.
    pub fn recycle(&mut self, frame: Vec<u8>) {
        self.spare.push(frame);
    }

    /// When and how a frame arrives at the other end, if it does.
    fn fate(&mut self, frame: &[u8], now: Instant) -> Option<Fate> {
        if !crosses_internet(frame) {
            return Some(Fate { release: now, is_marked: false });
        }
        // Every packet draws the same number of times: one fault must not shift another's luck.
        let is_lost = self.happens(self.impairment.loss);
        let is_held_back = self.happens(self.impairment.reordering);
        let is_marked = self.happens(self.impairment.congestion);
        let jitter = self.impairment.jitter.mul_f64(self.draw());
        if is_lost {
            return None;
        }

        let mut sent = now;
        if let Some(rate) = self.impairment.rate {
            let start = self.idle_at.map_or(now, |idle| idle.max(now));
            if start - now > self.impairment.queue {
                return None;
            }
            sent = start + Duration::from_secs_f64(frame.len() as f64 * 8.0 / rate as f64);
            self.idle_at = Some(sent);
        }

        let arrival = sent + self.impairment.delay + jitter;
        if is_held_back {
            return Some(Fate { release: arrival + HELD_BACK, is_marked });
        }
        let release = self.last_release.map_or(arrival, |last| last.max(arrival));
        self.last_release = Some(release);
        Some(Fate { release, is_marked })
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.draw() < probability
    }

    /// A number from 0 up to but not including 1.
    fn draw(&mut self) -> f64 {
        (next_word(&mut self.random) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

const ETHERNET: usize = 14;
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

fn crosses_internet(frame: &[u8]) -> bool {
    let is_multicast = frame.first().is_some_and(|byte| byte & 1 == 1);
    if is_multicast {
        return false;
    }
    match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => true,
        Some([0x86, 0xdd]) => {
            let is_icmp = frame.get(ETHERNET + 6) == Some(&58);
            let kind = frame.get(ETHERNET + 40);
            !(is_icmp && kind.is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind)))
        }
        _ => false,
    }
}

/// Sets "congestion experienced" where a sender said that it understands it (RFC 3168 §5).
fn mark_congestion(frame: &mut [u8]) {
    match frame.get_mut(ETHERNET..) {
        Some(packet @ [0x40..=0x4f, ..]) if packet.len() >= 20 => {
            let old = packet[1];
            if matches!(old & 3, 1 | 2) {
                packet[1] = old | 3;
                // RFC 1624 §3, for a word of which only the low byte changed.
                let sum = u16::from_be_bytes([packet[10], packet[11]]);
                let mut new = u32::from(!sum) + u32::from(!u16::from(old)) + u32::from(packet[1]);
                new = (new & 0xffff) + (new >> 16);
                new = (new & 0xffff) + (new >> 16);
                packet[10..12].copy_from_slice(&(!(new as u16)).to_be_bytes());
            }
        }
        Some(packet @ [0x60..=0x6f, ..]) if packet.len() >= 40 => {
            if matches!(packet[1] >> 4 & 3, 1 | 2) {
                packet[1] |= 3 << 4;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 frame that carries a number.
    fn frame(number: u32) -> Vec<u8> {
        let mut frame = vec![0; 14];
        frame[12] = 0x08;
        frame.extend([0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(number.to_be_bytes());
        frame
    }

    fn number(frame: &[u8]) -> u32 {
        u32::from_be_bytes(frame[34..38].try_into().unwrap())
    }

    /// Sends `count` frames a millisecond apart and returns each one's number and delay.
    fn deliver(impairment: &Impairment, seed: u64, count: u32) -> Vec<(u32, Duration)> {
        let mut direction = Direction::new(impairment.clone(), seed);
        let start = Instant::now();
        for index in 0..count {
            direction.handle_frame(&frame(index), start + Duration::from_millis(index.into()));
        }
        let mut arrived = Vec::new();
        while let Some(now) = direction.next_release() {
            let frame = direction.poll_frame(now).unwrap();
            let number = number(&frame);
            arrived.push((number, now - start - Duration::from_millis(number.into())));
        }
        arrived
    }

    #[test]
    fn without_faults_everything_passes_at_once() {
        let arrived = deliver(&Impairment::default(), 1, 1000);
        assert_eq!(arrived.len(), 1000);
        assert!(arrived.iter().all(|(_, delay)| delay.is_zero()));
    }

    #[test]
    fn the_seed_alone_decides_what_is_lost() {
        let lossy = Impairment { loss: 0.2, ..Impairment::default() };
        let numbers = |impairment, seed| -> Vec<u32> {
            deliver(impairment, seed, 10_000).into_iter().map(|(number, _)| number).collect()
        };
        let arrived = numbers(&lossy, 7);
        assert!((7_800..8_200).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(arrived, numbers(&lossy, 7));
        assert_ne!(arrived, numbers(&lossy, 8));

        let also_slow = Impairment { jitter: Duration::from_millis(9), ..lossy };
        assert_eq!(arrived, numbers(&also_slow, 7), "jitter changed who is lost");
    }

    #[test]
    fn jitter_delays_within_its_bounds_and_keeps_the_order() {
        let [delay, jitter] = [20, 10].map(Duration::from_millis);
        let arrived = deliver(&Impairment { delay, jitter, ..Impairment::default() }, 3, 1000);
        assert!(arrived.is_sorted_by_key(|(number, _)| *number));
        assert!(arrived.iter().all(|(_, actual)| (delay..=delay + jitter).contains(actual)));
        assert!(arrived.iter().any(|(_, actual)| *actual > delay + jitter / 2));
    }

    #[test]
    fn held_back_packets_are_overtaken_and_arrive() {
        let arrived = deliver(&Impairment { reordering: 0.1, ..Impairment::default() }, 3, 1000);
        assert_eq!(arrived.len(), 1000);
        assert!(!arrived.is_sorted_by_key(|(number, _)| *number));
    }

    #[test]
    fn a_rate_spaces_packets_out_and_drops_what_would_wait_too_long() {
        // A frame of 38 bytes takes 3.04 ms, and one comes every millisecond.
        let impairment = Impairment {
            rate: Some(100_000),
            queue: Duration::from_millis(30),
            ..Impairment::default()
        };
        let arrived = deliver(&impairment, 3, 300);
        assert!((100..115).contains(&arrived.len()), "{}", arrived.len());
        let longest = arrived.iter().map(|(_, delay)| *delay).max().unwrap();
        assert!((Duration::from_millis(30)..Duration::from_millis(34)).contains(&longest));
    }

    #[test]
    fn what_stays_on_a_link_is_never_touched() {
        let dead = Impairment { loss: 1.0, ..Impairment::default() };
        let mut direction = Direction::new(dead, 3);
        let now = Instant::now();
        let mut arp = frame(0);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let mut multicast = frame(0);
        multicast[0] = 0x33;
        direction.handle_frame(&arp, now);
        direction.handle_frame(&multicast, now);
        direction.handle_frame(&frame(1), now);
        assert_eq!(direction.poll_frame(now), Some(arp));
        assert_eq!(direction.poll_frame(now), Some(multicast));
        assert_eq!(direction.poll_frame(now), None);
    }

    #[test]
    fn only_capable_packets_are_marked_and_their_checksum_follows() {
        let congested = Impairment { congestion: 1.0, ..Impairment::default() };
        let mut direction = Direction::new(congested, 3);
        let now = Instant::now();
        for (sent, expected) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            let mut packet = frame(0);
            packet[15] = 0xb8 | sent;
            let sum = header_sum(&packet[14..34]);
            packet[24..26].copy_from_slice(&(!sum).to_be_bytes());
            assert_eq!(header_sum(&packet[14..34]), 0xffff);

            direction.handle_frame(&packet, now);
            let arrived = direction.poll_frame(now).unwrap();
            assert_eq!(arrived[15], 0xb8 | expected);
            assert_eq!(header_sum(&arrived[14..34]), 0xffff);
        }
    }

    fn header_sum(header: &[u8]) -> u16 {
        let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        ((sum & 0xffff) + (sum >> 16)) as u16
    }
}
