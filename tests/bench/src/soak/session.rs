//! One client's time at the relay: it comes, talks to peers, and goes one way or another.

use std::{
    collections::HashSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    client::{Client, Families, Identity, Received},
    echo,
    link::{Link, Transport},
    load::{Load, Vanished},
    network::{PEERS, any_client, place},
    payload,
};

/// How long clients stay, in seconds, and how long one of so many does: beyond what permissions last.
const STAYS: std::ops::RangeInclusive<u64> = 1..=15;
const LONG_STAYS: std::ops::RangeInclusive<u64> = 300..=700;
const ONE_LONG_OF: u32 = 100;
/// Between two runs of datagrams of a flow.
const TICK: Duration = Duration::from_millis(100);
const RUNS: std::ops::RangeInclusive<u32> = 0..=4;
/// Between what keeps an allocation alive, more often than it needs.
const UPKEEP: Duration = Duration::from_secs(7);
/// What takes longer to come back is lost.
const ROUND_TRIP: Duration = Duration::from_secs(3);

const FIRST_CHANNEL: u16 = 0x4000;
const CHANNELS: u16 = 0x1000;

/// Datagrams to one peer and back.
struct Flow {
    peer: SocketAddr,
    /// By indications if there is none.
    channel: Option<u16>,
}

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    GiveBack,
    Vanish,
    /// It comes again from elsewhere under the same name; what it had is left to expire.
    Return,
}

