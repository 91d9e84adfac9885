use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use connlib_net::dns_control::{DnsControl, Settings};
use connlib_net::events::{Event, Events, Network};
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use crate::namespace::{Namespace, host, ip, ip_list, set_sysctl, wait_until};

/// A host on a local network with a way to the Internet, and a folder for its `resolv.conf`.
struct Lab {
    host: Namespace,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { host: host(), folder: tempfile::tempdir().unwrap() };
        lab.host.run(|| {
            ip("address add 192.168.1.5/24 dev lan");
            ip("route add default via 192.168.1.1");
        });
        fs::write(lab.resolv_conf(), "nameserver 192.0.2.1\n").unwrap();
        lab
    }

    fn resolv_conf(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    fn run(&self, test: impl AsyncFnOnce(&mut Events, &Path) + Send) {
        self.host.run_async(async || {
            let path = self.resolv_conf();
            test(&mut Events::new("tun", &path).unwrap(), &path).await;
        });
    }
}

async fn next(events: &mut Events) -> Event {
    let next = tokio::time::timeout(Duration::from_secs(10), events.next());
    next.await.expect("no event came")
}

/// Waits until the network is so; what happens on a link is announced in several steps.
async fn network_until(events: &mut Events, is_so: impl Fn(&Network) -> bool) {
    loop {
        match next(events).await {
            Event::NetworkChange(network) | Event::AddressesChanged(network) => {
                if is_so(&network) {
                    return;
                }
            }
            event => panic!("{event:?}"),
        }
    }
}

/// No event comes of what has happened so far: the clock is paused, and moves on only when nobody has anything to do.
async fn expect_quiet(events: &mut Events) {
    tokio::time::pause();
    let waiting = tokio::time::timeout(Duration::from_secs(60), events.next());
    if let Ok(event) = waiting.await {
        panic!("{event:?}");
    }
    tokio::time::resume();
}

fn addresses(network: &Network) -> Vec<String> {
    network.addresses.iter().map(|a| a.address.to_string()).collect()
}

fn servers(event: Event) -> Vec<String> {
    match event {
        Event::ResolversChanged(servers) => servers.iter().map(SocketAddr::to_string).collect(),
        event => panic!("{event:?}"),
    }
}

#[test]
fn addresses_come_and_go() {
    Lab::new().run(async |events, _| {
        assert_eq!(addresses(events.network()), ["192.168.1.5"]);
        assert_eq!(events.network().addresses[0].interface, if_nametoindex("lan").unwrap());

        ip("address add 2001:db8::5/64 dev lan");
        let both = ["192.168.1.5", "2001:db8::5"];
        network_until(events, |network| addresses(network) == both).await;
        ip("address del 192.168.1.5/24 dev lan");
        network_until(events, |network| addresses(network) == ["2001:db8::5"]).await;
        expect_quiet(events).await;
    });
}

#[test]
fn privacy_addresses_come_and_go_unnoticed_where_there_are_others() {
    Lab::new().run(async |events, _| {
        // `mngtmpaddr` makes the kernel add a temporary address beside this one.
        set_sysctl("net.ipv6.conf.lan.use_tempaddr", "2");
        ip("address add 2001:db8::5/64 dev lan mngtmpaddr");
        let listed = || ip_list("-6 address show dev lan temporary").len();
        wait_until("the kernel makes a temporary address", || listed() > 0);
        let both = ["192.168.1.5", "2001:db8::5"];
        network_until(events, |network| addresses(network) == both).await;
        expect_quiet(events).await;
    });
}

#[test]
fn several_changes_at_once_are_one_event() {
    Lab::new().run(async |events, _| {
        for i in 10..60 {
            ip(&format!("address add 192.168.1.{i}/24 dev lan"));
        }
        match next(events).await {
            Event::AddressesChanged(network) => assert_eq!(network.addresses.len(), 51),
            event => panic!("{event:?}"),
        }
        expect_quiet(events).await;
    });
}

