//! What the packet path allocates: the real tunnels of a client and a gateway, joined in memory, with a counting
//! allocator under them.
//!
//! Counted is everything that a host does for a packet apart from system calls: taking it from the TUN device, sealing,
//! opening, translating and joining it for the other TUN device, polling for output, and the timers that run meanwhile.

mod pair;
mod templates;

use anyhow::{Result, ensure};
use serde::Serialize;

use self::{
    pair::{Direction, Pair},
    templates::Template,
};

/// What timers allocate now and then does not count as an allocation per packet.
const TOLERANCE: f64 = 0.01;
/// Buffers may grow to their size before it counts.
const WARM_UP: u32 = 5_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// How many packets go each way in each case, once everything is warm
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1000..))]
    packets: u32,
}

/// One case and what it allocated.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    resource: &'static str,
    traffic: &'static str,
    direction: Direction,
    packets: u32,
    allocations: u64,
    bytes: u64,
    per_packet: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rows = measure(arguments.packets)?;
    if arguments.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        println!(
            "resource  traffic               direction  packets  allocations    bytes  per packet"
        );
        for row in &rows {
            println!(
                "{:<8}  {:<20}  {:<9}  {:>7}  {:>11}  {:>7}  {:>10.4}",
                row.resource,
                row.traffic,
                row.direction.name(),
                row.packets,
                row.allocations,
                row.bytes,
                row.per_packet,
            );
        }
    }
    let worst = rows.iter().map(|row| row.per_packet).fold(0.0, f64::max);
    ensure!(worst <= TOLERANCE, "{worst:.4} allocations per packet; there should be none");
    Ok(())
}

/// Steady traffic of each kind to each kind of resource, both ways.
fn measure(packets: u32) -> Result<Vec<Row>> {
    let mut pair = Pair::connect()?;
    let mut rows = Vec::new();
    for (resource, address) in [("network", pair.network()), ("name", pair.name()?)] {
        for (traffic, make) in templates::KINDS {
            let up = make(pair.client_socket(), (address, templates::PORT).into())?;
            let first = pair.deliver(Direction::Up, &up)?;
            // Answers come from where the gateway sent the questions to.
            let down = make(first.destination, first.source)?;
            for (direction, template) in [(Direction::Up, &up), (Direction::Down, &down)] {
                send(&mut pair, direction, template, WARM_UP)?;
                let mut result = Ok(0);
                let counted = allocation_counter::measure(|| {
                    result = send(&mut pair, direction, template, packets);
                });
                let packets = result?;
                rows.push(Row {
                    resource,
                    traffic,
                    direction,
                    packets,
                    allocations: counted.count_total,
                    bytes: counted.bytes_total,
                    per_packet: counted.count_total as f64 / f64::from(packets),
                });
            }
        }
    }
    Ok(rows)
}

/// Sends the template until so many packets have arrived; says how many did.
fn send(pair: &mut Pair, direction: Direction, template: &Template, packets: u32) -> Result<u32> {
    let mut arrived = 0;
    while arrived < packets {
        arrived += pair.deliver(direction, template)?.packets;
    }
    Ok(arrived)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_traffic_allocates_nothing() {
        let rows = measure(10_000).unwrap();
        assert_eq!(rows.len(), 12);
        for row in rows {
            assert!(row.packets >= 10_000 && row.per_packet <= TOLERANCE, "{row:?}");
        }
    }

    #[test]
    fn an_allocation_is_noticed() {
        let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 10])));
        assert_eq!((counted.count_total, counted.bytes_total), (1, 10));
    }
}
