//! The helper's web server and name server, asked by programs that we did not write.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream, UdpSocket},
    time::Duration,
};

use connlib_e2e::{Lab, Namespace, Process, payload::Payload};
use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};

const DEADLINE: Duration = Duration::from_secs(5);

fn two_nodes(lab: &Lab) -> (Namespace, Namespace) {
    let client = lab.namespace("client").unwrap();
    let server = lab.namespace("server").unwrap();
    let addresses = (&["192.0.2.1/24", "2001:db8::1/64"], &["192.0.2.2/24", "2001:db8::2/64"]);
    lab.cable((&client, "eth0", addresses.0), (&server, "eth0", addresses.1)).unwrap();
    (client, server)
}

fn serve_names(server: &Namespace) -> Process {
    let mut process = server
        .command("connlib-e2e-helper")
        .args(["dns", "--listen", "192.0.2.2:53", "--listen", "[2001:db8::2]:53"])
        .args(["--record", "web.example A 192.0.2.2", "--record", "web.example AAAA 2001:db8::2"])
        .args([
            "--record",
            "www.example CNAME web.example",
            "--record",
            "*.apps.example A 192.0.2.9",
        ])
        .args(["--record", "2.2.0.192.in-addr.arpa PTR web.example"])
        .args(["--record", "_web._tcp.example SRV 1 2 80 web.example"])
        .args(["--record", &format!("long.example TXT {}", "x".repeat(200))])
        .args(["--record", &format!("long.example TXT {}", "y".repeat(200))])
        .args(["--record", &format!("long.example TXT {}", "z".repeat(200))])
        .spawn("dns")
        .unwrap();
    process.wait_for("listening", DEADLINE).unwrap();
    process
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Query;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn ask_udp(client: &Namespace, name: &str, kind: RecordType) -> Message {
    let socket = client.enter(|| UdpSocket::bind("192.0.2.1:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send_to(&query(name, kind), "192.0.2.2:53").unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

fn answers(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn names_of_every_kind() {
    let lab = Lab::new().unwrap();
    let (client, server) = two_nodes(&lab);
    let _dns = serve_names(&server);

    let cases = [
        ("web.example.", RecordType::A, vec!["192.0.2.2"]),
        ("WEB.Example.", RecordType::AAAA, vec!["2001:db8::2"]),
        ("www.example.", RecordType::A, vec!["web.example.", "192.0.2.2"]),
        ("a.b.apps.example.", RecordType::A, vec!["192.0.2.9"]),
        ("a.apps.example.", RecordType::AAAA, vec![]),
        ("2.2.0.192.in-addr.arpa.", RecordType::PTR, vec!["web.example."]),
        ("_web._tcp.example.", RecordType::SRV, vec!["1 2 80 web.example."]),
    ];
    for (name, kind, expected) in cases {
        let response = ask_udp(&client, name, kind);
        assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{name}");
        assert_eq!(answers(&response), expected, "{name} {kind}");
    }
    let missing = ask_udp(&client, "missing.example.", RecordType::A);
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn a_long_answer_over_tcp() {
    let lab = Lab::new().unwrap();
    let (client, server) = two_nodes(&lab);
    let _dns = serve_names(&server);

    let short = ask_udp(&client, "long.example.", RecordType::TXT);
    assert!(short.metadata.truncation && short.answers.is_empty());

    let mut stream = client.enter(|| TcpStream::connect("192.0.2.2:53")).unwrap().unwrap();
    let query = query("long.example.", RecordType::TXT);
    stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&query).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut response = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut response).unwrap();
    assert_eq!(Message::from_vec(&response).unwrap().answers.len(), 3);
}

#[test]
fn the_system_resolver_asks_it() {
    let lab = Lab::new().unwrap();
    let (client, server) = two_nodes(&lab);
    let _dns = serve_names(&server);
    client.set_resolvers(&["192.0.2.2".parse::<IpAddr>().unwrap()]).unwrap();

    let output = client.command("getent").args(["ahostsv6", "web.example"]).run().unwrap();
    assert!(output.starts_with("2001:db8::2 "), "{output}");
    let output = client.command("getent").args(["hosts", "192.0.2.2"]).run().unwrap();
    assert!(output.trim_end().ends_with("web.example"), "{output}");
}

#[test]
fn pages_downloads_and_uploads() {
    const LENGTH: u64 = 5_000_001;

    let lab = Lab::new().unwrap();
    let (client, server) = two_nodes(&lab);
    let mut http = server
        .command("connlib-e2e-helper")
        .args(["http", "--listen", "192.0.2.2:80", "--listen", "[2001:db8::2]:80"])
        .args(["--page", "hello from the web server"])
        .spawn("http")
        .unwrap();
    http.wait_for("listening", DEADLINE).unwrap();

    let curl = || client.command("curl").args(["-q", "--silent", "--show-error", "--fail"]);
    assert_eq!(curl().arg("http://192.0.2.2/").run().unwrap(), "hello from the web server\n");
    assert_eq!(curl().arg("http://[2001:db8::2]/").run().unwrap(), "hello from the web server\n");
    curl().arg("http://192.0.2.2/missing").run().unwrap_err();

    let mut expected = Vec::new();
    Payload::new(LENGTH).read_to_end(&mut expected).unwrap();
    let url = format!("http://192.0.2.2/bytes/{LENGTH}");
    assert!(curl().arg(url).output().unwrap().stdout == expected, "the download differs");

    let file = lab.directory().join("upload");
    std::fs::write(&file, expected).unwrap();
    let sum = curl().arg("-T").arg(&file).arg("http://[2001:db8::2]/").run().unwrap();
    assert_eq!(sum.trim(), Payload::sha256(LENGTH));
}
