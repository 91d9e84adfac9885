//! What an administrator meets when the interface is made.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use crate::namespace::{add_addresses, block_on, enter, in_namespace, in_thread, ip, within};
use connlib_net::tun::{Framing, LinkSettings, Offloads, Tun, TunError};
use connlib_packet::build;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

#[test]
fn all_offloads_that_the_kernel_knows_are_on_unless_turned_off() {
    in_namespace(async || {
        let tun = Tun::open("tun0", Offloads::ALL).unwrap();
        assert_eq!(tun.framing(), Framing::Virtio(Offloads::ALL));
        assert!(tun.coalesce().tcp && tun.coalesce().udp);
        let tun = Tun::open("tun1", Offloads::TCP).unwrap();
        assert_eq!(tun.framing(), Framing::Virtio(Offloads::TCP));
        assert!(tun.coalesce().tcp && !tun.coalesce().udp);
        let tun = Tun::open("tun2", Offloads::NONE).unwrap();
        assert_eq!(tun.framing(), Framing::Virtio(Offloads::NONE));
        assert!(!tun.coalesce().tcp && !tun.coalesce().udp);
    });
}

#[test]
fn one_process_at_a_time() {
    in_namespace(async || {
        let first = Tun::open("tun0", Offloads::ALL).unwrap();
        let error = Tun::open("tun0", Offloads::ALL).unwrap_err();
        assert!(matches!(&error, TunError::Busy { name } if name == "tun0"));
        assert!(error.to_string().contains("tun0 is in use by another process"), "{error}");
        drop(first);
        // A child process that another test is just starting may have the descriptor for a moment.
        within(async {
            while let Err(error) = Tun::open("tun0", Offloads::ALL) {
                assert!(matches!(error, TunError::Busy { .. }), "{error}");
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}

#[test]
fn an_interface_of_another_kind_is_left_alone() {
    in_namespace(async || {
        ip("link add veth0 type veth peer name veth1");
        let error = Tun::open("veth0", Offloads::ALL).unwrap_err();
        assert!(matches!(&error, TunError::OtherKind { name } if name == "veth0"), "{error}");
        // With several queues, somebody else could take packets away.
        ip("tuntap add mode tun multi_queue name many");
        let error = Tun::open("many", Offloads::ALL).unwrap_err();
        assert!(matches!(error, TunError::OtherKind { .. }), "{error}");
        let error = Tun::open("a-name-too-long-for-linux", Offloads::ALL).unwrap_err();
        assert!(matches!(error, TunError::Name { .. }), "{error}");
    });
}

#[test]
fn without_the_right_to_it_the_error_names_the_capability() {
    in_thread(|| {
        enter(CloneFlags::CLONE_NEWNET);
        become_nobody();
        block_on(async {
            let error = Tun::open("tun0", Offloads::ALL).unwrap_err();
            assert!(matches!(error, TunError::Permission(_)), "{error}");
            assert!(error.to_string().contains("CAP_NET_ADMIN"));
        });
    });
}

#[test]
fn a_missing_node_is_made_where_that_is_allowed() {
    in_thread(|| {
        enter(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS);
        hide("/dev");
        block_on(async {
            Tun::open("tun0", Offloads::ALL).unwrap();
            let node = fs::metadata("/dev/net/tun").unwrap();
            assert!(node.file_type().is_char_device());
            assert_eq!(node.permissions().mode() & 0o077, 0, "for the owner alone");
        });
    });
}

#[test]
fn a_missing_node_that_cannot_be_made_is_named() {
    in_thread(|| {
        enter(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS);
        hide("/dev");
        become_nobody();
        block_on(async {
            let error = Tun::open("tun0", Offloads::ALL).unwrap_err();
            assert!(matches!(error, TunError::NoDriver(_)), "{error}");
            assert!(error.to_string().contains("/dev/net/tun"));
        });
    });
}

#[test]
fn the_link_gets_its_attributes() {
    in_namespace(async || {
        let _tun = Tun::open("tun0", Offloads::ALL).unwrap();
        LinkSettings::default().apply("tun0").unwrap();
        let link = ip("-d link show tun0");
        for expected in ["UP", "mtu 1280", "qlen 1000", "addrgenmode none"] {
            assert!(link.contains(expected), "{expected}: {link}");
        }
        assert_eq!(ip("-6 addr show dev tun0"), "", "no link-local address");

        LinkSettings { mtu: 1400, tx_queue_length: 77 }.apply("tun0").unwrap();
        let link = ip("-d link show tun0");
        for expected in ["mtu 1400", "qlen 77"] {
            assert!(link.contains(expected), "{expected}: {link}");
        }
        let error = LinkSettings::default().apply("tun1").unwrap_err();
        assert!(matches!(error, TunError::Os { .. }), "{error}");
    });
}

#[test]
fn a_packet_before_the_link_is_up_is_lost_and_the_next_is_not() {
    in_namespace(async || {
        let mut tun = Tun::open("tun0", Offloads::ALL).unwrap();
        let mut packet = [0; 100];
        let remote: SocketAddr = "198.51.100.2:1".parse().unwrap();
        let length =
            build::udp(&mut packet, remote, "198.51.100.1:2".parse().unwrap(), b"hello").unwrap();
        let error = tun.write_packet(&packet[..length]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));

        LinkSettings::default().apply("tun0").unwrap();
        add_addresses("tun0", "198.51.100.1/24");
        let socket = tokio::net::UdpSocket::bind("198.51.100.1:2").await.unwrap();
        tun.write_packet(&packet[..length]).unwrap();
        let mut buffer = [0; 10];
        let received = within(socket.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..received.0], received.1), (&b"hello"[..], remote));
    });
}

#[test]
fn a_deleted_interface_ends_reading_and_writing() {
    in_namespace(async || {
        let mut tun = Tun::open("tun0", Offloads::ALL).unwrap();
        LinkSettings::default().apply("tun0").unwrap();
        ip("link del tun0");
        let error = within(tun.readable()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error:?}");
        let error = tun.write_packet(&[0x45; 40]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error:?}");
    });
}

/// Covers a directory with an empty one, for the calling thread alone.
fn hide(directory: &str) {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), none).unwrap();
}

/// Gives up root, for the calling thread alone: the C library would do it for all threads.
fn become_nobody() {
    const NOBODY: libc::c_long = 65534;
    // SAFETY: takes three numbers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(result, 0, "setresuid: {}", std::io::Error::last_os_error());
}
