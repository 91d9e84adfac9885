//! What Prometheus reads (text format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connlib_relay::server::{Method, Traffic};

use crate::fast_path::{FastPath, Interface};
use crate::worker::{IoCounters, Snapshot, Stats};

/// The numbers of all parts of the relay. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    workers: Vec<Arc<Stats>>,
    fast_path: FastPath,
    is_in_portal: Option<AtomicBool>,
    is_draining: AtomicBool,
}

impl Metrics {
    pub(crate) fn new(workers: Vec<Arc<Stats>>, fast_path: FastPath, has_portal: bool) -> Self {
        Self(Arc::new(Shared {
            workers,
            fast_path,
            is_in_portal: has_portal.then(AtomicBool::default),
            is_draining: AtomicBool::default(),
        }))
    }

    pub(crate) fn set_in_portal(&self, is_in: bool) {
        if let Some(is_in_portal) = &self.0.is_in_portal {
            is_in_portal.store(is_in, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_draining(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
    }

    /// Allocations of all workers.
    pub(crate) fn allocations(&self) -> usize {
        self.0.workers.iter().map(|stats| stats.latest().allocations).sum()
    }

    /// The text.
    pub(crate) fn write(&self) -> String {
        let workers: Vec<Snapshot> = self.0.workers.iter().map(|stats| stats.latest()).collect();
        let mut text = Text::default();
        text.family("build_info", "gauge", "The program that runs here.");
        text.sample("build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
        if let Some(is_in_portal) = &self.0.is_in_portal {
            text.family(
                "portal_connected",
                "gauge",
                "Whether the portal tells others of this relay.",
            );
            text.sample("portal_connected", &[], u64::from(is_in_portal.load(Ordering::Relaxed)));
        }
        text.family(
            "draining",
            "gauge",
            "Whether the relay is about to end and takes no new allocations.",
        );
        text.sample("draining", &[], u64::from(self.0.is_draining.load(Ordering::Relaxed)));
        let interfaces = self.0.fast_path.interfaces();
        if !interfaces.is_empty() {
            text.family(
                "xdp_attached",
                "gauge",
                "Whether the XDP program is attached to an interface, and how.",
            );
        }
        for Interface { name, mode } in interfaces {
            let is_attached = u64::from(mode.is_some());
            let mode = mode.map_or_else(|| "off".to_owned(), |mode| mode.to_string());
            text.sample("xdp_attached", &[("interface", &name), ("mode", &mode)], is_attached);
        }
        self.write_relaying(&mut text, &workers);
        write_workers(&mut text, &workers);
        text.0
    }

    fn write_relaying(&self, text: &mut Text, workers: &[Snapshot]) {
        let mut responses = BTreeMap::<(Method, Option<u16>), u64>::new();
        let mut drops = BTreeMap::<&str, u64>::new();
        let [mut to_peers, mut to_clients] = [Traffic::default(); 2];
        let mut allocations = 0;
        for Snapshot { server, io, .. } in workers {
            for (method, code, count) in server.responses() {
                *responses.entry((method, code)).or_default() += count;
            }
            let by_server = server.drops().map(|(reason, count)| (reason.name(), count));
            for (reason, count) in by_server.chain(drops_of_io(io)) {
                *drops.entry(reason).or_default() += count;
            }
            add(&mut to_peers, &server.to_peers);
            add(&mut to_clients, &server.to_clients);
            allocations += server.allocations;
        }
        text.family("allocations_total", "counter", "Allocations made.");
        text.sample("allocations_total", &[], allocations);

        text.family(
            "responses_total",
            "counter",
            "Responses by method, class and error code (0: none).",
        );
        for ((method, code), count) in responses {
            let class = if code.is_some() { "error" } else { "success" };
            let labels: Labels<'_> =
                &[("method", &method.name()), ("class", &class), ("code", &code.unwrap_or(0))];
            text.sample("responses_total", labels, count);
        }

        let fast = self.0.fast_path.counters();
        let relayed = [
            ("userspace", "to_peer", to_peers),
            ("userspace", "to_client", to_clients),
            ("xdp", "to_peer", fast.to_peers),
            ("xdp", "to_client", fast.to_clients),
        ];
        for (name, help, of) in [
            (
                "relayed_packets_total",
                "Datagrams relayed.",
                (|traffic| traffic.packets) as fn(&Traffic) -> u64,
            ),
            ("relayed_bytes_total", "Payload of the datagrams relayed.", |traffic| traffic.bytes),
        ] {
            text.family(name, "counter", help);
            for (datapath, direction, traffic) in &relayed {
                text.sample(name, &[("datapath", datapath), ("direction", direction)], of(traffic));
            }
        }

        if !fast.passed.is_empty() {
            text.family(
                "xdp_passed_total",
                "counter",
                "Packets that the XDP program left to user space, by reason.",
            );
        }
        for (reason, count) in fast.passed {
            text.sample("xdp_passed_total", &[("reason", &format!("{reason:?}"))], count);
        }

        text.family(
            "drops_total",
            "counter",
            "Datagrams and messages that came to nothing, by reason.",
        );
        for (reason, count) in drops {
            text.sample("drops_total", &[("reason", &reason)], count);
        }
    }
}

fn add(sum: &mut Traffic, traffic: &Traffic) {
    sum.packets += traffic.packets;
    sum.bytes += traffic.bytes;
}

fn drops_of_io(io: &IoCounters) -> [(&'static str, u64); 4] {
    [
        ("send_buffer_full", io.send_buffer_full),
        ("send_refused", io.send_refused),
        ("stream_full", io.stream_full),
        ("stream_gone", io.stream_gone),
    ]
}

fn write_workers(text: &mut Text, workers: &[Snapshot]) {
    type Number = fn(&Snapshot) -> u64;
    let families: [(&str, &str, &str, Number); 10] = [
        ("allocations", "gauge", "Allocations at present.", |worker| worker.allocations as u64),
        ("channels", "gauge", "Channels at present.", |worker| worker.channels as u64),
        ("streams", "gauge", "TCP and TLS connections at present.", |worker| worker.streams as u64),
        (
            "streams_accepted_total",
            "counter",
            "TCP and TLS connections that were accepted.",
            |worker| worker.io.streams_accepted,
        ),
        (
            "streams_refused_total",
            "counter",
            "TCP and TLS connections beyond the limits.",
            |worker| worker.io.streams_refused,
        ),
        (
            "streams_failed_total",
            "counter",
            "Connections closed for what their clients sent, or didn't.",
            |worker| worker.io.streams_failed,
        ),
        ("received_packets_total", "counter", "UDP datagrams received.", |worker| {
            worker.io.received.datagrams
        }),
        ("receive_calls_total", "counter", "System calls that received them.", |worker| {
            worker.io.received.calls
        }),
        ("sent_packets_total", "counter", "UDP datagrams sent.", |worker| worker.io.sent.datagrams),
        ("send_calls_total", "counter", "System calls that sent them.", |worker| {
            worker.io.sent.calls
        }),
    ];
    for (name, kind, help, number) in families {
        text.family(name, kind, help);
        for (index, worker) in workers.iter().enumerate() {
            text.sample(name, &[("worker", &index)], number(worker));
        }
    }
}

type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// Names are given without their common prefix.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.0,
            "# HELP connlib_relay_{name} {help}\n# TYPE connlib_relay_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: u64) {
        let _ = write!(self.0, "connlib_relay_{name}");
        for (index, (label, value)) in labels.iter().enumerate() {
            let value = value.to_string().replace('\\', r"\\").replace('"', "\\\"");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_quoted() {
        let mut text = Text::default();
        text.sample("x", &[("interface", &r#"a"b\c"#), ("mode", &"off")], 0);
        assert_eq!(text.0, "connlib_relay_x{interface=\"a\\\"b\\\\c\",mode=\"off\"} 0\n");
    }

    #[test]
    fn each_sample_has_a_family_and_workers_are_apart() {
        let stats: Vec<_> = (1..=2)
            .map(|n| {
                let stats = Stats::default();
                stats.publish(Snapshot { allocations: n, ..Snapshot::default() });
                Arc::new(stats)
            })
            .collect();
        let metrics = Metrics::new(stats, FastPath::default(), true);
        metrics.set_in_portal(true);
        assert_eq!(metrics.allocations(), 3);
        let text = metrics.write();
        for line in [
            "connlib_relay_portal_connected 1",
            "connlib_relay_allocations{worker=\"0\"} 1",
            "connlib_relay_allocations{worker=\"1\"} 2",
            "connlib_relay_relayed_bytes_total{datapath=\"xdp\",direction=\"to_peer\"} 0",
            "connlib_relay_drops_total{reason=\"malformed\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let mut family = "";
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => family = rest.split(' ').next().unwrap(),
                None if line.starts_with('#') => {}
                None => assert_eq!(line.split(['{', ' ']).next().unwrap(), family),
            }
        }
    }
}