#[test]
fn more_changes_than_the_kernel_keeps_for_us_are_one_event() {
    Lab::new().run(async |events, _| {
        let changes: String = (0..3000)
            .map(|i| format!("address add 10.1.{}.{}/32 dev lan\n", i / 250, i % 250))
            .collect();
        let batch = tempfile::NamedTempFile::new().unwrap();
        fs::write(batch.path(), changes).unwrap();
        ip(&format!("-batch {}", batch.path().display()));
        network_until(events, |network| network.addresses.len() == 3001).await;
        expect_quiet(events).await;
    });
}

#[test]
fn the_way_to_the_internet_changes() {
    Lab::new().run(async |events, _| {
        let gateway = |network: &Network| network.uplink_v4.and_then(|uplink| uplink.gateway);
        assert_eq!(gateway(events.network()), "192.168.1.1".parse().ok());
        ip("route replace default via 192.168.1.2");
        network_until(events, |network| gateway(network) == "192.168.1.2".parse().ok()).await;
        ip("route del default");
        network_until(events, |network| network.uplink_v4.is_none()).await;
        expect_quiet(events).await;
    });
}

#[test]
fn what_happens_beside_the_ways_out_leaves_them_as_they_are() {
    Lab::new().run(async |events, _| {
        ip("link add bridge type veth peer name container");
        ip("address add 172.17.0.1/16 dev bridge");
        ip("link set bridge up");
        ip("link set container up");
        let told = next(events).await;
        assert!(matches!(&told, Event::AddressesChanged(n) if n.addresses.len() == 2), "{told:?}");
        ip("link del bridge");
        let told = next(events).await;
        assert!(matches!(&told, Event::AddressesChanged(n) if n.addresses.len() == 1), "{told:?}");

        ip("address add 192.168.1.6/24 dev lan");
        let told = next(events).await;
        assert!(matches!(told, Event::AddressesChanged(_)), "{told:?}");
        ip("address del 192.168.1.6/24 dev lan");
        let told = next(events).await;
        assert!(matches!(told, Event::NetworkChange(_)), "{told:?}");
    });
}

#[test]
fn a_link_that_was_lost_is_a_change_even_if_all_is_as_before() {
    Lab::new().run(async |events, _| {
        let before = addresses(events.network());
        ip("link set lan-peer down");
        network_until(events, |network| network.addresses.is_empty()).await;
        ip("link set lan-peer up");
        network_until(events, |network| addresses(network) == before).await;

        // Too quick to be seen missing.
        let network = events.network().clone();
        ip("link set lan-peer down");
        ip("link set lan-peer up");
        network_until(events, |n| addresses(n) == before && *n != network).await;
    });
}

#[test]
fn our_own_interface_and_renewed_leases_are_no_change() {
    Lab::new().run(async |events, _| {
        ip("address add 100.64.0.7/32 dev tun");
        ip("address add fd00:2021:1111::7/128 dev tun");
        ip("route add 10.0.0.0/8 dev tun");
        ip("route add default dev tun table 539098370");
        ip("rule add not fwmark 0xfd002021 lookup 539098370");
        expect_quiet(events).await;
        ip("link set tun mtu 1400");
        ip("link set tun down");
        expect_quiet(events).await;
        ip("link del tun");
        ip("link add tun type veth peer name tun-peer");
        ip("link set tun-peer up");
        ip("link set tun up");
        ip("address add 100.64.0.7/32 dev tun");
        expect_quiet(events).await;

        ip("address change 192.168.1.5/24 dev lan valid_lft 600 preferred_lft 600");
        ip("route add 10.1.0.0/16 via 192.168.1.1");
        expect_quiet(events).await;
        // They would have been noticed elsewhere.
        ip("address add 192.168.1.6/24 dev lan");
        network_until(events, |network| network.addresses.len() == 2).await;
    });
}

