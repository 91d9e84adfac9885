//! What must become of every packet.
//!
//! A probe is delivered once, to the right host, and its answer comes back once; or it is answered once by an ICMP error
//! of the right class. Nothing excuses a second delivery, a wrong address or what the policy forbids. A probe may be
//! missing only if the network lost the very datagram that it was in, or if it was sent while something was broken
//! or had just been mended: how long that may be is said where faults are made.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use connlib_packet::{IcmpError, Unreachable};
use connlib_tunnel::Service;

use crate::app::FlowId;

/// The number of a probe, never given twice in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub(crate) u32);

/// What the policy says about a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It arrives and is answered.
    Answer,
    /// It arrives at a host that says nothing.
    Delivery,
    /// It arrives at a host that says "port unreachable".
    ClosedPort,
    /// "Administratively prohibited".
    Prohibited,
    /// "Unreachable".
    Unreachable,
}

#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) flow: FlowId,
    pub(crate) client: usize,
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: IpAddr,
    pub(crate) service: Service,
    pub(crate) sent_at: Instant,
    expected: Expected,
    /// It was sent when all was well.
    is_strict: bool,
    delivered_to: Option<IpAddr>,
    answered_at: Option<Instant>,
    error: Option<IcmpError>,
    is_lost: bool,
    is_judged: bool,
}

/// How things are with one client.
#[derive(Debug, Clone, Copy)]
struct Condition {
    /// Something is broken, or has just been mended, until then.
    unsettled_until: Instant,
    /// When something last broke.
    broke_at: Option<Instant>,
    /// How long a probe may take.
    patience: Duration,
    /// Datagrams that were lost, of which nobody knows what was inside.
    unknown_losses: u64,
}

/// Counts of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Probes that were sent.
    pub sent: u64,
    /// Probes whose fate was as it must be.
    pub as_expected: u64,
    /// Probes that were sent when something was broken.
    pub excused: u64,
    /// Probes that the network lost.
    pub lost: u64,
}

#[derive(Debug)]
pub(crate) struct Model {
    start: Instant,
    probes: BTreeMap<ProbeId, Probe>,
    /// In the order in which their time is up.
    open: VecDeque<ProbeId>,
    conditions: BTreeMap<usize, Condition>,
    answers: BTreeMap<FlowId, Vec<Instant>>,
    pub(crate) tally: Tally,
    pub(crate) violations: Vec<String>,
}

