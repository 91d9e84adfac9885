//! Records of private names that are no addresses: the gateway asks its resolvers for them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use connlib_e2e::{Namespace, Scenario, Setup, scenario};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};

const DEADLINE: Duration = Duration::from_secs(15);

#[test]
fn srv_and_txt_are_answered_by_udp_and_tcp_over_both_families() {
    // Names of services are two labels below their domain.
    let policy = scenario::POLICY.replace("\"*.office", "\"**.office");
    let scenario = Scenario::start(Setup { policy, ..Setup::default() }).unwrap();
    let client = &scenario.network.client;
    let sentinels = resolvers(client);
    assert!(sentinels.iter().any(IpAddr::is_ipv4) && sentinels.iter().any(IpAddr::is_ipv6));
    for sentinel in sentinels {
        for ask in [by_udp, by_tcp] {
            let texts = ask(client, sentinel, "about.office.example.", RecordType::TXT);
            assert_eq!(records(&texts), ["the office"], "{sentinel}");
            let services = ask(client, sentinel, "_web._tcp.office.example.", RecordType::SRV);
            assert_eq!(records(&services), ["1 2 80 web.office.example."], "{sentinel}");
        }
    }
    let sentinel = resolvers(client)[0];
    let missing = by_udp(client, sentinel, "nobody.office.example.", RecordType::TXT);
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    scenario.finish().unwrap();
}

/// What the system's programs ask: the client's sentinels.
fn resolvers(namespace: &Namespace) -> Vec<IpAddr> {
    let text = fs::read_to_string(namespace.resolv_conf()).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok()).collect()
}

fn by_udp(client: &Namespace, server: IpAddr, name: &str, kind: RecordType) -> Message {
    let query = query(name, kind);
    let ask = || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.connect(SocketAddr::new(server, 53)).unwrap();
        socket.send(&query).unwrap();
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{server} {name}: {e}"));
        Message::from_vec(&buffer[..len]).unwrap()
    };
    client.enter(ask).unwrap()
}

fn by_tcp(client: &Namespace, server: IpAddr, name: &str, kind: RecordType) -> Message {
    let query = query(name, kind);
    let ask = || {
        let mut stream = TcpStream::connect(SocketAddr::new(server, 53)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = u16::try_from(query.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &query].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap_or_else(|e| panic!("{server} {name}: {e}"));
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    };
    client.enter(ask).unwrap()
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn records(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}