/// Clients, one after the other, until the load is to end.
pub(super) fn run(number: u64, load: &Load) {
    let mut rng = SmallRng::seed_from_u64(number);
    let mut previous = None;
    while !load.is_ending() {
        let transport = match rng.random_range(0..10) {
            0..6 => Transport::Udp,
            6..8 => Transport::Tcp,
            _ => Transport::Tls,
        };
        let identity = previous.take().unwrap_or_else(|| load.identity(&mut rng));
        match session(transport, identity.clone(), &mut rng, load) {
            Ok(End::Return) => {
                load.tally.returns.add(1);
                previous = Some(identity);
            }
            Ok(End::GiveBack | End::Vanish) => {}
            Err(error) => {
                load.tally.fail(&format!("{transport:?}"), &error);
                // Whatever it is, it is not to be made worse.
                thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

fn session(
    transport: Transport,
    identity: Identity,
    rng: &mut SmallRng,
    load: &Load,
) -> Result<End> {
    let local = SocketAddr::new(any_client(rng, rng.clone().random()), 0);
    let link = Link::open(transport, local, &load.tls)?;
    let mut client = Client::new(link, identity.clone(), SmallRng::from_rng(rng));
    let families = match rng.random_range(0..3) {
        0 => Families::Ip4,
        1 => Families::Ip6,
        _ => Families::Both,
    };
    let relayed = client.allocate(families).context("allocate")?;
    let wanted = if families == Families::Both { 2 } else { 1 };
    ensure!(relayed.len() == wanted, "{families:?} were asked for, and there are {relayed:?}");
    load.tally.sessions.add(1);

    let number = rng.random();
    let mut talk =
        Talk { flows: flows(&relayed, rng), number, next: 0, outstanding: HashSet::new() };
    talk.keep_up(&mut client).context("permissions and channels")?;
    let stays = if rng.random_ratio(1, ONE_LONG_OF) { LONG_STAYS } else { STAYS };
    let until = Instant::now() + Duration::from_secs(rng.random_range(stays));
    let mut upkeep = Instant::now() + UPKEEP;
    while Instant::now() < until && !load.is_ending() {
        talk.ask(&mut client, rng, load)?;
        talk.listen(&mut client, Instant::now() + TICK, false, load)?;
        if upkeep <= Instant::now() {
            client.refresh().context("refresh")?;
            talk.keep_up(&mut client).context("permissions and channels again")?;
            upkeep += UPKEEP;
        }
    }
    talk.listen(&mut client, Instant::now() + ROUND_TRIP, true, load)?;

    let end = match rng.random_range(0..10) {
        _ if load.is_ending() => End::GiveBack,
        0..7 => End::GiveBack,
        7..9 => End::Vanish,
        _ => End::Return,
    };
    if end == End::GiveBack {
        client.give_back().context("give back")?;
        return Ok(end);
    }
    load.tally.vanished.add(1);
    if transport == Transport::Udp {
        let (local, at) = (client.link().local(), Instant::now());
        load.vanish(Vanished { local, identity, at });
    }
    // Its peers still answer when it is gone.
    for flow in &talk.flows {
        flow.send(&mut client, &payload::of(number, talk.next))?;
    }
    Ok(end)
}

/// A peer of each family by a channel, another one by indications.
fn flows(relayed: &[SocketAddr], rng: &mut SmallRng) -> Vec<Flow> {
    let mut flows = Vec::new();
    for relayed in relayed {
        let ip = PEERS[place(relayed.is_ipv4())];
        let first = rng.random_range(echo::PORTS.start..echo::PORTS.end - 1);
        // Even for one family, odd for the other.
        let channel = rng.random_range(0..CHANNELS / 2) * 2 + u16::from(relayed.is_ipv4());
        let channel = FIRST_CHANNEL + channel;
        flows.push(Flow { peer: SocketAddr::new(ip, first), channel: Some(channel) });
        flows.push(Flow { peer: SocketAddr::new(ip, first + 1), channel: None });
    }
    flows
}

impl Flow {
    fn send(&self, client: &mut Client, payload: &[u8]) -> Result<()> {
        match self.channel {
            Some(channel) => client.send_by_channel(channel, payload),
            None => client.send_to(self.peer, payload),
        }
    }

    /// Whether this is how its peer's answers come.
    fn brings(&self, received: &Received) -> bool {
        match received {
            Received::Channel(channel, _) => self.channel == Some(*channel),
            Received::From(from, _) => self.channel.is_none() && self.peer == *from,
        }
    }
}

/// What a client says, and what is not answered yet.
struct Talk {
    flows: Vec<Flow>,
    number: u64,
    next: u32,
    /// By flow and number.
    outstanding: HashSet<(usize, u32)>,
}

impl Talk {
    /// Makes channels and permissions, or prolongs them.
    fn keep_up(&self, client: &mut Client) -> Result<()> {
        let peers: Vec<SocketAddr> = self.flows.iter().map(|flow| flow.peer).collect();
        client.permit(&peers)?;
        for Flow { peer, channel } in &self.flows {
            if let Some(channel) = channel {
                client.bind(*channel, *peer)?;
            }
        }
        Ok(())
    }

    fn ask(&mut self, client: &mut Client, rng: &mut SmallRng, load: &Load) -> Result<()> {
        for (index, flow) in self.flows.iter().enumerate() {
            for _ in 0..rng.random_range(RUNS) {
                flow.send(client, &payload::of(self.number, self.next))?;
                self.outstanding.insert((index, self.next));
                self.next += 1;
                load.tally.sent.add(1);
            }
        }
        Ok(())
    }

    /// Takes answers until a time, or until there are all.
    fn listen(
        &mut self,
        client: &mut Client,
        until: Instant,
        is_last: bool,
        load: &Load,
    ) -> Result<()> {
        while !(is_last && self.outstanding.is_empty()) {
            let Some(received) = client.receive(until)? else { break };
            let flow = self.flows.iter().position(|flow| flow.brings(&received));
            let (Received::Channel(_, payload) | Received::From(_, payload)) = &received;
            let number = payload::number(self.number, payload);
            let known = flow.zip(number).is_some_and(|answer| self.outstanding.remove(&answer));
            let counter = if known { &load.tally.received } else { &load.tally.damaged };
            counter.add(1);
        }
        Ok(())
    }
}