impl Model {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            probes: BTreeMap::new(),
            open: VecDeque::new(),
            conditions: BTreeMap::new(),
            answers: BTreeMap::new(),
            tally: Tally::default(),
            violations: Vec::new(),
        }
    }

    pub(crate) fn add_client(&mut self, client: usize, patience: Duration, now: Instant) {
        let condition =
            Condition { unsettled_until: now, broke_at: None, patience, unknown_losses: 0 };
        self.conditions.insert(client, condition);
    }

    pub(crate) fn set_patience(&mut self, client: usize, patience: Duration) {
        if let Some(condition) = self.conditions.get_mut(&client) {
            condition.patience = condition.patience.max(patience);
        }
    }

    /// Something breaks now for a client, and is to be well again by `until`.
    pub(crate) fn unsettle(&mut self, client: usize, now: Instant, until: Instant) {
        if let Some(condition) = self.conditions.get_mut(&client) {
            condition.broke_at = Some(now);
            condition.unsettled_until = condition.unsettled_until.max(until);
        }
    }

    /// As [`unsettle`](Self::unsettle), if things aren't well already.
    pub(crate) fn prolong(&mut self, client: usize, since: Instant, until: Instant) {
        if let Some(condition) = self.conditions.get_mut(&client)
            && condition.unsettled_until > since
        {
            condition.unsettled_until = condition.unsettled_until.max(until);
        }
    }

    /// How long it is until all is well for a client.
    pub(crate) fn unsettled_for(&self, client: usize, now: Instant) -> Duration {
        let condition = self.conditions.get(&client);
        condition.map_or(Duration::ZERO, |it| it.unsettled_until.saturating_duration_since(now))
    }

    pub(crate) fn is_settled(&self, client: usize, now: Instant) -> bool {
        self.conditions.get(&client).is_some_and(|condition| now >= condition.unsettled_until)
    }

    /// Whether a flow has got an answer since all was well for its client.
    pub(crate) fn works(&self, flow: FlowId, client: usize) -> bool {
        let Some(condition) = self.conditions.get(&client) else { return false };
        let last = self.answers.get(&flow).and_then(|answers| answers.last());
        last.is_some_and(|at| *at >= condition.unsettled_until)
    }

    #[expect(clippy::too_many_arguments, reason = "it is a record")]
    pub(crate) fn send(
        &mut self,
        id: ProbeId,
        flow: FlowId,
        client: usize,
        source: (IpAddr, u16),
        destination: IpAddr,
        service: Service,
        expected: Expected,
        is_strict: bool,
        now: Instant,
    ) {
        let probe = Probe {
            flow,
            client,
            source,
            destination,
            service,
            sent_at: now,
            expected,
            is_strict: is_strict && self.is_settled(client, now),
            delivered_to: None,
            answered_at: None,
            error: None,
            is_lost: false,
            is_judged: false,
        };
        self.tally.sent += 1;
        self.probes.insert(id, probe);
        self.open.push_back(id);
    }

    pub(crate) fn probe(&self, id: ProbeId) -> Option<&Probe> {
        self.probes.get(&id)
    }

    /// It comes from a host, unasked: it is at one end of the way already.
    pub(crate) fn push(&mut self, id: ProbeId) {
        if let Some(probe) = self.probes.get_mut(&id) {
            probe.delivered_to = Some(probe.destination);
        }
    }

    /// It came out of a gateway.
    pub(crate) fn deliver(&mut self, id: ProbeId, host: IpAddr) {
        let Some(probe) = self.probes.get_mut(&id) else {
            return self.violate(id, "a probe that nobody sent was delivered");
        };
        if probe.delivered_to.replace(host).is_some() {
            self.violate(id, "delivered twice");
        }
    }

    /// Its answer came back.
    pub(crate) fn answer(&mut self, id: ProbeId, now: Instant) {
        let Some(probe) = self.probes.get_mut(&id) else {
            return self.violate(id, "the answer to a probe that nobody sent");
        };
        let was_delivered = probe.delivered_to.is_some();
        let flow = probe.flow;
        if probe.answered_at.replace(now).is_some() {
            self.violate(id, "answered twice");
        } else if !was_delivered {
            self.violate(id, "answered without being delivered");
        }
        self.answers.entry(flow).or_default().push(now);
    }

    /// An ICMP error about it came back.
    pub(crate) fn refuse(&mut self, id: ProbeId, error: IcmpError) {
        let Some(probe) = self.probes.get_mut(&id) else {
            return self.violate(id, "an error about a probe that nobody sent");
        };
        if probe.error.replace(error).is_some() {
            self.violate(id, "refused twice");
        } else if probe.answered_at.is_some() {
            self.violate(id, "refused and answered");
        }
    }

    /// The network lost a datagram; `cargo` if it is known what was inside.
    pub(crate) fn lose(&mut self, cargo: Option<ProbeId>, client: Option<usize>) {
        match cargo.and_then(|id| self.probes.get_mut(&id)) {
            Some(probe) => probe.is_lost = true,
            None => {
                let clients = self
                    .conditions
                    .iter_mut()
                    .filter(|(number, _)| client.is_none_or(|client| client == **number));
                clients.for_each(|(_, condition)| condition.unknown_losses += 1);
            }
        }
    }

    /// Judges the probes whose time is up; at the `end`, all.
    pub(crate) fn judge(&mut self, now: Instant) {
        while let Some(id) = self.open.front().copied() {
            let Some(probe) = self.probes.get(&id) else { break };
            let Some(condition) = self.conditions.get(&probe.client) else { break };
            if now < probe.sent_at + condition.patience {
                break;
            }
            self.open.pop_front();
            self.judge_one(id);
        }
    }

    /// What must not be.
    pub(crate) fn violate(&mut self, id: ProbeId, what: &str) {
        let probe = self.probes.get(&id);
        let at = probe.map(|probe| (probe.sent_at - self.start).as_secs_f64());
        self.violations.push(format!("{what}: {id:?} sent at {at:?}: {probe:?}"));
    }

    /// The longest time between two answers of a flow, from `from` to `to`.
    pub(crate) fn longest_silence(&self, flow: FlowId, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in self.answers.get(&flow).into_iter().flatten().chain([&to]) {
            if *at >= from && *at <= to {
                longest = longest.max(*at - last);
                last = *at;
            }
        }
        longest
    }

    /// How long after `from` a flow got its first answer.
    pub(crate) fn first_answer(&self, flow: FlowId, from: Instant) -> Duration {
        let mut answers = self.answers.get(&flow).into_iter().flatten();
        answers.find(|at| **at >= from).map_or(Duration::MAX, |at| *at - from)
    }

    /// How many answers a flow got from `from` to `to`.
    pub(crate) fn answers(&self, flow: FlowId, from: Instant, to: Instant) -> usize {
        let all = self.answers.get(&flow).into_iter().flatten();
        all.filter(|at| **at >= from && **at <= to).count()
    }

    /// The errors that probes of a flow got that were sent from `from` on.
    pub(crate) fn errors(&self, flow: FlowId, from: Instant) -> Vec<IcmpError> {
        let probes = self.probes.values().filter(|probe| probe.flow == flow);
        probes.filter(|probe| probe.sent_at >= from).filter_map(|probe| probe.error).collect()
    }

    /// Where the probes of a flow arrived that were sent from `from` on.
    pub(crate) fn hosts(&self, flow: FlowId, from: Instant) -> Vec<IpAddr> {
        let probes = self.probes.values().filter(|probe| probe.flow == flow);
        let mut hosts: Vec<IpAddr> =
            probes.filter(|probe| probe.sent_at >= from).filter_map(|p| p.delivered_to).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    fn judge_one(&mut self, id: ProbeId) {
        let Some(probe) = self.probes.get_mut(&id) else { return };
        let Some(condition) = self.conditions.get_mut(&probe.client) else { return };
        probe.is_judged = true;
        let outcome = probe.outcome();
        if outcome == Some(probe.expected) {
            self.tally.as_expected += 1;
            return;
        }
        let broke_meanwhile = condition.broke_at.is_some_and(|at| at >= probe.sent_at);
        if !probe.is_strict || broke_meanwhile {
            self.tally.excused += 1;
            return;
        }
        if outcome.is_none() && probe.is_lost {
            self.tally.lost += 1;
            return;
        }
        if outcome.is_none() && condition.unknown_losses > 0 {
            condition.unknown_losses -= 1;
            self.tally.lost += 1;
            return;
        }
        let what = format!("expected {:?}, got {outcome:?}", probe.expected);
        self.violate(id, &what);
    }
}

impl Probe {
    fn outcome(&self) -> Option<Expected> {
        match self.error {
            _ if self.answered_at.is_some() => Some(Expected::Answer),
            None if self.delivered_to.is_some() && self.expected == Expected::Delivery => {
                Some(Expected::Delivery)
            }
            Some(IcmpError::Unreachable(Unreachable::Prohibited)) => Some(Expected::Prohibited),
            Some(IcmpError::Unreachable(Unreachable::Port)) => Some(Expected::ClosedPort),
            Some(IcmpError::Unreachable(_)) => Some(Expected::Unreachable),
            _ => None,
        }
    }
}