#[test]
fn dns_servers_change_in_place_and_by_replacement() {
    Lab::new().run(async |events, path| {
        assert_eq!(events.resolvers(), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(path, "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(servers(next(events).await), ["192.0.2.2:53"]);

        for i in 3..6 {
            let new = path.with_extension("new");
            fs::write(&new, format!("nameserver 192.0.2.{i}\n")).unwrap();
            fs::rename(&new, path).unwrap();
            assert_eq!(servers(next(events).await), [format!("192.0.2.{i}:53")]);
        }
        fs::remove_file(path).unwrap();
        assert_eq!(servers(next(events).await), [] as [&str; 0]);
        fs::write(path, "nameserver 192.0.2.7\n").unwrap();
        assert_eq!(servers(next(events).await), ["192.0.2.7:53"]);
        expect_quiet(events).await;
    });
}

#[test]
fn dns_servers_change_behind_a_symbolic_link() {
    let lab = Lab::new();
    let behind = tempfile::tempdir().unwrap();
    let target = behind.path().join("stub-resolv.conf");
    fs::write(&target, "nameserver 192.0.2.1\n").unwrap();
    fs::remove_file(lab.resolv_conf()).unwrap();
    symlink(&target, lab.resolv_conf()).unwrap();
    lab.run(async |events, path| {
        for i in 2..4 {
            let new = target.with_extension("new");
            fs::write(&new, format!("nameserver 192.0.2.{i}\n")).unwrap();
            fs::rename(&new, &target).unwrap();
            assert_eq!(servers(next(events).await), [format!("192.0.2.{i}:53")]);
        }
        // The link leads elsewhere, and things happen there.
        let other = tempfile::tempdir().unwrap();
        let target = other.path().join("resolv.conf");
        fs::write(&target, "nameserver 192.0.2.7\n").unwrap();
        let new = path.with_extension("new");
        symlink(&target, &new).unwrap();
        fs::rename(&new, path).unwrap();
        assert_eq!(servers(next(events).await), ["192.0.2.7:53"]);
        fs::write(&target, "nameserver 192.0.2.8\n").unwrap();
        assert_eq!(servers(next(events).await), ["192.0.2.8:53"]);
        // A file in the link's place, as when systemd-resolved is switched off.
        fs::remove_file(path).unwrap();
        fs::write(path, "nameserver 192.0.2.9\n").unwrap();
        assert_eq!(servers(next(events).await), ["192.0.2.9:53"]);
    });
}

#[test]
fn a_file_that_is_a_mount_is_watched_and_written_like_any_other() {
    let lab = Lab::new();
    // As container runtimes do: the file lies somewhere else, and is written there.
    let elsewhere = lab.folder.path().join("elsewhere");
    fs::write(&elsewhere, "nameserver 192.0.2.1\n").unwrap();
    let mount_point = tempfile::tempdir().unwrap();
    let path = mount_point.path().join("resolv.conf");
    fs::write(&path, "").unwrap();
    lab.host.run_async(async || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        mount(Some(&elsewhere), &path, nothing, MsFlags::MS_BIND, nothing).unwrap();

        let mut events = Events::new("tun", &path).unwrap();
        fs::write(&elsewhere, "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(servers(next(&mut events).await), ["192.0.2.2:53"]);

        let mut control = DnsControl::with_resolv_conf(&path).unwrap();
        let sentinel = vec!["100.100.111.1".parse().unwrap()];
        control.set(&Settings { servers: sentinel, search_domain: None }).await.unwrap();
        assert!(fs::read_to_string(&elsewhere).unwrap().contains("100.100.111.1"));
        control.revert().await.unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "nameserver 192.0.2.2\n");
    });
}

#[test]
fn our_own_dns_settings_and_files_beside_are_no_change() {
    Lab::new().run(async |events, path| {
        let mut control = DnsControl::with_resolv_conf(path).unwrap();
        let servers = vec!["100.100.111.1".parse().unwrap()];
        control.set(&Settings { servers, search_domain: None }).await.unwrap();
        expect_quiet(events).await;
        fs::write(path.with_file_name("hosts"), "").unwrap();
        control.revert().await.unwrap();
        expect_quiet(events).await;
    });
}
